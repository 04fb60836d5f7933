"""Strangers at the port of a cluster with mutual TLS: none of them joins, changes anything, or
costs memory."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agents.hosts import Host, ended, joined
from agents.network import Node, eventually
from samesession.cluster import certificates
from samesession.cluster.transport import ALL
from samesession.lab.ports import Port

Figure = Callable[[str], None]

ROUNDS = 4
AT_ONCE = 40
MEMORY = 1.05

pytestmark = pytest.mark.timeout(300)


class Tap:
    """A cable to a server, and all that was said to it."""

    def __init__(self, to: Port) -> None:
        self.port = Port()
        self.heard: list[bytes] = []
        self._to = to
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", self.port.number), reuse_port=True)
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._open.append(near)
                far = socket.create_connection(("127.0.0.1", self._to.number))
                self._open.append(far)
                self.heard.append(b"")
                self._begin(self._pass_on, near, far, len(self.heard) - 1)
                self._begin(self._pass_on, far, near, None)

    def _pass_on(self, one: socket.socket, other: socket.socket, at: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if at is not None:
                    self.heard[at] += data
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for end in (self._listener, *self._open):
            end.close()
        self.port.close()


@pytest.fixture
def tapped(tmp_path: Path) -> Iterator[tuple[list[Host], Tap]]:
    """Two servers over mutual TLS; what the second says to the first is recorded."""
    certificates.make(tmp_path / "tls")
    with ExitStack() as stack:
        first, second = stack.enter_context(Port()), stack.enter_context(Port())
        tap = Tap(first)
        stack.callback(tap.close)
        hosts: list[Host] = []
        stack.callback(ended, hosts)
        rest = f"{tmp_path}?size=8MB&deadline=5s&tls={tmp_path / 'tls'}"
        for seed, mine in ((second, first), (tap.port, second)):
            url = f"cluster://{mine.address},{seed.address}{rest}"
            hosts.append(Host(f"s{len(hosts) + 1}", url, mine.address))
            if not hosts[1:]:
                joined(hosts)
        joined(hosts)
        yield hosts, tap


def memory(pid: int | None) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def knock(address: str, *frames: bytes, context: ssl.SSLContext | None = None) -> socket.socket:
    """Connect, say something, and leave the connection open."""
    host, _, port = address.rpartition(":")
    raw = socket.create_connection((host, int(port)), 5)
    raw.settimeout(2)
    with contextlib.suppress(OSError):  # an SSLError is one
        if context is not None:
            raw = context.wrap_socket(raw)
        for frame in frames:
            raw.sendall(frame)
    return raw


def test_strangers_join_nothing_change_nothing_and_cost_nothing(
    tapped: tuple[list[Host], Tap], tmp_path: Path, figure: Figure
) -> None:
    hosts, tap = tapped
    target = hosts[0].env["SAMESESSION_LISTEN"]
    keys = [secrets.token_hex(16) for _ in range(5)]
    for name in keys:
        assert hosts[1].patiently("create", key=name, principal="ann", a="1")["is"] == "applied"
    spoken = [data for data in tap.heard if len(data) > 2000]
    assert spoken, "what was recorded is a whole conversation"
    rogue = tmp_path / "rogue"
    certificates.make(rogue)
    nobody = ssl.create_default_context(cafile=str(tmp_path / "tls" / "ca.pem"))
    nobody.check_hostname = False
    other = ssl.create_default_context(cafile=str(tmp_path / "tls" / "ca.pem"))
    other.check_hostname = False
    other.load_cert_chain(rogue / "cert.pem", rogue / "key.pem")
    agents = [host.agent for host in hosts]
    knocks = 0

    def attack() -> None:
        nonlocal knocks
        waiting = [knock(target, os.urandom(64), context=nobody) for _ in range(10)]
        waiting += [knock(target, os.urandom(64), context=other) for _ in range(10)]
        waiting += [knock(target) for _ in range(AT_ONCE)]  # half-open
        waiting += [knock(target, os.urandom(1 + 97 * n)) for n in range(AT_ONCE)]
        waiting += [knock(target, data) for data in spoken for _ in range(5)]  # replayed
        knocks += len(waiting)
        time.sleep(0.2)  # for whatever they make of it
        for connection in waiting:
            connection.close()

    with ExitStack() as stack:
        for name, tls in (("plain", None), ("foreign", rogue)):
            port = stack.enter_context(Port())
            node = Node(name, port, (Known(target),), tls)  # type: ignore[arg-type]
            stack.callback(node.close)
            stack.callback(lambda node=node: node.transport.publish(ALL, b"rubbish"))
            strangers = [node]
        for _ in range(2):
            attack()
        before = [memory(pid) for pid in agents]
        for _ in range(ROUNDS):
            attack()
        after = [memory(pid) for pid in agents]
        assert not any(node.links for node in strangers)
    assert [host.agent for host in hosts] == agents
    for host, peer in zip(hosts, reversed(hosts), strict=True):
        told = host.status()
        assert set(told["agent"]["linked"]) == {peer.name}
        assert set(told["members"]) == {peer.name}
        assert not told["counts"].get("malformed")  # they did not get so far
        for name in keys:
            assert host.patiently("load", key=name)["values"] == {"a": "1"}
    assert hosts[1].patiently("put", key=keys[0], a="2")["is"] == "applied"
    eventually(lambda: hosts[0].patiently("load", key=keys[0])["values"] == {"a": "2"})
    grown = max(now / then for now, then in zip(after, before, strict=True))
    assert grown <= MEMORY
    figure(
        f"strangers at the cluster's port: {knocks} connections (half-open, random, replayed, "
        f"without and with a foreign certificate), 0 joined, memory {100 * (grown - 1):+.1f} %"
    )


class Known:
    """Where somebody listens, as a seed."""

    def __init__(self, address: str) -> None:
        self.address = address
