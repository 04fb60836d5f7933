"""Litestar's documentation about sessions and stores, example by example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from litestar import Controller, Litestar, MediaType, Request, delete, get, post
from litestar.config.response_cache import ResponseCacheConfig
from litestar.connection import ASGIConnection
from litestar.middleware.rate_limit import RateLimitConfig
from litestar.security.session_auth import SessionAuth
from litestar.testing import TestClient

from samesession import Cookie, Sessions
from samesession.errors import ConfigError
from samesession.lab.engines import Engine
from samesession.web.litestar import SessionConfig, SharedStore, session_middleware

Asked = Request[Any, Any, Any]


@pytest.fixture
def sessions() -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False))


@get("/session", sync_to_thread=False)
def check_session_handler(request: Asked) -> dict[str, bool]:
    return {"has_session": request.session != {}}


@post("/session", sync_to_thread=False)
def create_session_handler(request: Asked) -> None:
    if not request.session:
        request.set_session({"username": "moishezuchmir"})


@delete("/session", sync_to_thread=False)
def delete_session_handler(request: Asked) -> None:
    if request.session:
        request.clear_session()


def test_the_page_about_sessions(sessions: Sessions) -> None:
    handlers = [check_session_handler, create_session_handler, delete_session_handler]
    app = Litestar(handlers, middleware=[session_middleware(sessions)])
    with TestClient(app) as client:
        assert client.get("/session").json() == {"has_session": False}
        client.post("/session")
        assert client.get("/session").json() == {"has_session": True}
        gone = client.delete("/session")
        assert "Max-Age=0" in gone.headers["set-cookie"]
        assert client.get("/session").json() == {"has_session": False}


@dataclass
class Cart:
    items: list[str]
    total: int


@post("/cart", sync_to_thread=False)
def put_cart(request: Asked) -> None:
    request.set_session(Cart(["tea"], 3))


@get("/cart", sync_to_thread=False)
def show_cart(request: Asked) -> dict[str, Any]:
    return {"data": dict(request.session), "id": request.get_session_id()}


def test_set_session_with_a_class_and_the_public_id(sessions: Sessions) -> None:
    app = Litestar([put_cart, show_cart], middleware=[SessionConfig(sessions).middleware])
    with TestClient(app) as client:
        assert client.get("/cart").json() == {"data": {}, "id": None}
        client.post("/cart")
        shown = client.get("/cart").json()
        assert shown["data"] == {"items": ["tea"], "total": 3}
        assert len(shown["id"]) == 32, "the handle: useless as a cookie"


USERS = {"1": "ann"}


async def retrieve_user_handler(
    session: dict[str, Any], connection: ASGIConnection[Any, Any, Any, Any]
) -> str | None:
    return USERS.get(session.get("user_id", ""))


class Account(Controller):
    @post("/login", sync_to_thread=False)
    def login(self, request: Asked) -> None:
        request.set_session({**request.session, "user_id": "1"})

    @get("/user", sync_to_thread=False)
    def user(self, request: Asked) -> str:
        return str(request.user)


def test_session_auth_with_a_principal_key() -> None:
    cookie = Cookie(secure=False)
    sessions = Sessions.from_url("memory://", cookie=cookie, principal_key="user_id")
    auth = SessionAuth[Any, Any](
        retrieve_user_handler=retrieve_user_handler,
        session_backend_config=SessionConfig(sessions),
        exclude=["/login", "/schema"],
    )
    app = Litestar([Account], on_app_init=[auth.on_app_init])
    with TestClient(app) as client:
        assert client.get("/user").status_code == 401
        client.post("/login")
        assert client.get("/user").text == "ann"
        (held,) = sessions.blocking.held_by("1")
        sessions.blocking.end(held.handle)
        assert client.get("/user").status_code == 401


def test_excluded_paths_have_no_session(sessions: Sessions) -> None:
    @get("/none", skip_session=True, sync_to_thread=False)
    def none(request: Asked) -> bool:
        return "session" in request.scope

    @get("/static/none", sync_to_thread=False)
    def static(request: Asked) -> bool:
        return "session" in request.scope

    app = Litestar([none, static], middleware=[session_middleware(sessions, exclude="^/static")])
    with TestClient(app) as client:
        assert client.get("/none").json() is False
        assert client.get("/static/none").json() is False


def test_a_second_layer_is_refused_at_the_start(sessions: Sessions) -> None:
    @get("/", middleware=[session_middleware(sessions)], sync_to_thread=False)
    def index() -> None: ...

    with pytest.raises(ConfigError, match="twice"):
        Litestar([index], middleware=[session_middleware(sessions)])
    with pytest.raises(ConfigError, match=r"Sessions\.from_url"):
        session_middleware("memory://")  # type: ignore[arg-type]


def test_rate_limits_and_cached_responses_in_our_stores(sessions: Sessions) -> None:
    calls: list[int] = []

    @get("/cached", cache=60, media_type=MediaType.TEXT, sync_to_thread=False)
    def cached() -> str:
        calls.append(1)
        return str(len(calls))

    app = Litestar(
        [cached],
        stores={
            "rate_limit": SharedStore(sessions, namespace="limits"),
            "response_cache": SharedStore(sessions, namespace="cache"),
        },
        response_cache_config=ResponseCacheConfig(store="response_cache"),
        middleware=[RateLimitConfig(rate_limit=("minute", 3)).middleware],
    )
    with TestClient(app) as client:
        answers = [client.get("/cached") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert {answer.text for answer in answers[:3]} == {"1"}


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, engine: Engine) -> SharedStore:
    url = "memory://" if request.param == "memory" else f"{engine.url}?prefix=litestar-store"
    key = "the key of every server in the frameworks' tests"
    return SharedStore(Sessions.from_url(url, keys=[key]))


@pytest.mark.anyio
async def test_the_store_keeps_renews_and_forgets(store: SharedStore) -> None:
    assert await store.get("a") is None
    assert await store.expires_in("a") is None
    await store.set("a", "text")
    assert (await store.get("a"), await store.expires_in("a")) == (b"text", -1)
    await store.set("a", b"bytes", expires_in=60)
    left = await store.expires_in("a")
    assert left is not None
    assert 50 < left <= 60
    assert await store.get("a", renew_for=600) == b"bytes"
    left = await store.expires_in("a")
    assert left is not None
    assert left > 500
    await store.delete("a")
    assert not await store.exists("a")
    await store.set("a", b"again")
    assert await store.get("a") == b"again", "a value may come back at once, unlike a session"
    await store.delete("never there")
    child = store.with_namespace("child")
    await child.set("a", b"child's")
    assert (await store.get("a"), await child.get("a")) == (b"again", b"child's")
    await child.delete_all()
    assert (await store.get("a"), await child.get("a")) == (b"again", None)
    await child.set("a", b"new")
    await store.delete_all()
    assert (await store.get("a"), await child.get("a")) == (None, None)
    await store.sessions.close()


@pytest.mark.anyio
async def test_a_value_that_is_over_can_be_set_anew(store: SharedStore) -> None:
    await store.set("short", b"1", expires_in=0.001)  # type: ignore[arg-type]
    while await store.exists("short"):
        pass
    await store.set("short", b"2", expires_in=60)
    assert await store.get("short") == b"2"
    await store.sessions.close()
