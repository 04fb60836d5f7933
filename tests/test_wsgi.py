"""WSGI: what ASGI promises, for the ways in which PEP 3333 lets an application answer."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from test_session import READS
from visits import World, looks, sets
from wsgi_visits import App, Visitor, app_of, checked

from samesession import Cookie
from samesession.web.wsgi import SessionMiddleware

FLAGS = "Path=/; Secure; HttpOnly; SameSite=Lax"
TEXT = [("Content-Type", "text/plain")]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ann(world: World) -> Visitor:
    """A browser with a session in which a list is."""
    visitor = Visitor(app_of(world, sets(list=[])))
    visitor.asks()
    return visitor


# -- headers ---------------------------------------------------------------------------------------


def unused(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [b"ok"]


def test_who_does_not_use_the_session_gets_no_header_of_ours(world: World, ann: Visitor) -> None:
    ann.app = SessionMiddleware(unused, world.sessions)  # the validator looks at all of environ
    assert ann.asks().headers == TEXT
    assert Visitor(ann.app).asks().headers == TEXT


@pytest.mark.parametrize("use", sorted(READS.keys() - {"isinstance", "fromkeys"}))
def test_every_use_says_vary_cookie(world: World, use: str) -> None:
    visitor = Visitor(app_of(world, sets(name="ann", cart=[], n=1), READS[use]))
    visitor.asks()
    answer = visitor.asks()
    assert (answer["vary"], answer["set-cookie"], answer["cache-control"]) == ("Cookie", None, None)


def test_headers_of_the_application_are_merged(world: World) -> None:
    said = [*TEXT, ("VARY", "Accept"), ("cache-Control", "public"), ("Set-Cookie", "theirs=1")]

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ["samesession"]["a"] = 1
        start_response("200 OK", said)
        return [b"ok"]

    answer = Visitor(checked(app, world)).asks()
    assert (answer["vary"], answer["cache-control"]) == ("Accept, Cookie", "no-store")
    assert len(answer.all("set-cookie")) == 2


@pytest.mark.parametrize(("secure", "name"), [(True, "__Host-session"), (False, "session")])
def test_a_cookie_has_its_flags_and_its_deletion_repeats_them(secure: bool, name: str) -> None:
    world = World(cookie=Cookie(secure=secure))
    flags = FLAGS if secure else FLAGS.replace("Secure; ", "")
    visitor = Visitor(app_of(world, sets(a=1), lambda s: s.logout()), name)
    line = visitor.asks()["set-cookie"]
    assert line is not None
    assert line.startswith(f"{name}=")
    assert line.endswith(f"; {flags}")
    gone = visitor.asks()["set-cookie"]
    assert gone == f"{name}=; {flags}; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"


# -- ways to answer --------------------------------------------------------------------------------


def generator(environ: Any, start_response: Any) -> Iterator[bytes]:
    """Speaks at its first piece."""
    environ["samesession"]["early"] = 1
    start_response("200 OK", TEXT)
    yield b"first"
    yield b" last"


def returns_generator(environ: Any, start_response: Any) -> Iterable[bytes]:
    environ["samesession"]["early"] = 1
    start_response("200 OK", TEXT)
    return (piece for piece in (b"first", b" last"))


def writes(environ: Any, start_response: Any) -> Iterable[bytes]:
    environ["samesession"]["early"] = 1
    write = start_response("200 OK", TEXT)
    write(b"first")
    write(b" last")
    return []


def writes_and_returns(environ: Any, start_response: Any) -> Iterable[bytes]:
    environ["samesession"]["early"] = 1
    start_response("200 OK", TEXT)(b"first")
    return [b" last"]


def starts_again(environ: Any, start_response: Any) -> Iterable[bytes]:
    environ["samesession"]["early"] = 1
    start_response("200 OK", [*TEXT, ("X-First", "1")])
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        start_response("200 Better", TEXT, sys.exc_info())
    return [b"first last"]


class Response:
    """As frameworks return: an object that is called late, iterated once and closed."""

    def __init__(self, environ: Any, start_response: Any) -> None:
        self.environ, self.start_response = environ, start_response

    def __iter__(self) -> Iterator[bytes]:
        self.environ["samesession"]["early"] = 1
        self.start_response("200 OK", TEXT)
        yield b"first"
        yield b" last"


WAYS: list[App] = [generator, returns_generator, writes, writes_and_returns, starts_again, Response]


@pytest.mark.parametrize("app", WAYS)
def test_every_way_to_answer_commits_before_the_first_byte(world: World, app: App) -> None:
    visitor = Visitor(checked(app, world))
    answer = visitor.asks()
    assert (answer.status, answer.body, answer.error) == (200, b"first last", None)
    assert answer["vary"] == "Cookie"
    assert answer["x-first"] is None
    assert visitor.cookie
    assert set(world.record.values) == {"early"}


@pytest.mark.parametrize("app", WAYS)
def test_every_way_to_answer_is_503_when_the_store_is_down(world: World, app: App) -> None:
    world.store.down = {"commit"}
    answer = Visitor(checked(app, world)).asks()
    assert (answer.status, answer["retry-after"], answer.error) == (503, "1", None)
    assert answer["content-length"] == str(len(answer.body))
    assert b"first" not in answer.body


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "302 Found", "404 Not Found"])
def test_a_response_commits_whatever_its_status(world: World, status: str, method: str) -> None:
    visitor = Visitor(app_of(world, sets(a=1), status=status))
    answer = visitor.asks(method=method)
    assert (answer.status, answer.error) == (int(status[:3]), None)
    assert visitor.cookie


def test_a_list_stays_a_list_and_a_length_a_length(world: World) -> None:
    class Sized(list[bytes]):
        pass

    def answering(body: Any) -> App:
        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            environ["samesession"]["a"] = 1
            start_response("200 OK", TEXT)
            return body  # type: ignore[no-any-return]

        return SessionMiddleware(app, world.sessions)

    for body, length in (
        ([b"ok"], 1),
        ((b"o", b"k"), 2),
        (Sized([b"ok"]), 1),
        (iter([b"ok"]), None),
    ):
        answer = Visitor(answering(body)).asks()
        assert (answer.body, answer.length) == (b"ok", length)


def test_a_file_wrapper_reaches_the_server_as_it_is(world: World) -> None:
    made: list[Any] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ["samesession"]["a"] = 1
        start_response("200 OK", TEXT)
        made.append(environ["wsgi.file_wrapper"](io.BytesIO(b"a file")))
        return made[0]  # type: ignore[no-any-return]

    seen: list[Any] = []

    def server(environ: Any, start_response: Any) -> Iterable[bytes]:
        seen.append(inner(environ, start_response))
        return seen[0]  # type: ignore[no-any-return]

    inner = SessionMiddleware(app, world.sessions)
    assert Visitor(server).asks().body == b"a file"
    assert seen == made


class Body:
    """Notes whether it was closed."""

    def __init__(self, fails: bool = False) -> None:
        self.closed = 0
        self.fails = fails

    def __iter__(self) -> Iterator[bytes]:
        yield b"first"
        if self.fails:
            raise ZeroDivisionError
        yield b" last"

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("down", [set(), {"commit"}])
def test_the_body_is_closed_once_whatever_happens(
    world: World, fails: bool, down: set[str]
) -> None:
    body = Body(fails)

    def app(environ: Any, start_response: Any) -> Any:
        environ["samesession"]["a"] = 1
        start_response("200 OK", TEXT)
        return body

    world.store.down = down
    answer = Visitor(SessionMiddleware(app, world.sessions)).asks()
    assert body.closed == 1
    assert answer.status == (503 if down else 200)
    assert isinstance(answer.error, ZeroDivisionError) == (fails and not down)


def test_a_body_before_start_response_is_the_applications_mistake(world: World) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        return [b"no start"]

    answer = Visitor(SessionMiddleware(app, world.sessions)).asks()
    assert isinstance(answer.error, AssertionError)


def test_an_error_after_the_first_piece_is_raised_as_pep_3333_says(world: World) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"first"
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            start_response("500 Oops", TEXT, sys.exc_info())
        yield b"never"

    answer = Visitor(checked(app, world)).asks()
    assert (answer.body, type(answer.error)) == (b"first", ZeroDivisionError)


# -- the cookie header -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("{ours}", True),
        ("a=1; {ours}; b=2", True),
        ("{ours}; {ours}", True),
        ("{ours}; __Host-session=planted", False),
        ("x{ours}", False),
        ("a=1,{ours}", False),
        ("\xff\xfe=1; {ours}", True),
        ("\u0436=1; {ours}", True),  # a server that breaks PEP 3333
        ("", False),
        ("a=" + "x" * 8192 + "; {ours}", True),
        ("; ".join(f"n{n}=1" for n in range(1000)) + "; {ours}", True),
    ],
    ids=range(11),
)
def test_any_cookie_header_is_ours_or_anonymous(
    world: World, ann: Visitor, header: str, found: bool
) -> None:
    ann.app = app_of(world, dict)
    ours = f"__Host-session={ann.cookie}"
    answer = ann.asks(HTTP_COOKIE=header.replace("{ours}", ours))
    assert (answer.status, answer.body) == (200, b"{'list': []}" if found else b"{}")


def test_the_client_of_a_login_is_known(world: World) -> None:
    Visitor(app_of(world, lambda s: s.login("ann"))).asks(
        HTTP_USER_AGENT="Lynx\x07/2.9" + "x" * 200
    )
    (held,) = world.sessions.blocking.held_by("ann")
    assert held.user_agent.startswith("Lynx/2.9x")
    assert len(held.user_agent) <= 128
    assert held.address == "10.1.2.0/24"


def test_reading_is_a_use_without_a_change(world: World, ann: Visitor) -> None:
    ann.app = app_of(world, looks)
    assert world.calls_of(ann.asks) == ["load"]
