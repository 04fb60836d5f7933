"""samesession with any strategy: the URL alone decides."""

from starlette.applications import Starlette

from bench.apps.shop import session_in_request, shop
from samesession import Cookie, Sessions
from samesession.web.asgi import SessionMiddleware


def build(url: str) -> Starlette:
    """Return the shop, every setting at its default but `Secure`: we run over plain http."""
    app = shop(session_in_request)
    sessions = Sessions.from_url(url, keys=["k" * 43], cookie=Cookie(secure=False))
    app.add_middleware(SessionMiddleware, sessions=sessions)
    return app
