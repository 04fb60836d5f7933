"""Old sessions in Redis move in: each library's real record, asked for over HTTP once switched."""

from __future__ import annotations

import asyncio
import pickle
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import itsdangerous
import pytest
import quart
import redis
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from aiohttp_session.nacl_storage import NaClCookieStorage
from cryptography.fernet import Fernet

from frameworks.old_sites import (
    OLD_SITES,
    Ask,
    OldSite,
    by_aiohttp_session,
    switched_aiohttp,
    unheard_of,
)
from samesession import Cookie, Session, Sessions
from samesession.adopt import (
    AiohttpFernetCookie,
    AiohttpNaClCookie,
    FlaskSessionRedis,
    QuartSessionRedis,
    StarsessionsRedis,
)
from samesession.errors import ConfigError
from samesession.lab.engines import Engine
from samesession.lab.engines import start as start_engine
from samesession.web._adopt import OldCookies
from samesession.web.quart import init_app

pytestmark = pytest.mark.anyio
DATA = {"user": "ann", "basket": ["tea"]}


@pytest.fixture(scope="module")
def old_engine() -> Iterator[Engine]:
    """The old Redis is another one than ours, so that it can fail alone."""
    with start_engine() as started:
        yield started


class Switched(NamedTuple):
    """A site that was switched while it ran."""

    old: OldSite
    ask: Ask
    sessions: Sessions
    url: str
    records: redis.Redis

    async def visitor(self, **data: Any) -> tuple[str, str]:
        """The cookie of somebody who was there before, and the name of the record."""
        return await self.old.written(self.url, data or DATA)


@pytest.fixture(params=OLD_SITES)
async def switched(
    request: pytest.FixtureRequest, engine: Engine, old_engine: Engine
) -> AsyncIterator[Switched]:
    old = OLD_SITES[request.param]
    sessions = Sessions.from_url(
        f"{engine.url}?prefix=adopt-{request.param}&deadline=5s",
        keys=["a key of the switched application, long enough"],
        cookie=Cookie(secure=False, name="ours"),
        adopt=[old.reader(f"{old_engine.url}?deadline=1s")],
        principal_key="user",
    )
    with redis.Redis.from_url(old_engine.url) as records:
        async with old.switched(sessions) as ask:
            yield Switched(old, ask, sessions, old_engine.url, records)
    await sessions.close()


def ours(cookies: list[str]) -> str:
    (cookie,) = [said for said in cookies if said.startswith("ours=")]
    return cookie.partition(";")[0]


async def test_the_session_moves_in_signed_in_and_its_cookie_is_expired(switched: Switched) -> None:
    cookie, name = await switched.visitor()
    before = switched.records.dump(name)
    answer = await switched.ask("/read", cookie)
    assert (answer.status, answer.body.items() >= DATA.items()) == (200, True)
    (gone,) = [said for said in answer.cookies if said.startswith(f"{switched.old.cookie}=;")]
    assert "Max-Age=0" in gone
    new = ours(answer.cookies)
    (held,) = switched.sessions.blocking.held_by("ann")
    again = await switched.ask("/read", new)
    assert (again.body, again.cookies) == (answer.body, [])
    assert switched.records.dump(name) == before, "the old store is only read"
    assert switched.sessions.counts["adopted"] == 1
    assert (await switched.ask("/read", f"{new}; {cookie}")).cookies == [], "ours counts"
    await switched.sessions.end(held.handle)


async def test_parallel_first_requests_meet_in_one_session(switched: Switched) -> None:
    cookie, _ = await switched.visitor()
    answers = await asyncio.gather(*(switched.ask(f"/set/k{n}", cookie) for n in range(8)))
    assert [answer.status for answer in answers] == [200] * 8
    for answer in answers:
        seen = await switched.ask("/read", ours(answer.cookies))
        assert seen.body.keys() >= {"user", "basket", *(f"k{n}" for n in range(8))}
    assert len(switched.sessions.blocking.held_by("ann")) == 1
    await switched.ask("/logout", ours(answers[0].cookies))


async def test_who_asks_while_it_moves_meets_the_same_session(old_engine: Engine) -> None:
    """A step at a time: whatever the other request has done in between."""
    old = OLD_SITES["starsessions"]
    cookie, _ = await old.written(old_engine.url, DATA)
    for between in range(1, 4):
        sessions = Sessions.from_url(
            "memory://",
            cookie=Cookie(secure=False, name="ours"),
            adopt=[StarsessionsRedis(old_engine.url)],
        )
        cookies = OldCookies(lambda s=sessions: s.old_loops, sessions.adopt, sessions.cookie, ())  # type: ignore[misc]
        store, met, calls = sessions.loops.store, [], 0
        load, commit = store.load, store.commit

        async def visit(to: Any = met, of: Sessions = sessions, by: OldCookies = cookies) -> None:
            session = await by.moved_in(await of.open(None), [cookie.encode()])
            assert session["user"] == "ann"
            await of.finish(session)
            to.append(session.handle)

        def stepping(step: Any, at: int = between, also: Any = visit) -> Any:
            async def stepped(*words: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == at:
                    await also()
                return await step(*words, **more)

            return stepped

        store.load, store.commit = stepping(load), stepping(commit)  # type: ignore[method-assign]
        await visit()
        assert len(met) == 2, between
        assert len(set(met)) == 1, between
        await sessions.close()


async def test_a_request_that_uses_no_session_does_not_use_the_old_one_up(
    old_engine: Engine,
) -> None:
    old = OLD_SITES["starsessions"]
    sessions = Sessions.from_url(
        "memory://",
        cookie=Cookie(secure=False, name="ours"),
        adopt=[StarsessionsRedis(old_engine.url)],
    )
    cookie, _ = await old.written(old_engine.url, DATA)
    core, hour_ms = sessions.loops, 3_600_000
    clock = core._clock
    async with old.switched(sessions) as ask:
        assert (await ask("/plain", cookie)).cookies == []
        # Longer than a session of ours idles.
        core._clock = core.commits.clock = lambda: clock() + hour_ms
        answer = await ask("/read", cookie)
        assert answer.body == DATA
        core._clock = core.commits.clock = lambda: clock() + 2 * hour_ms
        assert (await ask("/read", cookie)).body == {}, "now it was used, and has idled out"
    await sessions.close()


async def test_an_answer_that_got_lost_is_given_again(switched: Switched) -> None:
    cookie, _ = await switched.visitor(basket=["tea"])
    await switched.ask("/set/a", cookie)
    again = await switched.ask("/read", cookie)
    assert again.body.items() >= {"basket": ["tea"], "a": 1}.items()
    assert ours(again.cookies)
    assert switched.sessions.counts["adopted"] == 1


async def test_a_late_answer_does_not_replace_the_cookie_of_a_login(switched: Switched) -> None:
    cookie, _ = await switched.visitor(basket=["tea"])
    sessions = switched.sessions
    old = OldCookies(lambda: sessions.old_loops, sessions.adopt, sessions.cookie, ("user",))

    async def opened() -> Session:
        return await old.moved_in(await sessions.open(None), [cookie.encode()])

    slow, quick = await opened(), await opened()
    assert slow["basket"] == ["tea"]
    quick["user"] = "ann"
    await sessions.finish(quick)
    await sessions.finish(slow)
    assert slow._life.cookie is None
    assert quick._life.cookie
    await sessions.end_all("ann")


async def test_logged_out_it_does_not_come_back(switched: Switched, engine: Engine) -> None:
    cookie, _ = await switched.visitor()
    answer = await switched.ask("/read", cookie)
    gone = await switched.ask("/logout", ours(answer.cookies))
    assert "Max-Age=0" in gone.cookies[0]
    assert (await switched.ask("/read", cookie)).body == {}
    late = await switched.ask("/set/a", cookie)
    assert (late.status, late.cookies) == (503, []), "a moment later it may be a late answer (S6)"
    with redis.Redis.from_url(engine.url) as ours_too:  # as 30 s later, when the marks are gone
        for key in ours_too.scan_iter("adopt-*:s:*"):
            if ours_too.hexists(key, "e"):
                ours_too.delete(key)
    late = await switched.ask("/read", cookie)
    assert (late.body, late.cookies) == ({}, [])
    assert switched.sessions.blocking.held_by("ann") == []


async def test_a_logout_as_the_first_request_counts_too(switched: Switched) -> None:
    cookie, _ = await switched.visitor()
    answer = await switched.ask("/logout", cookie)
    assert answer.body == {}
    assert any(said.startswith(f"{switched.old.cookie}=;") for said in answer.cookies)
    assert (await switched.ask("/read", cookie)).body == {}


async def test_a_record_that_has_gone_means_a_stranger(switched: Switched) -> None:
    cookie, name = await switched.visitor()
    switched.records.copy(name, f"{switched.old.prefix}an:other-key-of-this-redis")
    planted = f"{switched.old.cookie}=an:other-key-of-this-redis"
    assert (await switched.ask("/read", planted)).body == {}, "no name that it never gave out"
    switched.records.set(name, b"{}")
    answer = await switched.ask("/read", cookie)
    assert (answer.body, answer.cookies) == ({}, []), "nothing is made for nothing"
    switched.records.delete(name)
    for value in (cookie, unheard_of(switched.old), f"{switched.old.cookie}=../../x"):
        answer = await switched.ask("/read", value)
        assert (answer.status, answer.body, answer.cookies) == (200, {}, [])


async def test_a_pickle_is_never_opened(switched: Switched, tmp_path: Path) -> None:
    class Poison:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    poisons = [pickle.dumps({"a": Poison()}, protocol) for protocol in range(6)]
    pickle.loads(poisons[0])
    assert (tmp_path / "executed").exists(), "it would, if anybody opened it"
    (tmp_path / "executed").unlink()
    for count, raw in enumerate(poisons, 1):
        cookie, name = await switched.visitor()
        switched.records.set(name, raw)
        answer = await switched.ask("/read", cookie)
        assert (answer.status, answer.body, answer.cookies) == (200, {}, [])
        assert switched.sessions.counts["pickled"] == count
    assert not (tmp_path / "executed").exists()


async def test_what_cannot_be_taken_over_is_counted(switched: Switched) -> None:
    cookie, name = await switched.visitor(basket=["tea"])
    whole = switched.records.get(name)
    assert isinstance(whole, bytes)
    bad = [whole[:-3], b"[1]", b"\xff" * 2_000_000, b'{"a":' * 60_000, b'{"a": "' + b"x" * 90_000]
    for count, raw in enumerate(bad, 1):
        switched.records.set(name, raw)
        answer = await switched.ask("/read", cookie)
        assert (answer.status, answer.body) == (200, {})
        assert switched.sessions.counts["not_adopted"] == count
    switched.records.delete(name)
    switched.records.hset(name, "a", "1")
    assert (await switched.ask("/read", cookie)).body == {}
    assert switched.sessions.counts["not_adopted"] == len(bad) + 1
    too_large = {"basket": "x" * 90_000}
    cookie, _ = await switched.visitor(**too_large)
    assert (await switched.ask("/read", cookie)).body == {}
    assert switched.sessions.counts["not_adopted"] == len(bad) + 2


@pytest.mark.parametrize("switched", ["flask-session", "aiohttp-session"], indirect=True)
async def test_an_old_store_that_is_down_is_503_and_nobody_is_a_stranger(
    switched: Switched, old_engine: Engine
) -> None:
    cookie, _ = await switched.visitor()
    old_engine.freeze()
    try:
        answer = await switched.ask("/read", cookie)
        assert (answer.status, answer.cookies) == (503, [])
        assert (await switched.ask("/plain", cookie)).status == 200
        assert (await switched.ask("/read", "")).status == 200, "who has no old cookie is not asked"
    finally:
        old_engine.thaw()
    async with asyncio.timeout(30):
        while (answer := await switched.ask("/read", cookie)).status == 503:
            await asyncio.sleep(0.05)
    assert answer.body["user"] == "ann"
    await switched.ask("/logout", ours(answer.cookies))


async def test_one_session_too_many_means_a_stranger(old_engine: Engine) -> None:
    old = OLD_SITES["starsessions"]
    sessions = Sessions.from_url(
        "memory://",
        cookie=Cookie(secure=False, name="ours"),
        adopt=[StarsessionsRedis(old_engine.url)],
        principal_key="user",
        max_sessions=1,
        on_limit="reject",
    )
    async with old.switched(sessions) as ask:
        for number, seen in enumerate((DATA, {})):
            cookie, _ = await old.written(old_engine.url, DATA)
            assert (await ask("/read", cookie)).body == seen
            assert sessions.counts["not_adopted"] == number
    await sessions.close()


A_KEY = b"0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("its", "ours", "key"),
    [
        (EncryptedCookieStorage, AiohttpFernetCookie, A_KEY),
        (EncryptedCookieStorage, AiohttpFernetCookie, Fernet(urlsafe_b64encode(A_KEY))),
        (EncryptedCookieStorage, AiohttpFernetCookie, urlsafe_b64encode(A_KEY).decode()),
        (NaClCookieStorage, AiohttpNaClCookie, A_KEY),
    ],
    ids=["bytes", "Fernet", "text", "NaCl"],
)
async def test_aiohttps_encrypted_cookies_move_in(its: Any, ours: Any, key: Any) -> None:
    storage, reader = its(key), ours(key)
    cookie = await by_aiohttp_session(storage, DATA)
    plain = Cookie(secure=False)
    sessions = Sessions.from_url("memory://", cookie=plain, adopt=[reader], principal_key="user")
    async with switched_aiohttp(sessions) as ask:
        answer = await ask("/read", cookie)
        assert answer.body == DATA
        assert len(await sessions.held_by("ann")) == 1
        assert (await ask("/read", cookie[:-9] + cookie[-8:])).body == {}, "a letter is missing"
        gone = await ask("/logout", cookie)
        assert any(said.startswith("AIOHTTP_SESSION=;") for said in gone.cookies)


async def test_quart_sessions_record_moves_in_with_its_types(old_engine: Engine) -> None:
    """As quart-session 3.0.0 writes it."""
    name = "session:09a6a00e-e213-475f-9baa-b14fbba7cc66"
    raw = b'{"_permanent":true,"_addr":"<local>","user":"ann","basket":{" t":["tea"]}}'
    with redis.Redis.from_url(old_engine.url) as records:
        records.set(name, raw)
    signed = itsdangerous.Signer("the key", salt="quart-session", key_derivation="hmac")
    value = signed.sign(name.partition(":")[2]).decode()
    reader = QuartSessionRedis(old_engine.url, signed_with="the key")
    sessions = Sessions.from_url("memory://", cookie=Cookie(secure=False), adopt=[reader])
    app = quart.Quart("new")
    init_app(app, sessions)
    found: dict[str, Any] = {}

    @app.get("/")
    async def index() -> str:
        found.update(quart.session)
        return ""

    await app.test_client().get("/", headers={"Cookie": f"session={value}"})
    assert found == {"_permanent": True, "user": "ann", "basket": ("tea",)}
    await sessions.close()


def test_wrong_readers_are_refused_at_the_start() -> None:
    for adopt, says in (
        (FlaskSessionRedis("redis://127.0.0.1"), "is no list of readers"),
        ("redis://127.0.0.1", "is no list of readers"),
        ([FlaskSessionRedis], "is no list of readers"),
        ([FlaskSessionRedis("memcached://127.0.0.1")], "redis:// and valkey://"),
        ([StarsessionsRedis("redis://127.0.0.1?prefix=x")], "give the prefix to the reader"),
    ):
        with pytest.raises(ConfigError, match=says):
            Sessions.from_url("memory://", adopt=adopt)  # type: ignore[arg-type]
