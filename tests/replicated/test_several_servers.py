"""Sentinels and clusters of real engines: whoever serves a key is found, and found again."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from samesession._bridge import ready
from samesession.errors import StoreUnavailableError
from samesession.lab import engines
from samesession.lab.engines import Engine, ask
from samesession.lab.replicated import Cluster, Sentinelled, eventually
from samesession.record import Applied, Key, Mark, Record
from samesession.store import Store
from samesession.stores.listing import keys_of
from samesession.stores.redis_topology import slot_of
from samesession.strategies import strategy_of
from samesession.testing import changed, created, ending, fresh_key

PATIENT_S = 40.0
prove = pytest.mark.skipif(
    os.environ.get("SAMESESSION_PROVE") != "1", reason="test_failover.py kills one: make prove"
)
Work = Callable[[Store], Awaitable[None]]


def both(url: str, work: Work) -> None:
    """Do the work on a loop, and in a thread."""

    async def on_a_loop() -> None:
        store = strategy_of(url).open_loop()
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(on_a_loop())
    store = strategy_of(url).open_threads()
    try:
        ready(work(store))  # type: ignore[arg-type]
    finally:
        ready(store.close())


async def pause(store: Store, seconds: float) -> None:
    if store.suspends:
        await asyncio.sleep(seconds)
    else:
        time.sleep(seconds)


async def served_again(store: Store, key: Key) -> float:
    """Commit until it is answered; how long that took."""
    began = time.monotonic()
    while True:
        try:
            outcome = await store.commit(changed(key, again=b"1"))
        except StoreUnavailableError:
            assert time.monotonic() - began < PATIENT_S
            await pause(store, 0.02)
        else:
            assert isinstance(outcome, Applied)
            return time.monotonic() - began


async def caught_up(store: Store, primary: Engine, replica: Engine) -> None:
    """Wait until a replica has everything that its primary has now."""
    wanted = offset(primary, "master_repl_offset")
    began = time.monotonic()
    while offset(replica, "slave_repl_offset") < wanted:
        assert time.monotonic() - began < PATIENT_S
        await pause(store, 0.01)


def offset(engine: Engine, name: str) -> int:
    found = re.search(rf"{name}:(\d+)", ask(engine.port, "INFO", "replication"))
    return int(found[1]) if found else -1


def key_in(first: int, last: int) -> Key:
    """A fresh key whose record has a slot from first to last."""
    while True:
        key = fresh_key()
        if first <= slot_of(f"samesession:s:{key}") <= last:
            return key


# -- sentinels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hurt", ["freeze", pytest.param("kill", marks=prove)])
def test_a_replica_that_took_over_is_found(
    hurt: str, record_property: Callable[[str, object], None]
) -> None:
    """By a loop and by a thread, which both have used the primary before."""
    keys = {"loop": fresh_key(), "thread": fresh_key()}
    connected, hurt_now = threading.Barrier(3), threading.Event()

    async def work(store: Store) -> None:
        way = "loop" if store.suspends else "thread"
        await store.commit(created(keys[way], a=b"1"))
        connected.wait(PATIENT_S)
        hurt_now.wait(PATIENT_S)
        took_s = await served_again(store, keys[way])
        found = await store.load(keys[way])
        assert isinstance(found, Record)
        assert found.values == {"a": b"1", "again": b"1"}
        record_property("figure", f"E sentinels, {hurt}, {way}: served again after {took_s:.2f} s")

    with Sentinelled(down_after_ms=300) as several, ThreadPoolExecutor(2) as threads:
        strategy = strategy_of(several.url)
        works = [
            threads.submit(asyncio.run, _closing(several.url, work)),
            threads.submit(ready, work(strategy.open_threads())),
        ]
        connected.wait(PATIENT_S)
        eventually(
            lambda: (
                offset(several.replica, "slave_repl_offset")
                >= offset(several.primary, "master_repl_offset")
            ),
            "the replica lags",
        )
        getattr(several.primary, hurt)()
        hurt_now.set()
        for done in works:
            done.result()
        assert "role:master" in ask(several.replica.port, "INFO", "replication")


async def _closing(url: str, work: Work) -> None:
    store = strategy_of(url).open_loop()
    try:
        await work(store)
    finally:
        await store.close()


@pytest.fixture(scope="module")
def sentinelled() -> Iterator[Sentinelled]:
    words = {"requirepass": '"s3cret"', "user": "shop on >w0rd ~* &* +@all"}
    with Sentinelled(settings=words, sentinel_settings={"requirepass": '"wat:cher"'}) as several:
        yield several


def with_words(url: str) -> str:
    return url.replace("://", "://shop:w0rd@") + "/1?sentinel_password=wat%3Acher&deadline=10s"


def test_a_user_signs_in_to_the_servers_and_to_the_sentinels(sentinelled: Sentinelled) -> None:
    async def work(store: Store) -> None:
        key = fresh_key()
        await store.commit(created(key, a=b"1"))
        assert isinstance(await store.load(key), Record)

    both(with_words(sentinelled.url), work)


def test_a_dead_sentinel_is_passed_over(sentinelled: Sentinelled) -> None:
    async def work(store: Store) -> None:
        assert await store.load(fresh_key()) is None

    sentinelled.sentinels[0].freeze()
    try:
        both(with_words(sentinelled.url).replace("deadline=10s", "deadline=3s"), work)
    finally:
        sentinelled.sentinels[0].thaw()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("/shop", "/shup"), "knows of no such primary"),
        (("wat%3Acher", "nobody"), "invalid username-password pair"),
        (("w0rd", "word"), "invalid username-password pair"),
    ],
)
def test_what_is_wrong_is_told(sentinelled: Sentinelled, wrong: tuple[str, str], told: str) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(StoreUnavailableError, match=told):
            await store.load(fresh_key())

    both(with_words(sentinelled.url).replace(*wrong), work)


def test_a_primary_that_was_demoted_loses_its_clients(sentinelled: Sentinelled) -> None:
    """An answer READONLY says so, even where no connection breaks."""

    async def work(store: Store) -> None:
        key = fresh_key()
        await store.commit(created(key, a=b"1"))
        # One second as a replica, before the sentinels see it and set it right: no connection of
        # a client breaks by that, since the engine keeps them.
        word = {"password": "s3cret"}
        ask(sentinelled.primary.port, "REPLICAOF", "127.0.0.1", "1", **word)
        with pytest.raises(StoreUnavailableError):
            await store.commit(changed(key, b=b"1"))
        ask(sentinelled.primary.port, "REPLICAOF", "NO", "ONE", **word)
        await served_again(store, key)

    both(with_words(sentinelled.url).replace("deadline=10s", "deadline=1s"), work)


# -- clusters --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as several:
        yield several


def test_a_slot_that_moves_is_followed_before_and_after(cluster: Cluster) -> None:
    """ASK while it moves, MOVED afterwards; with scripts that the new server does not know."""

    async def work(store: Store) -> None:
        key = key_in(0, 5000)
        name = f"samesession:s:{key}"
        slot = str(slot_of(name))
        await store.commit(created(key, a=b"1"))
        first, second = cluster.nodes[:2]
        ids = [ask(node.port, "CLUSTER", "MYID").splitlines()[1] for node in (first, second)]
        ask(second.port, "SCRIPT", "FLUSH")
        assert ask(second.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0]) == "+OK\r\n"
        assert ask(first.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1]) == "+OK\r\n"
        assert isinstance(await store.commit(changed(key, b=b"1")), Applied)  # still there
        moving = ask(first.port, "MIGRATE", "127.0.0.1", str(second.port), name, "0", "5000")
        assert moving == "+OK\r\n"
        assert isinstance(await store.commit(changed(key, c=b"1")), Applied)  # ASK
        found = await store.load(key)
        assert isinstance(found, Record)
        assert sorted(found.values) == ["a", "b", "c"]
        for node in (second, first, cluster.nodes[2]):
            assert ask(node.port, "CLUSTER", "SETSLOT", slot, "NODE", ids[1]) == "+OK\r\n"
        assert isinstance(await store.commit(changed(key, d=b"1")), Applied)  # MOVED
        assert (await store.end(key, ending())).reason == "logout"
        assert isinstance(await store.load(key), Mark)

    both(f"{cluster.url}?deadline=10s", work)


def test_every_key_is_listed_once_server_after_server(cluster: Cluster) -> None:
    async def work(store: Store) -> None:
        keys = {key_in(first, first + 5400) for first in (0, 5462, 10923) for _ in range(7)}
        for key in keys:
            await store.commit(created(key, a=b"1"))
        listed, cursor = list[Key](), ""
        while True:
            page, cursor = await keys_of(store, cursor, 5)
            listed += page
            if not cursor:
                break
        assert keys <= set(listed)

    both(f"{cluster.url}?deadline=10s", work)


def test_one_server_of_a_cluster_by_a_url_for_one_server_says_so(cluster: Cluster) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(StoreUnavailableError, match=r"write redis\+cluster://"):
            await store.load(key_in(6000, 16383))

    both(f"redis://127.0.0.1:{cluster.nodes[0].port}?deadline=10s", work)


@pytest.mark.parametrize("way", ["loop", "threads"])
def test_the_slots_of_a_server_that_died_are_served_by_its_replica_and_the_others_all_along(
    cluster: Cluster, way: str, record_property: Callable[[str, object], None]
) -> None:
    number = {"loop": 1, "threads": 2}[way]

    async def work(store: Store) -> None:
        first = 16384 * number // 3
        hit, other = key_in(first, first + 5400), key_in(0, 5000)
        for key in (hit, other):
            await store.commit(created(key, a=b"1"))
        await caught_up(store, cluster.nodes[number], cluster.nodes[3 + number])
        cluster.nodes[number].kill()
        others = 0
        began = time.monotonic()
        while True:
            assert isinstance(await store.commit(changed(other, n=b"1")), Applied)
            others += 1
            try:
                await store.commit(changed(hit, again=b"1"))
                break
            except StoreUnavailableError:
                assert time.monotonic() - began < PATIENT_S
        record_property(
            "figure",
            f"E cluster, kill, {way}: served again after {time.monotonic() - began:.2f} s, "
            f"{others} commits to other servers meanwhile, 0 refused",
        )

    url = f"{cluster.url}?deadline=1s"
    if way == "loop":
        asyncio.run(_closing(url, work))
    else:
        ready(work(strategy_of(url).open_threads()))  # type: ignore[arg-type]
    cluster.nodes[number].restart()


# -- sockets and TLS -------------------------------------------------------------------------------


def test_a_unix_socket_serves_both(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        key = fresh_key()
        await store.commit(created(key, a=b"1"))
        assert isinstance(await store.load(key), Record)

    with engines.start(settings={"unixsocket": f"{tmp_path}/s"}):
        both(f"redis+unix://{tmp_path}/s?db=3&deadline=10s", work)
