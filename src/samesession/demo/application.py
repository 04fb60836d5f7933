"""Put the demo together: the shop, the probe's routes, sessions on top."""

from __future__ import annotations

from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from samesession import Sessions
from samesession.demo.answers import refusal
from samesession.demo.place import Place
from samesession.demo.probe import Probe
from samesession.demo.shop import Shop
from samesession.errors import ConfigError, SessionTooLargeError, ValueNotStorableError
from samesession.web.asgi import SessionMiddleware

# Faults of the request, or of what was asked of this strategy; all others are the middleware's.
REFUSED = (HTTPException, ConfigError, SessionTooLargeError, ValueNotStorableError)


def create_app(sessions: Sessions, place: Place) -> Starlette:
    """Return the demo for one server; ``sessions`` are closed when it shuts down."""
    app = Starlette(
        routes=[*Probe(sessions, place.server).routes(), *Shop(sessions, place).routes()],
        exception_handlers={error: partial(refusal, place.server) for error in REFUSED},
    )
    app.router.redirect_slashes = False  # a key that is a slash is a wrong request, not another one
    app.add_middleware(SessionMiddleware, sessions=sessions)
    return app
