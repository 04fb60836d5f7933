"""aiohttp-session's documentation, example by example, and what is wrong at the start."""

from __future__ import annotations

import time
from typing import Any

import pytest
from aiohttp import DummyCookieJar, web
from aiohttp.test_utils import TestClient, TestServer

from samesession import Cookie, Sessions
from samesession.errors import ConfigError
from samesession.web.aiohttp import get_session, new_session, setup

pytestmark = pytest.mark.anyio


@pytest.fixture
def sessions() -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False))


def client_of(app: web.Application) -> TestClient[web.Request, web.Application]:
    return TestClient(TestServer(app))


async def test_the_page_about_usage(sessions: Sessions) -> None:
    async def handler(request: web.Request) -> web.Response:
        session = await get_session(request)
        last_visit = session.get("last_visit")
        session["last_visit"] = time.time()
        return web.Response(text=f"Last visited: {last_visit}")

    app = web.Application()
    setup(app, sessions)
    app.router.add_get("/", handler)
    async with client_of(app) as client:
        assert await (await client.get("/")).text() == "Last visited: None"
        assert await (await client.get("/")).text() != "Last visited: None"


def recent(created: int) -> bool:
    return time.time() - 60 < created <= time.time()


async def test_new_session_at_the_login(sessions: Sessions) -> None:
    async def fill(request: web.Request) -> web.Response:
        session = await get_session(request)
        session["basket"] = ["tea"]
        return web.Response()

    async def login(request: web.Request) -> web.Response:
        session = await new_session(request)
        session["user"] = "ann"
        return web.Response()

    async def show(request: web.Request) -> web.Response:
        session = await get_session(request)
        known = {"new": session.new, "empty": session.empty, "created": recent(session.created)}
        return web.json_response({"data": dict(session), "id": session.identity, **known})

    async def leave(request: web.Request) -> web.Response:
        session = await get_session(request)
        session.invalidate()
        session.changed()
        raise web.HTTPSeeOther("/show")

    app = web.Application()
    setup(app, sessions)
    app.add_routes(
        [
            web.post("/fill", fill),
            web.post("/login", login),
            web.get("/show", show),
            web.post("/leave", leave),
        ]
    )
    async with client_of(app) as client:
        await client.post("/fill")
        before = await (await client.get("/show")).json()
        await client.post("/login")
        after = await (await client.get("/show")).json()
        assert (before["data"], after["data"]) == ({"basket": ["tea"]}, {"user": "ann"})
        assert before["id"] != after["id"]
        assert (after["new"], after["empty"], after["created"]) == (False, False, True)
        gone = await (await client.post("/leave")).json()
        assert (gone["data"], gone["new"], gone["empty"]) == ({}, True, True)
        assert gone["created"], "of a new session when its request came"


async def test_the_page_of_the_demonstrations(sessions: Sessions) -> None:
    """aiohttp-session's demo/: a login with a message that is shown once, behind a redirect."""

    async def login(request: web.Request) -> web.Response:
        session = await get_session(request)
        name = str((await request.post())["name"])
        session["flash"] = f"Welcome, {name}"
        session.login(name)
        raise web.HTTPSeeOther("/")

    async def index(request: web.Request) -> web.Response:
        session = await get_session(request)
        return web.Response(text=f"{session.principal} {session.pop('flash', '')}")

    async def about(request: web.Request) -> web.Response:
        session = await get_session(request)
        ages = (0 if session.max_age is None else session.max_age, recent(session.created))
        with pytest.raises(RuntimeError, match="rotate"):
            session.set_new_identity("chosen")
        return web.json_response({"ages": ages, "identity": session.identity})

    app = web.Application()
    setup(app, sessions)
    app.add_routes([web.post("/login", login), web.get("/", index), web.get("/about", about)])
    async with client_of(app) as client:
        assert (await (await client.get("/about")).json()) == {"ages": [0, True], "identity": None}
        answer = await client.post("/login", data={"name": "ann"})
        assert await answer.text() == "ann Welcome, ann"
        assert await (await client.get("/")).text() == "ann "
        ages = (await (await client.get("/about")).json())["ages"]
        assert 1700 < ages[0] <= 1800
        assert ages[1]


async def test_an_object_in_a_stored_row_is_shown_and_not_kept(sessions: Sessions) -> None:
    """aiohttp-session does not notice it either, unless somebody says `changed`."""

    async def index(request: web.Request) -> web.Response:
        session = await get_session(request)
        how = request.match_info["how"]
        if how == "make":
            session["row"] = {"price": 9}
        session["row"]["product"] = 0 if how == "make" else object()
        if how == "changed":
            session.changed()
        if how == "committed":
            await sessions.commit(session)
        return web.Response(text=str(session["row"]["price"]))

    app = web.Application()
    setup(app, sessions)
    app.add_routes([web.get("/{how}", index)])
    async with client_of(app) as client:
        await client.get("/make")
        assert [await (await client.get("/show")).text() for _ in range(2)] == ["9", "9"]
        assert (await client.get("/changed")).status == 500
        assert (await client.get("/committed")).status == 500


async def test_a_request_that_asks_for_no_session_loads_none(sessions: Sessions) -> None:
    async def fill(request: web.Request) -> web.Response:
        (await get_session(request))["a"] = 1
        return web.Response()

    async def plain(request: web.Request) -> web.Response:
        return web.Response(headers={"Vary": "Accept"})

    app = web.Application()
    setup(app, sessions)
    app.add_routes([web.get("/fill", fill), web.get("/", plain)])
    async with client_of(app) as client:
        filled = await client.get("/fill")
        assert (filled.headers["Vary"], filled.headers["Cache-Control"]) == ("Cookie", "no-store")
        answer = await client.get("/")
        assert answer.headers["Vary"] == "Accept"
        assert "Set-Cookie" not in answer.headers
    jar = DummyCookieJar()
    async with TestClient(TestServer(app_of(sessions, fill)), cookie_jar=jar) as client:
        twice = {"Cookie": "session=one; session=planted"}
        await client.get("/", headers=twice)
        assert sessions.counts["ambiguous"] == 1


def app_of(sessions: Sessions, handler: Any) -> web.Application:
    app = web.Application()
    setup(app, sessions)
    app.router.add_get("/", handler)
    return app


async def test_what_is_wrong_is_said(sessions: Sessions) -> None:
    app = web.Application()
    setup(app, sessions)
    with pytest.raises(ConfigError, match="twice"):
        setup(app, sessions)
    with pytest.raises(ConfigError, match=r"Sessions\.from_url"):
        setup(web.Application(), "memory://")  # type: ignore[arg-type]

    said: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        try:
            await get_session(request)
        except ConfigError as error:
            said.append(str(error))
        return web.Response()

    bare = web.Application()
    bare.router.add_get("/", handler)
    async with client_of(bare) as client:
        await client.get("/")
    assert "setup(app, sessions)" in said[0]
