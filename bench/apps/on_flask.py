"""The shop in Flask: without sessions, with Flask-Session on Redis, with samesession."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import flask

from bench.apps.payload import payload


def plain(url: str) -> flask.Flask:
    """Return the shop on one dict of the process; `url` is unused."""
    return _shop(payload(0))


def peer(url: str) -> flask.Flask:
    """Return the shop with Flask-Session, as its documentation sets up Redis."""
    from flask_session import Session
    from redis import Redis

    app = _shop(flask.session)
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=Redis.from_url(url))
    Session(app)
    return app


def ours(url: str) -> flask.Flask:
    """Return the shop with samesession."""
    from samesession import Cookie, Sessions
    from samesession.web.flask import init_app

    app = _shop(flask.session)
    init_app(app, Sessions.from_url(url, keys=["k" * 43], cookie=Cookie(secure=False)))
    return app


def _shop(session: MutableMapping[str, Any]) -> flask.Flask:
    app = flask.Flask(__name__)

    @app.post("/login")
    def login() -> str:
        start = int(flask.request.args["start"])
        session.update(payload(start))
        return str(start)

    @app.get("/read")
    def read() -> str:
        return str(session["count"])

    @app.post("/write")
    def write() -> str:
        session["count"] += 1
        return str(session["count"])

    return app
