"""Starlette and FastAPI as people write them, with our `request.session`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
import pytest
from asgi_visits import Visitor
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from visits import VERBS, World

from samesession.errors import ResponseStartedError, SessionTooLargeError, StoreUnavailableError
from samesession.web.asgi import SessionMiddleware

pytestmark = pytest.mark.anyio


@pytest.fixture
def world() -> World:
    return World()


def shop(world: World) -> Starlette:  # noqa: C901  (one function a page)
    """What people do with `request.session`."""

    async def add(request: Request) -> Response:
        request.session.setdefault("cart", []).append(request.path_params["item"])
        return RedirectResponse("/cart", 303)

    async def cart(request: Request) -> Response:
        return JSONResponse(request.session)

    async def flash(request: Request) -> Response:
        request.session["flash"] = "Saved."
        return RedirectResponse("/flashed", 303)

    async def flashed(request: Request) -> Response:
        return PlainTextResponse(request.session.pop("flash", "nothing"))

    async def clear(request: Request) -> Response:
        request.session.clear()
        return PlainTextResponse("")

    def in_a_thread(request: Request) -> Response:
        request.session["thread"] = True
        return JSONResponse(dict(request.session))

    async def only_named(request: Request) -> Response:
        _ = request.session
        return PlainTextResponse("")

    async def plain(request: Request) -> Response:
        return PlainTextResponse("plain")

    async def fails(request: Request) -> Response:
        request.session["lost"] = 1
        raise ZeroDivisionError

    async def refuses(request: Request) -> Response:
        request.session["kept"] = 1
        raise HTTPException(403)

    async def late(request: Request) -> Response:
        def change() -> None:
            request.session["late"] = 1

        return PlainTextResponse("ok", background=BackgroundTask(change))

    async def stream(request: Request) -> Response:
        async def pieces() -> AsyncIterator[str]:
            yield "a"
            request.session["late"] = 1
            if request.query_params or request.path_params.get("commit"):
                await world.sessions.commit(request.session)  # type: ignore[arg-type]
            yield "b"

        request.session["early"] = 1
        return StreamingResponse(pieces())

    async def too_large(request: Request) -> Response:
        request.session["big"] = "x" * 100_000
        return PlainTextResponse("")

    async def explain(request: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 413)

    routes = [
        Route("/add/{item}", add),
        *[Route("/cart", cart), Route("/flash", flash), Route("/flashed", flashed)],
        *[Route("/clear", clear), Route("/thread", in_a_thread), Route("/only-named", only_named)],
        *[Route("/plain", plain), Route("/fails", fails), Route("/refuses", refuses)],
        *[Route("/late", late), Route("/stream", stream), Route("/stream/{commit}", stream)],
        Route("/too-large", too_large),
        Mount("/sub", Starlette(routes=[Route("/cart", cart)])),
    ]
    return Starlette(routes=routes, exception_handlers={SessionTooLargeError: explain})


def with_sessions(app: Starlette, world: World) -> Visitor:
    app.add_middleware(SessionMiddleware, sessions=world.sessions)  # type: ignore[arg-type]
    return Visitor(app)


@pytest.fixture
def browser(world: World) -> Visitor:
    return with_sessions(shop(world), world)


async def test_a_basket_and_a_redirect(browser: Visitor, world: World) -> None:
    for item in ("tea", "milk"):
        answer = await browser.asks(f"/add/{item}", "POST")
        assert (answer.status, answer["location"]) in {(303, "/cart"), (405, None)}
        answer = await browser.asks(f"/add/{item}")
        assert answer["set-cookie"]
        assert answer["cache-control"] == "no-store"
    for path in ("/cart", "/sub/cart"):
        answer = await browser.asks(path)
        assert answer.body == b'{"cart":["tea","milk"]}'
        assert answer["set-cookie"] is None
    assert world.counted() == {"created": 1, "committed": 1}


async def test_a_flash_message_is_shown_once_and_leaves_no_session(
    browser: Visitor, world: World
) -> None:
    await browser.asks("/flash")
    answer = await browser.asks("/flashed")
    assert answer.body == b"Saved."
    assert answer["set-cookie"] is not None
    assert browser.cookie is None
    assert (await browser.asks("/flashed")).body == b"nothing"
    assert world.counted("created", "ended") == {"created": 1, "ended": 1}


async def test_a_cleared_session_is_gone_and_its_cookie_too(browser: Visitor) -> None:
    await browser.asks("/add/tea")
    await browser.asks("/clear")
    assert browser.cookie is None
    assert (await browser.asks("/clear"))["set-cookie"] is None


async def test_naming_the_session_is_a_use_of_it(browser: Visitor) -> None:
    assert (await browser.asks("/only-named"))["vary"] == "Cookie"
    assert (await browser.asks("/plain"))["vary"] is None
    assert (await browser.asks("/not-there"))["vary"] is None


async def test_head_and_methods_that_are_not_allowed(browser: Visitor) -> None:
    await browser.asks("/add/tea")
    answer = await browser.asks("/cart", "HEAD")
    assert (answer.status, answer["vary"]) == (200, "Cookie")
    assert (await browser.asks("/cart", "PUT")).status == 405


async def test_a_handler_in_a_thread_has_the_same_session(browser: Visitor) -> None:
    await browser.asks("/add/tea")
    assert (await browser.asks("/thread")).body == b'{"cart":["tea"],"thread":true}'


async def test_an_error_commits_nothing_and_an_http_exception_commits(browser: Visitor) -> None:
    await browser.asks("/add/tea")
    answer = await browser.asks("/fails")
    assert (answer.status, type(answer.error)) == (500, ZeroDivisionError)
    assert (await browser.asks("/refuses")).status == 403
    assert (await browser.asks("/cart")).body == b'{"cart":["tea"],"kept":1}'


async def test_what_is_too_large_is_the_applications_to_explain(browser: Visitor) -> None:
    await browser.asks("/add/tea")
    answer = await browser.asks("/too-large")
    assert (answer.status, b"'big'" in answer.body, answer.error) == (413, True, None)


async def test_a_background_task_that_changes_the_session_is_told(browser: Visitor) -> None:
    await browser.asks("/add/tea")
    answer = await browser.asks("/late")
    assert (answer.body, type(answer.error)) == (b"ok", ResponseStartedError)


async def test_a_stream_commits_explicitly_or_breaks_off(browser: Visitor) -> None:
    answer = await browser.asks("/stream")
    assert (answer.whole, type(answer.error)) == (False, ResponseStartedError)
    assert browser.cookie
    assert (await browser.asks("/stream/commit")).body == b"ab"
    assert (await browser.asks("/cart")).body == b'{"early":1,"late":1}'


async def test_a_store_that_is_down_is_503_where_the_session_is_used(
    browser: Visitor, world: World
) -> None:
    await browser.asks("/add/tea")
    world.store.down = set(VERBS)
    for path in ("/cart", "/add/milk", "/clear", "/thread", "/only-named", "/refuses", "/fails"):
        answer = await browser.asks(path)
        assert (answer.status, answer["retry-after"], answer.error) == (503, "1", None), path
    assert (await browser.asks("/plain")).status == 200
    assert (await browser.asks("/not-there")).status == 404


@pytest.mark.parametrize("outer", [GZipMiddleware, CORSMiddleware])
async def test_middleware_around_ours_keeps_vary_cookie(world: World, outer: Any) -> None:
    """Starlette's keeps the first of two Vary headers only."""

    async def page(request: Request) -> Response:
        request.session["a"] = 1
        return PlainTextResponse("x" * 1000, headers={"Vary": "Accept"})

    app = Starlette(routes=[Route("/", page)])
    browser = with_sessions(app, world)
    options = {"allow_origins": ["https://a"], "allow_credentials": True}
    app.add_middleware(outer, **(options if outer is CORSMiddleware else {}))
    answer = await browser.asks(headers=[(b"accept-encoding", b"gzip"), (b"origin", b"https://a")])
    assert answer["vary"] is not None
    assert {"accept", "cookie"} < {part.strip().lower() for part in answer["vary"].split(",")}


@pytest.mark.parametrize("inside", [True, False])
async def test_starlettes_function_middleware_on_either_side(world: World, inside: bool) -> None:
    async def note(request: Request, call_next: Any) -> Response:
        if inside:
            request.session["by middleware"] = 1
        response: Response = await call_next(request)
        response.headers["x-noted"] = "yes"
        return response

    app = shop(world)
    if inside:
        app.add_middleware(BaseHTTPMiddleware, dispatch=note)
    browser = with_sessions(app, world)
    if not inside:
        app.add_middleware(BaseHTTPMiddleware, dispatch=note)
    answer = await browser.asks("/add/tea")
    assert (answer.status, answer["x-noted"]) == (303, "yes")
    assert (b"by middleware" in (await browser.asks("/cart")).body) is inside
    world.store.down = {"load"}
    assert (await browser.asks("/cart")).status == 503
    assert isinstance((await browser.asks("/fails")).error, type(None) if inside else object)


# -- FastAPI ---------------------------------------------------------------------------------------


def session_of(request: Request) -> dict[str, Any]:
    return request.session


Visit = Annotated[dict[str, Any], Depends(session_of)]


def api(world: World) -> FastAPI:
    app = FastAPI()

    @app.post("/login/{name}")
    async def login(request: Request, name: str) -> dict[str, Any]:
        request.session.login(name)
        return {"principal": request.session.principal}

    @app.get("/me")
    async def me(visit: Visit) -> dict[str, Any]:
        return visit

    @app.get("/orjson")
    async def fast(visit: Visit) -> Any:
        return Response(orjson.dumps(visit), media_type="application/json")

    @app.put("/{key}")
    def put(visit: Visit, key: str, value: int) -> int:
        visit[key] = value
        return value

    @app.post("/late")
    async def late(request: Request, tasks: BackgroundTasks) -> str:
        async def work() -> None:
            request.session["late"] = 1
            await world.sessions.commit(request.session)  # type: ignore[arg-type]

        request.session["early"] = 1
        tasks.add_task(work)
        return "ok"

    @app.exception_handler(StoreUnavailableError)
    async def soft(request: Request, error: StoreUnavailableError) -> Response:
        return JSONResponse({"detail": "later"}, 200)

    return app


async def test_fastapi_dependencies_threads_and_background_tasks(world: World) -> None:
    browser = with_sessions(api(world), world)
    assert (await browser.asks("/a?x", "PUT")).status == 422
    assert (await browser.asks("/late", "POST")).body == b'"ok"'
    assert (await browser.asks("/login/ann", "POST")).body == b'{"principal":"ann"}'
    assert (await browser.asks("/me")).body == b'{"early":1,"late":1}'
    answer = await browser.asks("/orjson")
    assert (answer.body, answer["vary"]) == (b'{"early":1,"late":1}', "Cookie")
    assert (await browser.asks("/not-there")).status == 405


async def test_an_exception_handler_cannot_turn_the_fault_into_success(world: World) -> None:
    browser = with_sessions(api(world), world)
    await browser.asks("/login/ann", "POST")
    world.store.down = {"load"}
    answer = await browser.asks("/me")
    assert (answer.status, answer["retry-after"]) == (503, "1")
