"""ASGI: the cookie and the headers around it, for plain applications."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgi_visits import Answer, App, Visitor, app_of
from test_session import READS
from visits import IDLE, VERBS, World, looks, sets

from samesession import Cookie, Session
from samesession.errors import SessionTooLargeError, ValueNotStorableError
from samesession.web.asgi import SessionMiddleware

pytestmark = pytest.mark.anyio
FLAGS = "Path=/; Secure; HttpOnly; SameSite=Lax"


@pytest.fixture
def world() -> World:
    return World()


def answering(headers: list[tuple[bytes, bytes]], use: Callable[[Session], object]) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        use(scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    return app


# -- headers (S12) ---------------------------------------------------------------------------------


async def test_who_does_not_use_the_session_gets_no_header_of_ours(world: World) -> None:
    visitor = Visitor(app_of(world, sets(a=1), lambda _session: None))
    await visitor.asks()
    for browser in (visitor, Visitor(visitor.app), Visitor(visitor.app, cookie="forged")):
        answer = await browser.asks()
        assert answer.headers == [("content-type", "text/plain")]


@pytest.mark.parametrize("use", sorted(READS.keys() - {"isinstance", "fromkeys"}))
async def test_every_use_says_vary_cookie(world: World, use: str) -> None:
    visitor = Visitor(app_of(world, sets(name="ann", cart=[], n=1), READS[use]))
    await visitor.asks()
    answer = await visitor.asks()
    assert (answer.status, answer["vary"]) == (200, "Cookie")
    assert answer.all("set-cookie") == []
    assert answer["cache-control"] is None


@pytest.mark.parametrize(
    ("said", "vary"),
    [
        ([], "Cookie"),
        (["Accept"], "Accept, Cookie"),
        (["cookie"], "cookie"),
        (["Accept, COOKIE"], "Accept, COOKIE"),
        (["*"], "*"),
        (["Accept", "Origin"], "Accept, Origin, Cookie"),
        (["X-Cookie"], "X-Cookie, Cookie"),
        ([""], ", Cookie"),
    ],
)
async def test_vary_is_one_header_with_what_was_said(
    world: World, said: list[str], vary: str
) -> None:
    headers = [(b"Vary" if n else b"vary", value.encode()) for n, value in enumerate(said)]
    app = SessionMiddleware(answering(headers, looks), world.sessions)
    assert (await Visitor(app).asks())["vary"] == vary


async def test_with_a_cookie_nothing_is_cached(world: World) -> None:
    said = [(b"Cache-Control", b"public, max-age=60"), (b"cache-control", b"immutable")]
    app = SessionMiddleware(answering(said, sets(a=1)), world.sessions)
    assert (await Visitor(app).asks())["cache-control"] == "no-store"
    reads = SessionMiddleware(answering(said[:1], looks), world.sessions)
    assert (await Visitor(reads).asks())["cache-control"] == "public, max-age=60"


async def test_what_a_cache_inside_keeps_of_a_response_holds_nobodys_cookie(world: World) -> None:
    headers = [(b"content-type", b"text/plain")]
    kept = {"type": "http.response.start", "status": 200, "headers": headers}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["a"] = 1
        await send(kept)
        await send({"type": "http.response.body", "body": b"ok"})

    cookies = [
        (await Visitor(SessionMiddleware(app, world.sessions)).asks()).all("set-cookie")
        for _ in range(2)
    ]
    assert [len(said) for said in cookies] == [1, 1]
    assert cookies[0] != cookies[1]
    assert kept["headers"] == [(b"content-type", b"text/plain")]


async def test_one_cookie_is_set_beside_the_applications_own(world: World) -> None:
    def handler(session: Session) -> None:
        session["a"] = 1
        session.login("ann")
        session.rotate()
        session["b"] = 1

    said = [(b"set-cookie", b"theirs=1; Path=/")]
    app = SessionMiddleware(answering(said, handler), world.sessions)
    theirs, ours = (await Visitor(app).asks()).all("set-cookie")
    assert theirs == "theirs=1; Path=/"
    assert ours.startswith("__Host-session=")


COOKIES = {
    "default": (Cookie(), "__Host-session", FLAGS),
    "http": (Cookie(secure=False), "session", "Path=/; HttpOnly; SameSite=Lax"),
    "strict": (
        Cookie(name="sid", same_site="strict"),
        "sid",
        "Path=/; Secure; HttpOnly; SameSite=Strict",
    ),
    "domain": (
        Cookie(domain="example.org", path="/app", http_only=False),
        "__Secure-session",
        "Path=/app; Domain=example.org; Secure; SameSite=Lax",
    ),
    "partitioned": (
        Cookie(same_site="none", partitioned=True),
        "__Host-session",
        "Path=/; Secure; HttpOnly; SameSite=None; Partitioned",
    ),
}


@pytest.mark.parametrize("case", COOKIES)
async def test_a_cookie_has_its_flags_and_its_deletion_repeats_them(case: str) -> None:
    cookie, name, flags = COOKIES[case]
    app = app_of(World(cookie=cookie), sets(a=1), lambda s: s.logout())
    visitor = Visitor(app, name)
    line = (await visitor.asks())["set-cookie"]
    assert line is not None
    value, _, rest = line.partition("; ")
    assert value.startswith(f"{name}=")
    assert len(value) - len(name) - 1 <= 200
    assert rest == flags
    gone = (await visitor.asks())["set-cookie"]
    assert gone == f"{name}=; {flags}; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    assert visitor.cookie is None


async def test_a_persistent_cookie_lives_until_the_absolute_deadline() -> None:
    world = World(cookie=Cookie(persistent=True))
    visitor = Visitor(app_of(world, sets(a=1), sets(a=2), lambda s: s.login("ann")))
    for passed_s, age_s in ((0, 43_200), (600, 42_600), (60, 43_200)):
        world.clock.goes_on(passed_s * 1000)
        line = (await visitor.asks())["set-cookie"]
        assert line is not None
        assert line.endswith(f"{FLAGS}; Max-Age={age_s}")


# -- when it is committed (S11) --------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, 301, 302, 304, 400, 404, 500, 503])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
async def test_a_response_commits_whatever_its_status(
    world: World, status: int, method: str
) -> None:
    visitor = Visitor(app_of(world, sets(a=1), status=status))
    answer = await visitor.asks(method=method)
    assert answer.status == status
    assert world.record.values
    assert visitor.cookie


def failing(change: Callable[[Session], object]) -> Callable[[Session], object]:
    def handler(session: Session) -> None:
        change(session)
        raise ZeroDivisionError("the handler's own")

    return handler


async def test_an_exception_commits_nothing_but_a_logout_counts(world: World) -> None:
    visitor = Visitor(
        app_of(
            world,
            sets(a=1),
            failing(sets(b=2)),
            dict,
            failing(lambda s: s.logout()),
            lambda s: s.is_new,
        )
    )
    await visitor.asks()
    assert isinstance((await visitor.asks()).error, ZeroDivisionError)
    assert (await visitor.asks()).body == b"{'a': 1}"
    assert isinstance((await visitor.asks()).error, ZeroDivisionError)
    assert (await visitor.asks()).body == b"True"


async def test_the_exception_of_a_handler_is_not_hidden_by_a_store_that_is_down(
    world: World,
) -> None:
    visitor = Visitor(app_of(world, sets(a=1), failing(lambda s: s.logout())))
    await visitor.asks()
    world.store.down = {"end"}
    assert isinstance((await visitor.asks()).error, ZeroDivisionError)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda s: s["list"].append(object()), ValueNotStorableError),
        (lambda s: s["list"].extend(range(100_000)), SessionTooLargeError),
    ],
)
async def test_a_value_refused_at_the_commit_is_raised_once_and_the_error_page_is_sent(
    world: World, bad: Callable[[Any], object], error: type[Exception]
) -> None:
    caught: list[Exception] = []

    async def with_error_page(scope: Any, receive: Any, send: Any) -> None:
        try:
            await inner(scope, receive, send)
        except (ValueNotStorableError, SessionTooLargeError) as refused:
            caught.append(refused)
            await send({"type": "http.response.start", "status": 422, "headers": []})
            await send({"type": "http.response.body", "body": b"not like this"})

    inner = answering([], lambda s: [s.update(a=1), bad(s)])
    visitor = Visitor(app_of(world, sets(list=[])))
    await visitor.asks()
    answer = await Visitor(
        SessionMiddleware(with_error_page, world.sessions), cookie=visitor.cookie
    ).asks()
    assert (answer.status, answer.body, answer.error) == (422, b"not like this", None)
    assert [type(one) for one in caught] == [error]
    visitor.app = app_of(world, dict)
    assert (await visitor.asks()).body == b"{'list': []}"


# -- the store does not answer (S13) ---------------------------------------------------------------


def swallowing(change: Callable[[Session], object]) -> Callable[[Session], object]:
    def handler(session: Session) -> object:
        try:
            return change(session)
        except Exception:  # noqa: BLE001  (a careless application)
            return "fine"

    return handler


def wrapping(session: Session) -> None:
    try:
        dict(session)
    except Exception as error:
        raise LookupError("my own words") from error


def refused(answer: Answer) -> None:
    assert (answer.status, answer.whole) == (503, True)
    assert answer["retry-after"] == "1"
    assert answer["cache-control"] == "no-store"
    assert answer["content-length"] == str(len(answer.body))
    assert answer.all("set-cookie") == []
    assert b"store" not in answer.body, "why is for the log"


@pytest.mark.parametrize("use", [dict, sets(a=2), swallowing(dict), swallowing(sets(a=2))])
@pytest.mark.parametrize("down", [{"load"}, {"commit"}, VERBS])
async def test_a_store_that_does_not_answer_is_503_for_who_uses_the_session(
    world: World, use: Callable[[Session], object], down: set[str]
) -> None:
    visitor = Visitor(app_of(world, sets(a=1), use))
    await visitor.asks()
    world.clock.goes_on(IDLE // 2)
    cookie, world.store.down = visitor.cookie, set(down)
    answer = await visitor.asks()
    refused(answer)
    assert answer.error is None
    assert visitor.cookie == cookie
    world.store.down = set()
    assert (await visitor.asks()).status == 200


async def test_what_a_handler_makes_of_the_fault_is_503_and_reaches_the_log(world: World) -> None:
    visitor = Visitor(app_of(world, sets(a=1), wrapping))
    await visitor.asks()
    world.store.down = {"load"}
    answer = await visitor.asks()
    refused(answer)
    assert isinstance(answer.error, LookupError)


async def test_who_does_not_use_the_session_does_not_notice(world: World) -> None:
    visitor = Visitor(app_of(world, sets(a=1), lambda _session: "ok"))
    await visitor.asks()
    world.store.down = set(VERBS)
    answer = await visitor.asks()
    assert (answer.status, answer.headers) == (200, [("content-type", "text/plain")])


async def test_a_failure_of_its_own_of_who_does_not_use_it_stays_a_failure(world: World) -> None:
    visitor = Visitor(app_of(world, sets(a=1), failing(lambda _session: None)))
    await visitor.asks()
    world.store.down = {"load"}
    answer = await visitor.asks()
    assert (answer.status, type(answer.error)) == (0, ZeroDivisionError)


async def test_after_a_503_nothing_of_the_handlers_response_is_sent(world: World) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["a"] = 1
        for _ in range(2):  # an error page of its own, when the first start is not enough
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"saved", "more_body": True})
            await send({"type": "http.response.body", "body": b"!"})

    world.store.down = {"commit"}
    answer = await Visitor(SessionMiddleware(app, world.sessions)).asks()
    refused(answer)
    assert answer.error is None


async def test_administration_that_is_not_answered_is_503_too(world: World) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"].logout()
        await world.sessions.end_all("ann")

    visitor = Visitor(app_of(world, sets(a=1)))
    await visitor.asks()
    visitor.app = SessionMiddleware(app, world.sessions)
    world.store.down = {"end_all"}
    refused(await visitor.asks())
    assert world.counted("ended") == {"ended": 1}, "the logout counts"
