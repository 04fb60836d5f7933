"""Limits of sessions per principal: what is refused at start-up, counted, and told."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import flask
import httpx
import pytest
import quart
from flask import Flask
from quart import Quart
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from samesession import Cookie, Sessions
from samesession.errors import ConfigError, TooManySessionsError
from samesession.quota import displaced
from samesession.record import Key, Reason
from samesession.settings import Quota
from samesession.stores.memory import MemoryStore
from samesession.web import wsgi
from samesession.web.asgi import SessionMiddleware
from samesession.web.flask import init_app
from samesession.web.quart import init_app as quart_init_app

KEYS = ["k" * 32]
A, B, C, D = (Key(name) for name in "abcd")


def limited(url: str = "memory://", **more: Any) -> Sessions:
    return Sessions.from_url(url, keys=KEYS, cookie=Cookie(secure=False), **more)


# --- the decision ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "moving", "replaces", "quota", "expected"),
    [
        ({}, {}, None, Quota(1), ()),
        ({A: 1}, {}, None, Quota(2), ()),
        ({A: 1, B: 2}, {}, None, Quota(2), (A,)),
        ({A: 2, B: 1}, {}, None, Quota(2), (B,)),
        ({A: 1, B: 2}, {}, None, Quota(2, False), None),
        ({A: 1, B: 2}, {}, None, Quota(1), (A, B)),
        ({A: 1, B: 2}, {}, B, Quota(2, False), ()),  # a move needs no room
        ({A: 1, B: 2}, {}, C, Quota(2, False), None),  # whose place it would take has gone
        ({A: 1, B: 1, C: 2}, {A: B}, None, Quota(3, False), ()),  # A goes on as B
        ({A: 1, B: 1, C: 2}, {A: B}, None, Quota(2), (B, A)),  # and both go
        ({A: 1, C: 2}, {A: B}, None, Quota(2), (A,)),  # that move came to nothing
        ({A: 1, D: 2}, {}, None, Quota(1, False), ()),  # sent again
    ],
)
def test_who_makes_room(
    held: dict[Key, int],
    moving: dict[Key, Key],
    replaces: Key | None,
    quota: Quota,
    expected: tuple[Key, ...] | None,
) -> None:
    assert displaced(held, moving, D, replaces, quota) == expected


# --- start-up -------------------------------------------------------------------------------------


def test_what_cannot_count_across_servers_says_what_would(tmp_path: Path) -> None:
    for url in (f"sticky://{tmp_path}?size=8MB", "memcached://127.0.0.1"):
        with pytest.raises(ConfigError, match=r"max_sessions=3: .* redis://, postgresql://"):
            limited(url, max_sessions=3)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"max_sessions": 0}, "max_sessions=0 is no number above 0"),
        ({"max_sessions": True}, "max_sessions=True"),
        ({"max_sessions": "3"}, "max_sessions='3'"),
        ({"max_sessions": 3, "on_limit": "evict"}, "'evict' is none of 'evict-oldest', 'reject'"),
    ],
)
def test_a_wrong_limit_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        limited(**given)


def test_the_environment_sets_it() -> None:
    env = {"SAMESESSION_URL": "memory://", "SAMESESSION_MAX_SESSIONS": "3"}
    assert Sessions.from_env(env).limits.quota == Quota(3, True)
    env["SAMESESSION_ON_LIMIT"] = "reject"
    assert Sessions.from_env(env).limits.quota == Quota(3, False)
    for wrong in ("", "0", "many", "-1"):
        with pytest.raises(ConfigError, match="SAMESESSION_MAX_SESSIONS"):
            Sessions.from_env(env | {"SAMESESSION_MAX_SESSIONS": wrong})


# --- what counts ----------------------------------------------------------------------------------


def signed_in(sessions: Sessions, principal: str) -> bytes:
    session = sessions.blocking.open(None)
    session.login(principal)
    sessions.blocking.finish(session)
    assert session._life.cookie
    return session._life.cookie.encode()


def test_a_session_that_idled_out_has_no_place() -> None:
    now = [1_000_000_000_000]
    sessions = limited(
        max_sessions=1, on_limit="reject", idle=timedelta(seconds=10), lifetime=timedelta(hours=1)
    )
    sessions = Sessions(
        sessions.strategy,
        [b"k" * 32],
        limits=sessions.limits,
        cookie=sessions.cookie,
        clock=lambda: now[0],
    )
    sessions.loops.store._clock_ms = lambda: now[0]  # type: ignore[attr-defined]
    signed_in(sessions, "ann")
    with pytest.raises(TooManySessionsError, match="signed in 1 times already"):
        signed_in(sessions, "ann")
    signed_in(sessions, "bob")
    now[0] += 11_000
    signed_in(sessions, "ann")


def test_a_session_that_made_room_says_why_it_is_over() -> None:
    sessions = limited(max_sessions=1)
    first, second = signed_in(sessions, "ann"), signed_in(sessions, "ann")
    session = sessions.blocking.open(first)
    assert (session.principal, session.ended) == (None, Reason.DISPLACED)
    assert session.ended == "displaced"
    session = sessions.blocking.open(second)
    assert (session.principal, session.ended) == ("ann", None)
    session.logout()
    sessions.blocking.finish(session)
    again = sessions.blocking.open(second)
    assert again.ended == "logout"
    again.fresh()
    assert again.ended == "logout"
    assert sessions.blocking.open(None).ended is None


def test_a_login_that_newer_ones_overtake_is_told_to_sign_in_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not told to sign out elsewhere: with evict-oldest nobody has to."""
    sessions = limited(max_sessions=1)
    admit = MemoryStore.admit

    async def admitted_and_overtaken(*given: Any, **more: Any) -> Any:
        gone = await admit(*given, **more)
        monkeypatch.setattr(MemoryStore, "admit", admit)
        signed_in(sessions, "ann")
        return gone

    monkeypatch.setattr(MemoryStore, "admit", admitted_and_overtaken)
    with pytest.raises(TooManySessionsError, match="overtaken by newer sign-ins, of which 1 may"):
        signed_in(sessions, "ann")
    signed_in(sessions, "ann")


def test_a_refused_login_leaves_the_session_as_it_was() -> None:
    """Whatever was written beside it: half a login must not be kept."""
    sessions = limited(max_sessions=1, on_limit="reject")
    signed_in(sessions, "ann")
    blocking = sessions.blocking
    session = blocking.open(None)
    session["basket"] = ["tea"]
    blocking.finish(session)
    cookie = (session._life.cookie or "").encode()
    session = blocking.open(cookie)
    session["user"] = "ann"
    session["basket"].append("milk")
    session.login("ann")
    with pytest.raises(TooManySessionsError):
        blocking.commit(session)
    assert dict(session) == {"basket": ["tea"]}
    assert session.principal is None
    session["note"] = "sign out elsewhere first"
    blocking.finish(session)
    assert dict(blocking.open(cookie)) == {"basket": ["tea"], "note": "sign out elsewhere first"}
    assert sessions.counts["too_many"] == 1


# --- what is told ---------------------------------------------------------------------------------


def test_asgi_answers_409_unless_the_handler_does() -> None:
    sessions = limited(max_sessions=1, on_limit="reject")

    async def login(request: Request) -> JSONResponse:
        request.session["user"] = "ann"
        request.session.login("ann")  # type: ignore[attr-defined]
        if request.query_params.get("own"):
            try:
                await sessions.commit(request.session)  # type: ignore[arg-type]
            except TooManySessionsError as error:
                return JSONResponse({"why": str(error)}, 403)
        return JSONResponse({})

    async def raising(request: Request) -> JSONResponse:
        request.session.login("ann")  # type: ignore[attr-defined]
        await sessions.commit(request.session)  # type: ignore[arg-type]
        return JSONResponse({})

    app = Starlette(routes=[Route("/login", login), Route("/raising", raising)])
    app.add_middleware(SessionMiddleware, sessions=sessions)

    async def visit() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as first:
            assert (await first.get("/login")).status_code == 200
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as second:
            for path in ("/login", "/raising"):
                answer = await second.get(path)
                assert answer.status_code == 409
                assert answer.text.startswith("You are signed in 1 times already")
                assert answer.headers["cache-control"] == "no-store"
                assert not {"set-cookie", "retry-after"} & set(answer.headers)
            answer = await second.get("/login?own=1")
            assert answer.status_code == 403
            assert "sign out elsewhere" in answer.json()["why"]
            assert "set-cookie" not in answer.headers

    asyncio.run(visit())


def test_wsgi_answers_409() -> None:
    sessions = limited(max_sessions=1, on_limit="reject")

    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["samesession"].login("ann")
        start_response("200 OK", [])
        return [b"in"]

    wrapped = wsgi.SessionMiddleware(app, sessions=sessions)
    with httpx.Client(transport=httpx.WSGITransport(wrapped), base_url="http://t") as client:
        assert client.get("/").status_code == 200
    with httpx.Client(transport=httpx.WSGITransport(wrapped), base_url="http://t") as client:
        answer = client.get("/")
    assert (answer.status_code, answer.reason_phrase) == (409, "Conflict")
    assert "sign out elsewhere" in answer.text


@pytest.mark.parametrize("path", ["/login", "/raising"])
def test_flask_answers_409_also_for_what_a_view_did_not_catch(path: str) -> None:
    sessions = limited(max_sessions=1, on_limit="reject")
    signed_in(sessions, "ann")
    app = Flask("shop")
    init_app(app, sessions)

    @app.get("/login")
    def login() -> str:
        flask.session.login("ann")  # type: ignore[attr-defined]
        return "in"

    @app.get("/raising")
    def raising() -> str:
        flask.session.login("ann")  # type: ignore[attr-defined]
        sessions.blocking.commit(flask.session)  # type: ignore[arg-type]
        return "in"

    answer = app.test_client().get(path)
    assert answer.status_code == 409
    assert answer.text.startswith("You are signed in 1 times already")


@pytest.mark.parametrize("path", ["/login", "/raising"])
def test_quart_answers_409_also_for_what_a_view_did_not_catch(path: str) -> None:
    sessions = limited(max_sessions=1, on_limit="reject")
    signed_in(sessions, "ann")
    app = Quart("shop")
    quart_init_app(app, sessions)

    @app.get("/login")
    async def login() -> str:
        quart.session.login("ann")
        return "in"

    @app.get("/raising")
    async def raising() -> str:
        quart.session.login("ann")
        await sessions.commit(quart.session)
        return "in"

    async def visit() -> tuple[int, str]:
        answer = await app.test_client().get(path)
        return answer.status_code, await answer.get_data(as_text=True)

    status, body = asyncio.run(visit())
    assert status == 409
    assert body.startswith("You are signed in 1 times already")
