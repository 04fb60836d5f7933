"""Where Bottle's and Falcon's pages put a session: hooks, mounted applications, middleware."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bottle
import falcon
import falcon.asgi
import falcon.testing
import httpx
import pytest

from samesession import Cookie, Sessions
from samesession.web import asgi, wsgi


@pytest.fixture
def sessions() -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False))


def shop() -> bottle.Bottle:
    app, sub = bottle.Bottle(), bottle.Bottle()

    @app.hook("before_request")
    def opened() -> None:
        bottle.request.session = bottle.request.environ["samesession"]

    @app.hook("after_request")
    def seen() -> None:
        bottle.request.session["last"] = bottle.request.path

    @app.route("/test")
    def test() -> str:
        session = bottle.request.environ.get("samesession")
        session["test"] = session.get("test", 0) + 1
        return f"Test counter: {session['test']}"

    @app.route("/redirected")
    def redirected() -> None:
        bottle.request.session["redirected"] = True
        bottle.redirect("/all")

    @app.route("/aborted")
    def aborted() -> None:
        bottle.request.session["aborted"] = True
        bottle.abort(401, "Sorry, access denied.")

    @app.route("/pieces")
    def pieces() -> Iterator[str]:
        bottle.request.session["pieces"] = True
        yield "one "
        yield "two"

    @app.route("/page")
    def page() -> str:
        return str(bottle.template("{{session['test']}}", session=bottle.request.session))

    @app.route("/failing")
    def failing() -> None:
        raise ValueError

    @app.error(500)
    def failed(_error: Any) -> str:
        bottle.request.session["failed"] = True
        return "sorry"

    @app.route("/all")
    def everything() -> dict[str, Any]:
        return dict(bottle.request.session)

    @sub.route("/in")
    def within() -> str:
        return str(bottle.request.environ["samesession"]["test"])

    app.mount("/sub/", sub)
    app.catchall = True
    return app


def test_bottle(sessions: Sessions, capsys: pytest.CaptureFixture[str]) -> None:
    transport = httpx.WSGITransport(
        wsgi.SessionMiddleware(shop(), sessions), raise_app_exceptions=False
    )
    with httpx.Client(transport=transport, base_url="http://shop") as client:
        assert [client.get("/test").text[-1] for _ in range(2)] == ["1", "2"]
        assert client.get("/redirected", follow_redirects=True).json()["redirected"] is True
        assert client.get("/aborted").status_code == 401
        assert client.get("/pieces").text == "one two"
        assert (client.get("/page").text, client.get("/sub/in").text) == ("2", "2")
        assert client.get("/failing").text == "sorry"
        everything = {"test": 2, "last": "/failing"}
        said = dict.fromkeys(("redirected", "aborted", "pieces", "failed"), True)
        assert client.get("/all").json() == everything | said
    assert "ValueError" in capsys.readouterr().err, "Bottle prints it"


class Opens:
    """Falcon's middleware, as its pages write it."""

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        req.context.session = req.env["samesession"]

    def process_response(self, req: Any, _resp: Any, _resource: object, ok: bool) -> None:
        req.context.session["ok"] = ok


class Counter:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        session = req.context.session
        session["n"] = session.get("n", 0) + 1
        resp.media = dict(session)

    def on_post(self, _req: falcon.Request, _resp: falcon.Response) -> None:
        raise falcon.HTTPSeeOther("/")


class OpensOnLoops:
    async def process_request(self, req: Any, _resp: Any) -> None:
        req.context.session = req.scope["session"]

    async def process_request_ws(self, req: Any, _ws: Any) -> None:
        req.context.session = req.scope["session"]

    async def process_response(self, req: Any, _resp: Any, _resource: object, ok: bool) -> None:
        req.context.session["ok"] = ok


class CounterOnLoops:
    async def on_get(self, req: Any, resp: Any) -> None:
        Counter().on_get(req, resp)

    async def on_post(self, req: Any, resp: Any) -> None:
        Counter().on_post(req, resp)

    async def on_websocket(self, req: Any, ws: Any) -> None:
        await ws.accept()
        await ws.receive_text()
        await ws.send_text(str(req.context.session["n"]))
        await ws.close()


def on_loops(sessions: Sessions) -> Any:
    app = falcon.asgi.App(middleware=[OpensOnLoops()])
    app.add_route("/", CounterOnLoops())
    return asgi.SessionMiddleware(app, sessions)


def in_threads(sessions: Sessions) -> Any:
    app = falcon.App(middleware=[Opens()])
    app.add_route("/", Counter())
    return wsgi.SessionMiddleware(app, sessions)


@pytest.mark.parametrize("made", [in_threads, on_loops])
def test_falcon(sessions: Sessions, made: Any) -> None:
    client = falcon.testing.TestClient(made(sessions))
    first = client.simulate_get("/")
    assert first.json == {"n": 1}
    cookies = {"session": first.cookies["session"].value}
    assert client.simulate_post("/", cookies=cookies).status_code == 303
    assert client.simulate_get("/", cookies=cookies).json == {"n": 2, "ok": False}, "raised"


@pytest.mark.anyio
async def test_falcons_websockets(sessions: Sessions) -> None:
    async with falcon.testing.ASGIConductor(on_loops(sessions)) as conductor:
        cookie = (await conductor.simulate_get("/")).headers["set-cookie"].partition(";")[0]
        async with conductor.simulate_ws("/", headers={"Cookie": cookie}) as ws:
            await ws.send_text("how many?")
            assert await ws.receive_text() == "1"
