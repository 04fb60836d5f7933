"""PROMISES scenario 14: a websocket ends with the session it was opened on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from scenarios.browser import Browser
from scenarios.conftest import Browsers, Figure
from scenarios.site import Site, at_once, eventually

POLICY_VIOLATION = 1008
PATIENCE_S = 20.0


class Socket:
    """One websocket of a browser."""

    def __init__(self, stack: ExitStack, browser: Browser, at: str | None = None) -> None:
        address = browser.site.door(at).replace("http://", "ws://") + "/api/socket"
        cookies = "; ".join(f"{name}={value}" for name, value in browser.http.cookies.items())
        headers = {"Cookie": cookies} if cookies else None
        connecting = connect(address, additional_headers=headers, proxy=None)
        self.wire: ClientConnection = stack.enter_context(connecting)
        self.first = json.loads(self.wire.recv(timeout=PATIENCE_S))

    def echoes(self) -> bool:
        self.wire.send("here?")
        return self.wire.recv(timeout=PATIENCE_S) == "here?"

    def closed_with(self) -> int | None:
        """Wait for the server to close it, and say how it did."""
        with pytest.raises(ConnectionClosed) as closed:
            self.wire.recv(timeout=PATIENCE_S)
        return None if closed.value.rcvd is None else closed.value.rcvd.code


Sockets = Callable[..., Socket]


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with ExitStack() as stack:

        def open_one(browser: Browser, at: str | None = None) -> Socket:
            return Socket(stack, browser, at)

        yield open_one


def test_a_socket_closes_within_a_second_of_the_logout_on_another_server(
    site: Site, browsers: Browsers, sockets: Sockets, figure: Figure
) -> None:
    took = []
    for here, there in [("s1", "s2"), ("s2", "s3"), ("s3", "s1"), ("s1", "s3"), ("s2", "s1")]:
        ann, bob = browsers(site), browsers(site)
        ann.login("ann", here)
        bob.login("bob", here)
        hers, his = sockets(ann, here), sockets(bob, here)
        assert hers.first["principal"] == "ann"
        assert hers.echoes()
        ann.logout(there)
        began = time.monotonic()
        assert hers.closed_with() == POLICY_VIOLATION
        took.append(time.monotonic() - began)
        assert his.echoes()  # bob notices nothing
    # The promise is one second; a crowded machine may hold up one of five.
    assert median(took) <= 1.0
    assert max(took) <= 3.0
    figure(
        f"14 socket closed (1008) after a logout elsewhere: median {median(took):.2f} s, "
        f"worst {max(took):.2f} s of {len(took)}"
    )


@pytest.mark.parametrize("change", ["/api/login/ann", "/api/rotate"])
def test_a_socket_from_before_a_login_or_rotation_closes_and_a_new_one_stays(
    site: Site, browsers: Browsers, sockets: Sockets, change: str
) -> None:
    ann = browsers(site)
    ann.put("basket", "tea", "s1")
    before = sockets(ann, "s1")
    assert before.first["principal"] is None
    ann.done("POST", change, at="s2")
    after = sockets(ann, "s3")
    assert before.closed_with() == POLICY_VIOLATION
    assert after.echoes()
    time.sleep(0.6)  # longer than the servers' interval: nothing happens, which is no event
    assert after.echoes()
    ann.logout("s1")
    assert after.closed_with() == POLICY_VIOLATION


def test_a_socket_closes_when_its_principal_signs_out_everywhere(
    sites: dict[str, Site], browsers: Browsers, sockets: Sockets
) -> None:
    site = sites["redis"]
    ann, phone = browsers(site), browsers(site)
    ann.login("ann14", "s1")
    phone.login("ann14", "s2")
    open_ones = [sockets(ann, "s1"), sockets(phone, "s2"), sockets(phone, "s3")]
    ann.done("POST", "/api/logout-everywhere", at="s3")
    assert [socket.closed_with() for socket in open_ones] == [POLICY_VIOLATION] * 3


def test_a_strangers_socket_stays_open(site: Site, browsers: Browsers, sockets: Sockets) -> None:
    stranger = sockets(browsers(site), "s1")
    ann = browsers(site)
    ann.login("ann", "s1")
    ann.logout("s1")
    time.sleep(0.6)  # as above
    assert stranger.echoes()


def test_sockets_whose_clients_leave_at_the_moment_of_the_logout_keep_nobody_open(
    site: Site, browsers: Browsers, sockets: Sockets, figure: Figure
) -> None:
    closed = 0
    for _ in range(3):
        ann = browsers(site)
        ann.login("ann", "s1")
        many = [sockets(ann, "s1") for _ in range(12)]
        at_once(
            partial(ann.logout, "s2"),
            *(socket.wire.close for socket in many[:4]),
            *(partial(socket.wire.socket.shutdown, 2) for socket in many[4:8]),
        )
        for socket in many[8:]:
            assert socket.closed_with() == POLICY_VIOLATION
            closed += 1
    # Whoever comes later is still looked after.
    late = browsers(site)
    late.login("late", "s1")
    socket = sockets(late, "s1")
    late.logout("s2")
    assert socket.closed_with() == POLICY_VIOLATION
    assert site.complaints() == []
    figure(f"14 sockets beside leaving clients: {closed} of {closed} closed with 1008")


def test_sockets_leave_nothing_behind_on_their_server(
    sites: dict[str, Site], browsers: Browsers, sockets: Sockets
) -> None:
    site = sites["redis"]
    pid = site.fleet.pid("s1")
    ann = browsers(site)
    ann.login("ann", "s1")
    sockets(ann, "s1").wire.close()

    def files() -> int:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    base = files()
    many = [sockets(ann, "s1") for _ in range(20)]
    assert files() >= base + 20
    for socket in many:
        socket.wire.close()
    eventually(lambda: files() <= base)
