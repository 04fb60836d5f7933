"""A store that does not serve this kind of application, and settings of a wrong kind or value."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import quart
from aiohttp import web
from litestar import Litestar

from frameworks.test_misuse import bare_asgi, bare_wsgi, flask_app, made, shown
from samesession import Cookie, Sessions
from samesession.errors import ConfigError
from samesession.strategies import SCHEMES, Scheme
from samesession.web import aiohttp as our_aiohttp
from samesession.web import asgi, wsgi
from samesession.web import flask as our_flask
from samesession.web import quart as our_quart
from samesession.web.litestar import session_middleware


@pytest.fixture
def loops_only(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """Somebody's own store, which serves event loops only."""
    module = ModuleType("their_store")

    def opened(_url: Any) -> Any:
        store = made().loops.store
        store.suspends = True  # type: ignore[misc]
        return store

    module.open_loop = module.open_threads = opened  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_store", module)
    monkeypatch.setitem(SCHEMES, "theirs", Scheme("external", "their_store"))
    keys = ["a key of theirs that is long enough, 32 bytes"]
    return Sessions.from_url("theirs://", keys=keys, cookie=Cookie(secure=False))


def test_a_store_for_event_loops_under_wsgi(loops_only: Sessions) -> None:
    for mistake in (
        lambda: wsgi.SessionMiddleware(bare_wsgi, loops_only),
        lambda: our_flask.init_app(flask_app(), loops_only),
    ):
        with pytest.raises(ConfigError, match="theirs:// serves event loops only"):
            mistake()
    asgi.SessionMiddleware(bare_asgi, loops_only)


def test_a_store_that_serves_one_kind_only(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("their_store")
    monkeypatch.setitem(sys.modules, "their_store", module)
    monkeypatch.setitem(SCHEMES, "theirs", Scheme("external", "their_store"))

    def theirs() -> Sessions:
        return Sessions.from_url("theirs://", keys=["a key of theirs that is long, 32 bytes"])

    module.open_threads = lambda _url: made().loops.store  # type: ignore[attr-defined]
    for mistake in (
        lambda: asgi.SessionMiddleware(bare_asgi, theirs()),
        lambda: our_quart.init_app(quart.Quart("shop"), theirs()),
        lambda: our_aiohttp.setup(web.Application(), theirs()),
        lambda: Litestar([shown], middleware=[session_middleware(theirs())]),
    ):
        with pytest.raises(ConfigError, match=r"threads only.*no open_loop\(url\)"):
            mistake()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"url": "redis://127.0.0.1:1"}, "needs keys"),
        ({"url": "redis://127.0.0.1:1", "keys": ["short"]}, "has 5 bytes; needs 32"),
        (
            {"url": "redis://127.0.0.1:1", "keys": "one text of 32 bytes and more"},
            "write a list",
        ),
        ({"url": None}, "None is no URL; is its variable set"),
        ({"url": "redsi://127.0.0.1:1"}, "did you mean redis"),
        ({"url": "redis://127.0.0.1:1?dealine=1s"}, "did you mean 'deadline'"),
        ({"url": "memory://", "principal_key": ""}, "principal_key=''"),
        ({"url": "memory://", "carrier": "url"}, "'cookie', 'header', 'both'"),
        ({"url": "memory://", "idle": 30}, r"timedelta\(minutes=30\)"),
        ({"url": "memory://", "adopt": "flask"}, "no list of readers"),
    ],
)
def test_wrong_settings(given: dict[str, Any], says: str) -> None:
    keys = {"keys": ["a key that is long enough for anybody"]} if "?" in str(given["url"]) else {}
    with pytest.raises(ConfigError, match=says):
        Sessions.from_url(**(keys | given))
