"""Type checked by `make check`, and run by nobody."""

from collections.abc import Callable, Iterable
from typing import Any

from samesession import Sessions
from samesession.web.wsgi import SessionMiddleware, current_session


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    session = current_session(environ)
    session["visits"] = session.get("visits", 0) + 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(session["visits"]).encode()]


app = SessionMiddleware(application, Sessions.from_url("memory://"))
