"""``cluster://`` URLs: what is understood, and what is refused in one sentence."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from samesession.cluster.options import DEFAULT_PORT, LONGEST_SOCKET, Options, resolve, shown
from samesession.errors import ConfigError
from samesession.settings import Url
from samesession.strategies import strategy_of


def options(url: str, **env: str) -> Options:
    return Options.of(Url.parse(url), env)


def test_a_url_says_who_the_members_are_and_how_many_copies() -> None:
    found = options("cluster://a:1,b,[::1]:3/folder?copies=5&ack=replicated(2)&partition=refuse")
    assert found.seeds == (("a", 1), ("b", DEFAULT_PORT), ("::1", 3))
    assert (found.copies, found.ack, found.refuse) == (5, 2, True)
    assert found.folder.parent == Path("/folder/cluster")


def test_the_defaults_are_three_copies_and_one_acknowledgement() -> None:
    found = options("cluster://")
    assert (found.seeds, found.copies, found.ack, found.refuse) == ((), 3, 1, False)
    assert (found.tls, found.multicast, found.deadline_ms) == (None, False, 250)


def test_everybody_and_nobody_can_hold_a_copy() -> None:
    assert options("cluster://?copies=all").copies == 0
    assert options("cluster://?ack=authority").ack == 0
    assert options("cluster://?ack=replicated").ack == 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("cluster://a?copy=3", "did you mean 'copies'?"),
        ("cluster://a?copies=none", "is no number above 0"),
        ("cluster://a?ack=all", "write replicated(1)"),
        ("cluster://a?ack=replicated(0)", "write replicated(1)"),
        ("cluster://a?partition=maybe", "write accept or refuse"),
        ("cluster://a?discover=dns", "write listed or multicast"),
        ("cluster://a?tls=/nowhere", "ca.pem is not in it"),
        ("cluster://a?listen=10.0.0.1:x", "write 10.0.0.1:7420"),
        ("cluster://a?listen=10.0.0.1:70000", "write 10.0.0.1:7420"),
        ("cluster://a,,b", "empty"),
        ("cluster://a:x,b", "cannot be read as a URL"),
        ("redis://a,b", "redis:// takes one"),
    ],
)
def test_what_is_wrong_is_named_with_the_way_out(url: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        strategy_of(url).open_loop()
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_environment_says_where_this_server_listens() -> None:
    assert options("cluster://", SAMESESSION_LISTEN="127.0.0.1:99").listening() == ("127.0.0.1", 99)
    both = options("cluster://?listen=127.0.0.1:98", SAMESESSION_LISTEN="127.0.0.1:99")
    assert both.listening() == ("127.0.0.1", 98)
    assert options("cluster://?listen=[::1]").listening() == ("::1", DEFAULT_PORT)


def test_of_the_listed_addresses_this_machines_own_is_listened_on() -> None:
    # 203.0.113.0/24 is for documentation (RFC 5737): no machine has it.
    assert options("cluster://203.0.113.1,127.0.0.1:5").listening() == ("127.0.0.1", 5)
    with pytest.raises(ConfigError, match=r"none is this machine.*SAMESESSION_LISTEN"):
        options("cluster://203.0.113.1").listening()
    with pytest.raises(ConfigError, match=r"127.0.0.1:5, 127.0.0.1:6 are this machine"):
        options("cluster://127.0.0.1:5,127.0.0.1:6").listening()


@pytest.mark.parametrize("address", ["192.0.2.7:7420", "example.org", "[2001:db8::1]:7420"])
def test_nobody_listens_beyond_loopback_without_tls(address: str) -> None:
    with pytest.raises(ConfigError, match=r"without TLS.*\?tls=FOLDER"):
        options(f"cluster://?listen={address}").listening()


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]:7420"])
def test_every_address_is_no_address_to_tell_the_others(address: str) -> None:
    with pytest.raises(ConfigError, match="must be told one address"):
        options(f"cluster://?listen={address}").listening()


def test_a_name_stands_for_all_its_addresses() -> None:
    expected = {a[4][0] for a in socket.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)}
    assert {host for host, _ in resolve((("localhost", 1),))} == expected
    assert resolve((("no-such-name.invalid", 1),)) == []


def test_addresses_are_shown_as_they_are_written() -> None:
    assert [shown(("::1", 1)), shown(("h", 2))] == ["[::1]:1", "h:2"]


def test_the_agents_socket_has_a_name_that_fits(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    found = options(f"cluster://{deep}", SAMESESSION_SERVER="s1")
    assert len(str(found.socket)) <= LONGEST_SOCKET
    assert options(f"cluster://{deep}", SAMESESSION_SERVER="s2").socket != found.socket


@pytest.mark.parametrize(
    ("url", "affinity"),
    [
        ("cluster://", "none"),
        ("cluster://?affinity=cookie", "cookie"),
        ("cluster://?affinity=ip", "ip"),
        ("cluster://?affinity=none", "none"),
        ("sticky://", "cookie"),
        ("sticky://?affinity=ip", "ip"),
        ("memory://?affinity=none", "none"),
        ("memcached://127.0.0.1?affinity=cookie", "cookie"),
        ("sqlite:///x?affinity=cookie", "cookie"),
    ],
)
def test_every_url_may_ask_for_an_affinity(url: str, affinity: str) -> None:
    found = strategy_of(url)
    assert found.affinity == affinity
    assert found.url.parameters == {}  # stores know nothing of balancers


def test_an_affinity_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="affinity='x': write none or cookie or ip"):
        strategy_of("sticky://?affinity=x")
