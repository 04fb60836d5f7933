"""The shop in plain WSGI: without sessions, with Beaker on Redis, with samesession."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bench.apps.payload import payload

Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

_everybodys = payload(0)


def plain(url: str) -> App:
    """Return the shop on one dict of the process; `url` is unused."""
    return _shop(lambda environ: _everybodys)


def peer(url: str) -> App:
    """Return the shop with Beaker, as its documentation sets up Redis: who writes saves."""
    from beaker.middleware import SessionMiddleware

    shop = _shop(lambda environ: environ["beaker.session"], lambda session: session.save())
    return SessionMiddleware(shop, {"session.type": "ext:redis", "session.url": url})  # type: ignore[no-any-return]


def ours(url: str) -> App:
    """Return the shop with samesession."""
    from samesession import Cookie, Sessions
    from samesession.web.wsgi import SessionMiddleware

    sessions = Sessions.from_url(url, keys=["k" * 43], cookie=Cookie(secure=False))
    return SessionMiddleware(_shop(lambda environ: environ["samesession"]), sessions)


def _shop(
    session_of: Callable[[Environ], Any], save: Callable[[Any], object] = lambda session: None
) -> App:
    def shop(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        session, path = session_of(environ), environ["PATH_INFO"]
        if path == "/read":
            answer = str(session["count"])
        elif path == "/write":
            session["count"] += 1
            save(session)
            answer = str(session["count"])
        else:
            answer = environ["QUERY_STRING"].removeprefix("start=")
            session.update(payload(int(answer)))
            save(session)
        body = answer.encode()
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        start_response("200 OK", headers)
        return [body]

    return shop
