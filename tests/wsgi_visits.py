"""A strict WSGI server for tests, `wsgiref`'s validator on both sides of our middleware."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

from asgi_visits import Answer
from visits import World

from samesession import Session
from samesession.web.wsgi import SessionMiddleware

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def checked(app: App, world: World) -> App:
    """The middleware between two validators."""
    inner = renamed("samesession", "a.b", validator(renamed("a.b", "samesession", app)))
    return validator(SessionMiddleware(inner, world.sessions))  # type: ignore[no-any-return]


def renamed(old: str, new: str, app: App) -> App:
    """The validator takes a name without a dot for a CGI variable, which would be text."""

    def renaming(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ[new] = environ.pop(old)
        return app(environ, start_response)

    return renaming


class Visitor:
    """One browser at one application."""

    def __init__(self, app: App, name: str = "__Host-session", cookie: str | None = None) -> None:
        self.app = app
        self.name = name
        self.cookie = cookie

    def asks(self, path: str = "/", method: str = "GET", **environ: Any) -> Answer:  # noqa: C901
        """Make a request as a server does (PEP 3333), to the end and closed."""
        answer = Answer()
        given = {"SCRIPT_NAME": "", "PATH_INFO": path, "REQUEST_METHOD": method, "QUERY_STRING": ""}
        environ = {**given, "REMOTE_ADDR": "10.1.2.3", **environ}
        if self.cookie and "HTTP_COOKIE" not in environ:
            environ["HTTP_COOKIE"] = f"{self.name}={self.cookie}"
        setup_testing_defaults(environ)
        environ.update({"wsgi.file_wrapper": FileWrapper, "wsgi.errors": io.StringIO()})
        said: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
            if exc_info and answer.status:
                raise exc_info[1]
            assert not said or exc_info, "a second start_response without an error"
            said[:] = [(status, headers)]
            return write

        def write(data: bytes) -> None:
            if data and not answer.status:
                answer.status, answer.headers = int(said[0][0][:3]), said[0][1]
            answer.body += data

        body: Any = None
        try:
            body = self.app(environ, start_response)
            answer.length = len(body) if hasattr(body, "__len__") else None
            for piece in body:
                write(piece)
            answer.whole = True
        except Exception as error:  # noqa: BLE001  (the server's log)
            answer.error = error
        finally:
            try:
                if hasattr(body, "close"):
                    body.close()
            except Exception as error:  # noqa: BLE001
                answer.error = answer.error or error
        if answer.whole and not answer.status:
            answer.status, answer.headers = int(said[0][0][:3]), said[0][1]
        for line in answer.all("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            if name == self.name:
                self.cookie = value or None
        return answer


def app_of(world: World, *handlers: Callable[[Session], object], status: str = "200 OK") -> App:
    """A plain application: each request is answered by the next handler, the last one for ever."""
    waiting = list(handlers)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        handler = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        result = repr(handler(environ["samesession"])).encode()
        bodiless = status[:3] in {"204", "304"}
        start_response(status, [] if bodiless else [("Content-Type", "text/plain")])
        return [] if bodiless or environ["REQUEST_METHOD"] == "HEAD" else [result]

    return checked(app, world)
