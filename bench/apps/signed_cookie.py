"""Starlette's own SessionMiddleware: the whole session in a signed cookie (itsdangerous)."""

from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware

from bench.apps.shop import session_in_request, shop


def build(url: str) -> Starlette:
    """Return the shop with its defaults; `url` is unused."""
    app = shop(session_in_request)
    app.add_middleware(SessionMiddleware, secret_key="k" * 43)
    return app
