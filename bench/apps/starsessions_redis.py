"""starsessions with its Redis store, as its README sets it up."""

from redis.asyncio import Redis
from starlette.applications import Starlette
from starsessions import SessionAutoloadMiddleware, SessionMiddleware
from starsessions.stores.redis import RedisStore

from bench.apps.shop import session_in_request, shop


def build(url: str) -> Starlette:
    """Return the shop, every setting at its default but `Secure`: we run over plain http."""
    app = shop(session_in_request)
    # Starlette runs the last one added first: the session is opened, then loaded.
    app.add_middleware(SessionAutoloadMiddleware)
    app.add_middleware(
        SessionMiddleware, store=RedisStore(connection=Redis.from_url(url)), cookie_https_only=False
    )
    return app
