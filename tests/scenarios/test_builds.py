"""PROMISES scenarios 12 and 13: a store that goes back in time, and two builds side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import text
from tables import started

from samesession._bridge import ready
from samesession.lab import engines
from samesession.record import Key, Record
from samesession.store import Store
from samesession.stores.memcached import MemcachedStore
from samesession.stores.redis import RedisStore
from samesession.stores.sql import SqlStore
from samesession.strategies import strategy_of
from samesession.testing import changed
from scenarios.browser import Browser
from scenarios.conftest import Browsers, Figure
from scenarios.site import PROVE, Site, Sites

KINDS = ["redis", "postgresql", *(["sqlite", "memcached"] if PROVE else [])]
ROUNDS = 20 if PROVE else 3


def backed_up(store: Store, key: Key) -> Callable[[], object]:
    """Take a record's bytes as they are in the engine; the answer puts them back."""
    if isinstance(store, RedisStore):
        name, call = store._session + key, store._wire.call
        raw = ready(call("DUMP", name))
        return lambda: ready(call("RESTORE", name, 0, raw, "REPLACE"))
    if isinstance(store, MemcachedStore):
        name, memcached = store._prefix + key, store._wire
        found = ready(memcached.gets(name))
        assert found is not None

        def put_back() -> None:
            now = ready(memcached.gets(name))
            assert now is not None
            assert ready(memcached.cas(name, found[0], 600, now[1]))

        return put_back
    assert isinstance(store, SqlStore)
    wire = store._wire
    [row] = ready(wire.rows(text("SELECT version, data FROM samesession WHERE id = :key"), key=key))
    back = text("UPDATE samesession SET version = :version, data = :data WHERE id = :key")
    return lambda: ready(wire.change(back, key=key, version=row[0], data=row[1]))


# --- 12. the store goes back in time --------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_went_back_is_served_as_the_loss_that_it_is_and_gone_on_from(
    kind: str, sites: Sites, browsers: Browsers, figure: Figure
) -> None:
    """No copy is there to repair it from; nobody is signed out, nobody gets 503 for ever."""
    site = sites[kind]
    url = f"{site.fleet.engine_url}?deadline=10s" if site.engine else site.store_url
    store, counted = strategy_of(url).open_threads(), 0
    for number in range(ROUNDS):
        ann = browsers(site)
        ann.login(f"ann{number}", "s1")
        while ann.read("s1")["version"] < 5:
            ann.put("n", ann.read("s1")["version"], "s1")
        before = ann.read("s1")
        put_back = backed_up(store, before["handle"])
        ann.put("n", "newer", "s2")
        ann.put("n", "newest", "s3")
        assert ann.read("s1")["version"] == 7
        put_back()
        known = site.all_counts()["lost"]
        for at in ("s2", "s3", "s1"):
            seen = ann.read(at)
            assert (seen["principal"], seen["data"]) == (f"ann{number}", before["data"])
            assert seen["version"] == 7  # what the browser has seen stays seen
        counted += site.all_counts()["lost"] - known
        assert counted >= 3 * (number + 1)
        assert ann.put("n", "gone on", "s2").json()["version"] > 7
        for seen in ann.everywhere():
            assert seen["data"] == {"n": "gone on"}
            assert seen["version"] > 7
    ready(store.close())
    figure(
        f"12 store restored at version 5, cookie at 7: served and counted {counted} times, next "
        f"version above 7, no 503, {ROUNDS} of {ROUNDS}"
    )


# --- 13. rolling deploy ---------------------------------------------------------------------------

OLD_KEY, NEW_KEY = "o" * 48, "n" * 48
UNKNOWN = b"\xd4\x63\x01"  # msgpack's extension 99, which a later build may have
BROKEN = b"\xc1\xc1"  # no msgpack at all


class Builds:
    """Servers of several builds over one store, as a balancer would have them meanwhile."""

    shared = True

    def __init__(self, **sites: Site) -> None:
        self.urls = {name: site.fleet.server_url("s1") for name, site in sites.items()}

    @property
    def doors(self) -> tuple[str, ...]:
        return tuple(self.urls)

    def door(self, name: str | None = None) -> str:
        return self.urls[name or self.doors[0]]


@pytest.fixture(params=KINDS)
def shared_url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "redis":
        with engines.start() as engine:
            yield f"{engine.url}?deadline=3s"
        return
    with started(request.param) as (url, _):
        yield f"{url}?deadline=3s"


def test_two_builds_side_by_side_keep_what_they_do_not_know(
    shared_url: str, browsers: Browsers, figure: Figure
) -> None:
    """New keys are verified everywhere, then used to sign; a corrupt one costs only itself."""
    with ExitStack() as stack:

        def site(keys: str) -> Site:
            env = {"SAMESESSION_KEYS": keys}
            return stack.enter_context(Site(shared_url, servers=1, env=env))

        old, between, new = (
            site(OLD_KEY),
            site(f"{OLD_KEY} {NEW_KEY}"),
            site(f"{NEW_KEY} {OLD_KEY}"),
        )
        first: Any = Builds(old=old, between=between)
        then: Any = Builds(between=between, new=new)
        ann, bob = browsers(first), browsers(first)
        ann.login("ann", "old")
        ann.put("basket", "tea", "between")
        bob.login("bob", "between")
        store = strategy_of(shared_url).open_threads()
        handle = ann.read("old")["handle"]
        ready(store.commit(changed(handle, future=UNKNOWN, broken=BROKEN)))

        def kept() -> dict[str, bytes]:
            record = ready(store.load(handle))
            assert isinstance(record, Record)
            return dict(record.values)

        for at in first.doors:
            seen = ann.read(at)
            assert (seen["principal"], seen["data"].get("basket")) == ("ann", "tea")
            assert not {"future", "broken"} & set(seen["data"])
            ann.put(f"from {at}", 1, at)
        assert {"future": UNKNOWN, "broken": BROKEN}.items() <= kept().items()
        assert old.counts()["corrupt"] >= 2
        ann.rotate("between")
        handle = ann.read("old")["handle"]
        assert {"future": UNKNOWN, "broken": BROKEN}.items() <= kept().items()

        # The old build has gone; the new key signs from now on.
        before = ann.cookie
        late = Browser(then)
        late.http.cookies.update(ann.http.cookies)
        late.put("from new", 1, "new")
        assert late.cookie != before
        for at in then.doors:
            seen = late.read(at)
            assert seen["principal"] == "ann"
            assert seen["data"] == {
                "basket": "tea",
                "from old": 1,
                "from between": 1,
                "from new": 1,
            }
        sleeper = Browser(then)  # bob slept through it all
        sleeper.http.cookies.update(bob.http.cookies)
        assert {seen["principal"] for seen in sleeper.everywhere()} == {"bob"}
        late.put("broken", "mended", "new")
        assert late.read("between")["data"]["broken"] == "mended"
        assert kept()["future"] == UNKNOWN
        for browser in (late, sleeper):
            browser.close()
        ready(store.close())
        assert [line for one in (old, between, new) for line in one.complaints()] == []
    figure(
        "13 two builds, new keys, one corrupted: all answered 200, 0 logouts, unknown bytes kept"
    )
