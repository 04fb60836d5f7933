"""The transport over zenoh keeps the rules of its seam, on loopback."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.network import Node, eventually, nodes, ports
from samesession.cluster import certificates
from samesession.cluster.transport import ALL, mailbox
from samesession.errors import ConfigError, StoreUnavailableError
from samesession.lab.ports import Port


@pytest.fixture(scope="module")
def three() -> Iterator[list[Node]]:
    with nodes(3) as started:
        yield started


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "tls"
    certificates.make(folder)
    return folder


def test_what_is_published_is_heard_by_the_others_and_not_by_oneself(three: list[Node]) -> None:
    one, two, third = three
    one.transport.publish(ALL, b"to all")
    one.transport.publish(mailbox("s2"), b"to two")
    eventually(lambda: b"to two" in two.heard and b"to all" in third.heard and two.heard.count)
    eventually(lambda: b"to all" in two.heard)
    assert b"to two" not in third.heard
    assert not one.heard


def test_any_bytes_arrive_as_they_were(three: list[Node]) -> None:
    one, two, _ = three
    frames = [b"", b"\x00", os.urandom(70_000), os.urandom(1 << 20)]
    for frame in frames:
        assert one.ask("s2", frame) == frame
        one.transport.publish(mailbox("s2"), frame)
        eventually(lambda frame=frame: frame in two.heard)  # type: ignore[misc]


def test_handlers_are_called_by_one_thread(three: list[Node]) -> None:
    for node in three:
        eventually(lambda node=node: len(node.threads) == 1)  # type: ignore[misc]


def test_a_question_may_be_answered_later_or_never(three: list[Node]) -> None:
    one, two, _ = three
    kept = []
    before = two.answers
    two.answers = lambda question, _: kept.append(question)
    try:
        answered: list[bytes | None] = []
        one.transport.query("s2", b"later", answered.append, within_ms=5000)
        eventually(lambda: kept)
        assert answered == []
        kept.pop().reply(b"now")
        eventually(lambda: answered)
        assert answered == [b"now"]
        began = time.monotonic()
        assert one.ask("s2", b"never", within_ms=300) is None
        assert time.monotonic() - began < 5
    finally:
        two.answers = before
        kept.clear()


def test_nobody_answers_for_a_server_that_is_not_there(three: list[Node]) -> None:
    assert three[0].ask("s9", b"?") is None


def test_a_server_that_goes_is_noticed_and_comes_back_under_its_name() -> None:
    with ports(2) as (first, second):
        one, two = Node("s1", first), Node("s2", second, (first,))
        try:
            eventually(lambda: one.sees("s2") and two.sees("s1"))
            two.close()
            eventually(one.sees)
            two = Node("s2", second, (first,))
            eventually(lambda: one.sees("s2") and two.sees("s1"))
            assert one.ask("s2", b"again") == b"again"
        finally:
            one.close()
            two.close()


def test_servers_that_know_one_other_find_all() -> None:
    with ports(3) as (first, second, third):
        started = [Node("s1", first), Node("s2", second, (first,)), Node("s3", third, (first,))]
        try:
            eventually(lambda: started[1].sees("s1", "s3") and started[2].sees("s1", "s2"))
            assert started[1].ask("s3", b"by gossip") == b"by gossip"
        finally:
            for node in started:
                node.close()


def test_two_clusters_that_never_met_are_introduced() -> None:
    """As after DNS told of new addresses, or a cut between servers that met by gossip."""
    with ports(4) as (first, second, third, fourth):
        started = [
            Node("s1", first),
            Node("s2", second, (first,)),
            Node("s3", third),
            Node("s4", fourth, (third,)),
        ]
        try:
            eventually(lambda: started[0].sees("s2") and started[2].sees("s4"))
            started[0].transport.reach([third.address])
            for node in started:
                others = {other.name for other in started} - {node.name}
                eventually(lambda n=node, o=others: n.sees(*o))  # type: ignore[misc]
            time.sleep(2.5)  # the introduction is over; the links stay
            assert started[1].sees("s1", "s3", "s4")
            assert started[1].ask("s4", b"linked") == b"linked"
        finally:
            for node in started:
                node.close()


def test_an_address_in_use_is_told() -> None:
    with Port() as port, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port.number))
        other.listen()
        with pytest.raises(StoreUnavailableError, match=port.address):
            Node("s1", port)


# -- mutual TLS -----------------------------------------------------------------------------------


def test_members_with_certificates_find_one_another(certified: Path) -> None:
    with nodes(3, certified) as started:
        assert started[0].ask("s3", b"over tls") == b"over tls"


def test_a_certificate_of_another_authority_is_refused(certified: Path, tmp_path: Path) -> None:
    certificates.make(tmp_path / "rogue")
    with nodes(2, certified) as (one, two), Port() as theirs:
        seeds = tuple(Known(node) for node in (one, two))
        rogue = Node("rogue", theirs, seeds, tmp_path / "rogue")  # type: ignore[arg-type]
        plain = None
        try:
            with Port() as other:
                plain = Node("plain", other, seeds)  # type: ignore[arg-type]
                plain.transport.publish(ALL, b"rubbish")
                rogue.transport.publish(ALL, b"rubbish")
                time.sleep(1.5)  # they try again and again meanwhile
                assert rogue.ask("s1", b"?", within_ms=1500) is None
                assert plain.ask("s1", b"?", within_ms=1500) is None
                assert one.sees("s2")
                assert two.sees("s1")
                assert {name for _, name, _ in one.changes} == {"s2"}
                assert not one.heard
                assert not two.heard
                assert not rogue.links
                assert not plain.links
        finally:
            rogue.close()
            if plain is not None:
                plain.close()


def test_without_a_certificate_a_client_gets_no_further_than_the_handshake(
    certified: Path,
) -> None:
    with nodes(2, certified) as (one, two):
        context = ssl.create_default_context(cafile=str(certified / "ca.pem"))
        context.check_hostname = False
        host, _, port = one.address.partition(":")
        for _ in range(20):
            with socket.create_connection((host, int(port)), 5) as raw:
                raw.settimeout(5)
                try:
                    with context.wrap_socket(raw) as wrapped:
                        wrapped.sendall(os.urandom(64))
                        assert wrapped.recv(1) == b""
                except (ssl.SSLError, ConnectionError):
                    pass
        assert one.sees("s2")
        assert two.ask("s1", b"fine") == b"fine"


def test_random_bytes_and_half_open_connections_change_nothing() -> None:
    with nodes(2) as (one, two):
        host, _, port = one.address.partition(":")
        open_ = [socket.create_connection((host, int(port)), 5) for _ in range(50)]
        for number, connection in enumerate(open_):
            if number % 2:
                connection.sendall(os.urandom(1 + number * 7))
        assert two.ask("s1", b"fine") == b"fine"
        assert one.sees("s2")
        assert not one.heard
        for connection in open_:
            connection.close()
        assert two.ask("s1", b"still") == b"still"


def test_an_authority_is_never_replaced(tmp_path: Path) -> None:
    made = certificates.make(tmp_path / "tls")
    before = [path.read_bytes() for path in made]
    assert all(path.stat().st_mode & 0o077 == 0 for path in made)
    with pytest.raises(ConfigError, match="exists"):
        certificates.make(tmp_path / "tls")
    assert [path.read_bytes() for path in made] == before


class Known:
    """Where a node listens, as a seed."""

    def __init__(self, node: Node) -> None:
        self.address = node.address
