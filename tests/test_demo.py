"""The demo: every route of the probe application, the shop and its page."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pytest
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from samesession import Cookie, Sessions
from samesession.demo import create_app
from samesession.demo.place import Place, without_secrets
from samesession.demo.shop import PRODUCTS

pytestmark = pytest.mark.anyio

KEYS = ["the key of every server in these tests"]
NOT_JSON = [b"", b"{", b"NaN", b"1e999", b'"\\ud800"', b"\xff", b"[" * 100_000, b"9" * 5_000]


def server(name: str = "s1", sessions: Sessions | None = None, **place: Any) -> Starlette:
    """Make one server; those that share no sessions share at least the keys, as over memory://."""
    return create_app(sessions or some_sessions(), Place(server=name, **place))


def some_sessions(url: str = "memory://") -> Sessions:
    return Sessions.from_url(url, keys=KEYS, cookie=Cookie(secure=False))


def browser_at(app: Starlette, *, like: AsyncClient | None = None) -> AsyncClient:
    """Open a browser at one server, with the cookies of another browser if one is given."""
    cookies = None if like is None else dict(like.cookies)
    return AsyncClient(transport=ASGITransport(app), base_url="http://shop", cookies=cookies)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def app() -> Starlette:
    return server()


@pytest.fixture
def ann(app: Starlette) -> AsyncClient:
    return browser_at(app)


@pytest.fixture
def other(app: Starlette) -> AsyncClient:
    """A second browser at the same server."""
    return browser_at(app)


async def read(browser: AsyncClient) -> dict[str, Any]:
    answer = await browser.get("/api/session")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def put(browser: AsyncClient, key: str, value: object) -> httpx.Response:
    return await browser.put(f"/api/session/{key}", content=json.dumps(value))


async def append(browser: AsyncClient, key: str, value: object) -> httpx.Response:
    return await browser.post(f"/api/session/{key}/append", content=json.dumps(value))


# ---- one session --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/plain", "/health", "/api/about", "/api/counts", "/"])
async def test_a_route_that_needs_no_session_touches_none(ann: AsyncClient, path: str) -> None:
    answer = await ann.get(path)
    assert answer.status_code == 200
    assert "vary" not in answer.headers
    assert "set-cookie" not in answer.headers


async def test_a_stranger_is_not_known_and_gets_no_cookie(ann: AsyncClient) -> None:
    answer = await ann.get("/api/session")
    assert answer.json() == {
        "server": "s1",
        "known": False,
        "principal": None,
        "handle": None,
        "version": 0,
        "data": {},
    }
    assert "set-cookie" not in answer.headers


async def test_what_was_put_is_read(ann: AsyncClient) -> None:
    answer = await put(ann, "cart", [1, {"two": None}])
    assert answer.json() == {"server": "s1", "version": (await read(ann))["version"]}
    found = await read(ann)
    assert found["known"] is True
    assert found["data"] == {"cart": [1, {"two": None}]}
    assert isinstance(found["handle"], str)


async def test_the_version_in_the_answer_grows_with_each_write(ann: AsyncClient) -> None:
    versions = [
        (await put(ann, "a", 1)).json()["version"],
        (await put(ann, "b", 1)).json()["version"],
        (await append(ann, "c", 1)).json()["version"],
        (await ann.put("/api/slow/d?ms=0", json=1)).json()["version"],
        (await ann.delete("/api/session/a")).json()["version"],
    ]
    assert versions == sorted(set(versions))


async def test_a_key_is_removed_and_removing_it_again_is_fine(ann: AsyncClient) -> None:
    await put(ann, "a", 1)
    await put(ann, "b", 2)
    assert (await ann.delete("/api/session/a")).status_code == 200
    assert (await ann.delete("/api/session/a")).status_code == 200
    assert (await read(ann))["data"] == {"b": 2}


async def test_appending_starts_a_list_and_then_extends_it(ann: AsyncClient) -> None:
    for value in (1, "two", [3]):
        assert (await append(ann, "log", value)).status_code == 200
    assert (await read(ann))["data"] == {"log": [1, "two", [3]]}


@pytest.mark.parametrize("value", [None, "text", {"a": 1}, 7])
async def test_appending_to_something_else_than_a_list_is_refused(
    ann: AsyncClient, value: object
) -> None:
    await put(ann, "a", value)
    answer = await append(ann, "a", 1)
    assert answer.status_code == 409
    assert "list" in answer.json()["error"]
    assert (await read(ann))["data"] == {"a": value}


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:12]))
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/api/session/a"),
        ("POST", "/api/session/a/append"),
        ("PUT", "/api/slow/a?ms=0"),
    ],
)
async def test_a_body_that_is_not_json_is_refused(
    ann: AsyncClient, method: str, path: str, body: bytes
) -> None:
    answer = await ann.request(method, path, content=body)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]
    assert (await read(ann))["known"] is False


async def test_a_body_longer_than_any_session_is_refused(ann: AsyncClient) -> None:
    assert (await ann.put("/api/session/a", content=b" " * (1 << 21) + b"1")).status_code == 413


@pytest.mark.parametrize("value", ["x" * 70_000, 1 << 70, [[]] * 70_000])
async def test_a_value_that_no_session_holds_is_refused_and_the_rest_stays(
    ann: AsyncClient, value: object
) -> None:
    await put(ann, "a", 1)
    assert 400 <= (await put(ann, "b", value)).status_code < 500
    assert (await read(ann))["data"] == {"a": 1}


@pytest.mark.parametrize("value", ["x" * 40_000, 1 << 70])
async def test_an_append_that_no_session_holds_is_refused_and_the_list_stays(
    ann: AsyncClient, value: object
) -> None:
    await put(ann, "log", ["x" * 40_000])
    assert 400 <= (await append(ann, "log", value)).status_code < 500
    assert (await read(ann))["data"] == {"log": ["x" * 40_000]}


@pytest.mark.parametrize("query", ["", "?ms=", "?ms=x", "?ms=-1", "?ms=1.5", "?ms=30001", "?ms=²"])
async def test_a_slow_write_needs_milliseconds(ann: AsyncClient, query: str) -> None:
    answer = await ann.put(f"/api/slow/a{query}", json=1)
    assert answer.status_code == 400
    assert "ms" in answer.json()["error"]


async def test_a_slow_write_and_a_fast_one_to_another_key_both_stay(app: Starlette) -> None:
    async with browser_at(app) as browser:
        await put(browser, "begin", 0)

        async def slow() -> None:
            assert (await browser.put("/api/slow/a?ms=200", json=1)).status_code == 200

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slow)
            await anyio.wait_all_tasks_blocked()  # the slow one has read, and waits
            assert (await put(browser, "b", 2)).status_code == 200
        assert (await browser.get("/api/session")).json()["data"] == {"begin": 0, "a": 1, "b": 2}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/login/ann"), ("POST", "/api/session"), ("GET", "/api/nothing")],
)
async def test_a_wrong_path_or_method_is_refused_with_a_sentence(
    ann: AsyncClient, method: str, path: str
) -> None:
    answer = await ann.request(method, path)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]


async def test_counts_are_numbers_with_the_servers_name(ann: AsyncClient) -> None:
    counts = (await ann.get("/api/counts")).json()
    assert counts.pop("server") == "s1"
    assert counts
    assert all(type(number) is int for number in counts.values())


async def test_a_store_that_does_not_answer_is_503_and_never_500() -> None:
    with socket.socket() as nobody:  # bound, not listening: connections are refused
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
        async with browser_at(server(sessions=some_sessions(url))) as browser:
            assert (await browser.get("/api/plain")).status_code == 200
            for answer in (
                await put(browser, "a", 1),
                await browser.post("/api/login/ann"),
                await browser.post("/shop/basket/tea"),
            ):
                assert answer.status_code == 503
                assert "retry-after" in answer.headers


# ---- who ----------------------------------------------------------------------------------------


async def test_login_keeps_the_data_under_a_new_handle(ann: AsyncClient) -> None:
    await put(ann, "cart", [1])
    before = await read(ann)
    assert (await ann.post("/api/login/ann")).json() == {"server": "s1", "principal": "ann"}
    after = await read(ann)
    assert after["principal"] == "ann"
    assert after["data"] == {"cart": [1]}
    assert after["handle"] != before["handle"]


@pytest.mark.parametrize("name", ["x" * 129, "a%00b", "a%0ab", "%F0%9F%8D%90" * 100])
async def test_a_name_that_is_no_name_is_refused(ann: AsyncClient, name: str) -> None:
    assert (await ann.post(f"/api/login/{name}")).status_code == 400
    assert (await read(ann))["known"] is False


async def test_logout_leaves_a_stranger(ann: AsyncClient) -> None:
    await ann.post("/api/login/ann")
    assert (await ann.post("/api/logout")).json() == {"server": "s1", "principal": None}
    found = await read(ann)
    assert (found["known"], found["principal"], found["data"]) == (False, None, {})


async def test_rotation_changes_the_handle_and_nothing_else(ann: AsyncClient) -> None:
    await ann.post("/api/login/ann")
    await put(ann, "a", 1)
    before = await read(ann)
    assert (await ann.post("/api/rotate")).json() == {"server": "s1", "principal": "ann"}
    after = await read(ann)
    assert after["handle"] != before["handle"]
    assert (after["principal"], after["data"]) == ("ann", {"a": 1})


async def test_nobody_has_no_sessions(ann: AsyncClient) -> None:
    assert (await ann.get("/api/sessions")).json() == []


async def test_the_list_of_sessions_says_which_one_is_current(
    ann: AsyncClient, other: AsyncClient
) -> None:
    await ann.post("/api/login/ann")
    await other.post("/api/login/ann")
    held = (await ann.get("/api/sessions")).json()
    assert [set(one) for one in held] == [{"handle", "created_at", "last_seen", "current"}] * 2
    assert {one["handle"]: one["current"] for one in held} == {
        (await read(ann))["handle"]: True,
        (await read(other))["handle"]: False,
    }
    assert all(re.match(r"\d{4}-\d\d-\d\dT.*\+00:00$", one["created_at"]) for one in held)


async def test_logout_everywhere_ends_every_session_of_ann_and_none_of_bob(
    app: Starlette, ann: AsyncClient, other: AsyncClient
) -> None:
    bob = browser_at(app)
    await ann.post("/api/login/ann")
    await other.post("/api/login/ann")
    await bob.post("/api/login/bob")
    answer = await ann.post("/api/logout-everywhere")
    assert answer.json() == {"server": "s1", "principal": None}
    assert [(await read(one))["principal"] for one in (ann, other, bob)] == [None, None, "bob"]


async def test_logout_everywhere_of_nobody_is_fine(ann: AsyncClient) -> None:
    assert (await ann.post("/api/logout-everywhere")).json() == {"server": "s1", "principal": None}


@pytest.mark.parametrize("path", ["/api/session/%2F", "/api/session/", "/api/session/a%2Fb"])
async def test_a_key_holds_no_slash_and_nobody_is_sent_elsewhere(
    ann: AsyncClient, path: str
) -> None:
    answer = await ann.put(path, content="1")
    assert 400 <= answer.status_code < 500
    assert "set-cookie" not in answer.headers


# ---- the shop -----------------------------------------------------------------------------------


async def test_the_basket_counts_up_and_down(ann: AsyncClient) -> None:
    for _ in range(2):
        await ann.post("/shop/basket/tea")
    assert (await ann.post("/shop/basket/pears")).json()["basket"] == {"tea": 2, "pears": 1}
    assert (await ann.delete("/shop/basket/pears")).json()["basket"] == {"tea": 2}
    assert (await ann.get("/shop")).json()["basket"] == {"tea": 2}


async def test_taking_out_what_is_not_in_the_basket_changes_nothing(ann: AsyncClient) -> None:
    assert (await ann.delete("/shop/basket/tea")).json()["basket"] == {}


async def test_the_shop_sells_only_what_it_has(ann: AsyncClient) -> None:
    assert (await ann.post("/shop/basket/unicorn")).status_code == 404
    assert (await read(ann))["known"] is False


@pytest.mark.parametrize("junk", [-1, 1 << 40, True, "2", None, [1]])
async def test_a_count_that_is_none_is_none_in_the_basket(ann: AsyncClient, junk: object) -> None:
    await put(ann, "basket:tea", junk)
    assert (await ann.get("/shop")).json()["basket"] == {}
    assert (await ann.post("/shop/basket/tea")).json()["basket"] == {"tea": 1}


async def test_the_shop_tells_whether_it_knew_the_visitor_before_this_request(
    ann: AsyncClient,
) -> None:
    assert (await ann.post("/shop/basket/tea")).json()["known"] is False
    assert (await ann.post("/shop/basket/tea")).json()["known"] is True


async def test_the_shop_lists_the_visitors_sessions(ann: AsyncClient) -> None:
    await ann.post("/api/login/ann")
    view = (await ann.get("/shop")).json()
    assert view["principal"] == "ann"
    assert [one["current"] for one in view["sessions"]] == [True]


async def test_a_server_with_memory_of_its_own_does_not_know_a_visitor_of_another(
    ann: AsyncClient,
) -> None:
    await ann.post("/shop/basket/tea")
    elsewhere = browser_at(server("s2"), like=ann)
    view = (await elsewhere.get("/shop")).json()
    assert (view["server"], view["known"], view["basket"]) == ("s2", False, {})
    assert (await ann.get("/shop")).json()["known"] is True


async def test_servers_over_one_store_show_the_same_session() -> None:
    sessions = some_sessions()
    first = browser_at(server("s1", sessions))
    await first.post("/shop/basket/tea")
    second = browser_at(server("s2", sessions), like=first)
    view = (await second.get("/shop")).json()
    assert (view["server"], view["known"], view["basket"]) == ("s2", True, {"tea": 1})


# ---- the page -----------------------------------------------------------------------------------


async def test_the_page_loads_nothing_from_anywhere(ann: AsyncClient) -> None:
    answer = await ann.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    loads = (
        r"""(?:src|srcset|href|action)=["']?+(?!data:|#)|@import|url\(|import\s*\(|<iframe|<base"""
    )
    assert re.findall(loads, answer.text) == []
    addresses = set(re.findall(r"(?:https?|wss?):?//[^\s'\"]+", answer.text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, which nobody loads


async def test_the_page_has_a_picture_of_every_product(ann: AsyncClient) -> None:
    pictures = set(re.findall(r'<symbol id="(\w+)"', (await ann.get("/")).text))
    assert pictures == set(PRODUCTS)
    assert [one["id"] for one in (await ann.get("/api/about")).json()["products"]] == list(PRODUCTS)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "memory://"),
        ("sticky://", "sticky://"),
        ("sticky:///run/user/1000/store", "sticky://"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://me:pass@host:6379/0?near=16MB&password=x", "redis://host:6379/0?near=16MB"),
        ("redis://:pa/ss@host/0", "redis://host/0"),
        ("redis://:pa?s@s#@host/0", "redis://host/0"),
        ("redis+sentinel://u:p@one:1,two:2/main#p", "redis+sentinel://one:1,two:2/main"),
        ("cluster://a,b?copies=2&affinity=cookie", "cluster://a,b?copies=2&affinity=cookie"),
        ("odd:secret", "odd"),
        ("cluster://10.0.0.1,10.0.0.2/var/lib/shop?tls=/etc/tls", "cluster://10.0.0.1,10.0.0.2"),
    ],
)
def test_the_strategy_is_shown_without_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_the_place_comes_from_the_environment_of_up() -> None:
    environ = {
        "SAMESESSION_SERVER": "s2",
        "SAMESESSION_URL": "redis://:secret@localhost/0",
        "SAMESESSION_AFFINITY": "ip",
        "SAMESESSION_UP": "1",
    }
    place = Place.from_env(environ)
    assert place == Place("s2", "redis://localhost/0", "ip", stoppable=True)
    assert place.strategy == "external store"
    assert Place.from_env({}) == Place("s1", "memory://", None, stoppable=False)


# ---- a real server, as `up` starts one ----------------------------------------------------------


async def test_a_server_outside_up_refuses_to_stop(ann: AsyncClient) -> None:
    answer = await ann.post("/api/stop", headers={"X-Demo": "1"})
    assert answer.status_code == 403
    assert "samesession up" in answer.json()["error"]


async def test_stopping_needs_a_header_that_no_form_on_another_site_can_send() -> None:
    answer = await browser_at(server(stoppable=True)).post("/api/stop")
    assert answer.status_code == 403
    assert "X-Demo" in answer.json()["error"]


async def test_a_server_refuses_to_stop_in_place_of_another() -> None:
    browser = browser_at(server("s1", stoppable=True))
    answer = await browser.post("/api/stop?server=s2", headers={"X-Demo": "1"})
    assert answer.status_code == 409
    assert answer.json()["server"] == "s1"


@dataclass(frozen=True)
class Real:
    """A server process of its own, in its own process group."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket(self) -> str:
        return f"ws://127.0.0.1:{self.port}/api/socket"


@pytest.fixture
def real() -> Iterator[Real]:
    with socket.socket() as listener:  # listening already, so the first request waits, not fails
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "uvicorn",
                "samesession.demo:app",
                "--fd",
                str(listener.fileno()),
            ],
            env={**os.environ, "SAMESESSION_UP": "1", "SAMESESSION_SERVER": "s7"},
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        port = listener.getsockname()[1]
    try:
        yield Real(process, port)
    finally:
        process.kill()
        process.wait()


def test_a_server_of_up_answers_and_then_is_gone(real: Real) -> None:
    answer = httpx.post(f"{real.address}/api/stop", headers={"X-Demo": "1"}, timeout=20)
    assert answer.json() == {"server": "s7"}
    assert real.process.wait(10) == -signal.SIGKILL


# ---- sockets, which need a real server ----------------------------------------------------------


def test_the_socket_says_who_is_there_and_echoes(real: Real) -> None:
    with connect(real.socket) as there:
        assert json.loads(there.recv(timeout=5)) == {"server": "s7", "principal": None}
        there.send("ping")
        assert there.recv(timeout=5) == "ping"
        there.send(b"\x00")
        assert there.recv(timeout=5) == b"\x00"


def test_the_socket_closes_when_its_session_ends(real: Real) -> None:
    with httpx.Client(base_url=real.address, timeout=20) as ann:
        ann.post("/api/login/ann")
        cookie = f"session={ann.cookies['session']}"
        with connect(real.socket, additional_headers={"Cookie": cookie}) as there:
            assert json.loads(there.recv(timeout=5)) == {"server": "s7", "principal": "ann"}
            ann.post("/api/logout")
            with pytest.raises(ConnectionClosed) as closed:
                there.recv(timeout=5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
