"""The shop in Quart: without sessions, with Quart-Session on Redis, with samesession."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import quart

from bench.apps.payload import payload


def plain(url: str) -> quart.Quart:
    """Return the shop on one dict of the process; `url` is unused."""
    return _shop(payload(0))


def peer(url: str) -> quart.Quart:
    """Return the shop with Quart-Session, as its README sets up Redis."""
    from quart_session import Session

    app = _shop(quart.session)
    app.config.update(SESSION_TYPE="redis", SESSION_URI=url)
    Session(app)
    return app


def ours(url: str) -> quart.Quart:
    """Return the shop with samesession."""
    from samesession import Cookie, Sessions
    from samesession.web.quart import init_app

    app = _shop(quart.session)
    init_app(app, Sessions.from_url(url, keys=["k" * 43], cookie=Cookie(secure=False)))
    return app


def _shop(session: MutableMapping[str, Any]) -> quart.Quart:
    app = quart.Quart(__name__)

    @app.post("/login")
    async def login() -> str:
        start = int(quart.request.args["start"])
        session.update(payload(start))
        return str(start)

    @app.get("/read")
    async def read() -> str:
        return str(session["count"])

    @app.post("/write")
    async def write() -> str:
        session["count"] += 1
        return str(session["count"])

    return app
