"""Type checked by `make check`, and run by nobody."""

import bottle  # type: ignore[import-untyped]

from samesession import Sessions
from samesession.web.wsgi import SessionMiddleware, current_session


def index() -> str:
    session = current_session(bottle.request.environ)
    session["visits"] = session.get("visits", 0) + 1
    return str(session["visits"])


shop = bottle.Bottle()
shop.get("/", callback=index)
app = SessionMiddleware(shop, Sessions.from_url("memory://"))
