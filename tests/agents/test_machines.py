"""Servers in network namespaces, over mutual TLS: cuts, bad cables, and machines that die without
a word. Needs root, iproute2 and nftables."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agents.hosts import Host, Wires, ended, joined, namespaces, on_machines
from agents.network import eventually
from samesession.cluster import certificates

Figure = Callable[[str], None]

pytestmark = pytest.mark.timeout(240)  # deaths are noticed in seconds, on a shared machine
Machines = tuple[list[Host], Wires]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert os.geteuid() == 0, "network namespaces need root"
    for command in ("ip", "nft"):
        assert shutil.which(command), f"{command} is missing: apt-get install iproute2 nftables"
    folder = tmp_path_factory.mktemp("keys") / "tls"
    certificates.make(folder)
    return folder


@pytest.fixture
def three(tmp_path: Path, tls: Path) -> Iterator[Machines]:
    with on_machines(3, tmp_path, tls) as found:
        yield found


def key() -> str:
    return secrets.token_hex(16)


def made(host: Host, number: int, principal: str | None = "ann") -> list[str]:
    names = [key() for _ in range(number)]
    for name in names:
        assert host.patiently("create", key=name, principal=principal)["is"] == "applied"
    return names


def newest(host: Host, name: str) -> dict[str, Any]:
    """What the authority knows: a version that nobody has makes any copy ask."""
    return host.patiently("load", key=name, number=2**20, tag="0000")


def linked(hosts: list[Host], *expected: set[str]) -> bool:
    return all(
        set(host.status()["agent"]["linked"]) == names - {host.name}
        for host, names in zip(hosts, expected, strict=True)
    )


def pauses(writes: list[tuple[float, float, bool, str, int]], since: float) -> float:
    """The longest time without an applied write."""
    done = sorted(start + took for start, took, applied, _, _ in writes if applied)
    return max((b - a for a, b in pairwise(done) if b > since), default=0.0)


ALL = {"s1", "s2", "s3"}


def test_a_cut_of_ten_seconds_heals_and_both_sides_keep_what_they_acknowledged(
    three: Machines, figure: Figure
) -> None:
    hosts, wires = three
    names = made(hosts[0], 12)
    gone = made(hosts[0], 3)
    wires.unplug(2)
    cut = time.monotonic()
    eventually(lambda: linked(hosts[:2], {"s1", "s2"}, {"s1", "s2"}))
    noticed = time.monotonic() - cut
    for name in names:
        assert hosts[0].patiently("put", key=name, majority="1")["is"] == "applied"
    for name in gone:
        assert hosts[0].patiently("end", key=name)["is"] == "mark"
        # Each side keeps its word to its own side; the other cannot know.
        assert hosts[1]("load", key=name)["is"] == "mark"
    alone = [name for name in names if hosts[2].patiently("put", key=name, minority="1")]
    assert len(alone) == 12, "partition=accept: the minority serves its own side"
    time.sleep(max(0.0, cut + 10 - time.monotonic()))
    wires.plug(2)
    healed = time.monotonic()
    eventually(lambda: linked(hosts, ALL, ALL, ALL))

    def converged() -> bool:
        for host in hosts:
            for name in names:
                values = newest(host, name).get("values", {})
                if not {"majority", "minority"} <= values.keys():
                    return False
        return True

    eventually(converged, 30)
    took = time.monotonic() - healed
    eventually(lambda: all(newest(host, name)["is"] == "mark" for host in hosts for name in gone))
    assert took < 15
    figure(
        f"cut of 10 s over TLS: noticed after {noticed:.1f} s, after the heal both sides' writes "
        f"everywhere within {took:.1f} s, 3 of 3 logouts known"
    )


def test_with_refuse_the_minority_says_try_again(tmp_path: Path, tls: Path) -> None:
    with on_machines(3, tmp_path, tls, "partition=refuse") as (hosts, wires):
        (name,) = made(hosts[0], 1)
        wires.unplug(2)
        try:
            eventually(lambda: hosts[2]("put", key=name, late="1")["is"] == "unavailable", 15)
            assert hosts[0].patiently("put", key=name, fine="1")["is"] == "applied"
            eventually(lambda: hosts[2]("load", key=name)["is"] == "unavailable")
            assert hosts[2]("put", key=name, late="2")["is"] == "unavailable"
        finally:
            wires.plug(2)
        eventually(lambda: hosts[2]("put", key=name, again="1")["is"] == "applied", 30)
        eventually(lambda: {"fine", "again"} <= newest(hosts[1], name)["values"].keys())


def test_a_machine_that_dies_without_a_word_does_not_stall_the_others(
    tmp_path: Path, tls: Path, figure: Figure
) -> None:
    """With zenoh's own two receiving threads the healthy ones stalled for 8 to 10 s."""
    with on_machines(5, tmp_path, tls) as (hosts, wires):
        talking = made(hosts[0], 40, None)
        # Sessions whose authority and first copy are on machines that live.
        hosts[0].tell("writing", keys=talking, seconds=12, rate=40)
        time.sleep(4)
        dead = (3, 4)
        for index in dead:
            wires.unplug(index)
        cut = time.monotonic()
        writes = hosts[0].hear()["writes"]
        slow = [(start, took, name) for start, took, _, name, _ in writes if start + took > cut]
        stuck = {name for _, took, name in slow if took > 1}
        others = [took for _, took, name in slow if name not in stuck]
        assert len(slow) > 50
        # A shard whose owner died waits until the death is noticed; nobody else waits at all.
        last = [applied for start, _, applied, _, _ in writes if start > cut + 4]
        assert last
        assert all(last), "all shards have owners again within the lease and a moment"
        for index in dead:
            wires.plug(index)
        figure(
            f"two of five machines cut silently: other shards' writes waited {max(others):.2f} s "
            f"at most, longest pause of all {pauses(writes, cut):.2f} s"
        )


def test_a_one_directional_cut_ends_like_any_other(three: Machines, figure: Figure) -> None:
    hosts, wires = three
    names = made(hosts[0], 6)
    wires.filter(2, "ip saddr 10.231.0.1 drop")  # s3 hears nothing from s1, s1 hears s3
    took = []
    until = time.monotonic() + 6
    while time.monotonic() < until:  # before, while and after it is noticed
        for name in names:
            took.append(hosts[0].patiently("put", key=name, first="1")["s"])
            took.append(hosts[1].patiently("put", key=name, second="1")["s"])
        time.sleep(0.1)
    wires.filter(2)
    healed = time.monotonic()
    eventually(lambda: linked(hosts, ALL, ALL, ALL), 30)
    assert hosts[2].patiently("put", key=names[0], third="1")["is"] == "applied"
    for host in hosts:
        eventually(
            lambda host=host: all(  # type: ignore[misc]
                {"first", "second"} <= newest(host, name)["values"].keys() for name in names
            ),
            30,
        )
    figure(
        f"one direction cut for 6 s: {len(took)} writes, {max(took):.2f} s at most; whole again "
        f"{time.monotonic() - healed:.1f} s after the heal"
    )


def test_one_packet_in_a_hundred_lost_loses_no_write(three: Machines, figure: Figure) -> None:
    hosts, wires = three
    names = made(hosts[0], 10, None)
    for index in range(3):
        wires.filter(index, "numgen random mod 100 < 1 drop")
    hosts[0].tell("writing", keys=names, seconds=6, rate=50)
    writes = hosts[0].hear()["writes"]
    for index in range(3):
        wires.filter(index)
    last = {name: number for _, _, done, name, number in writes if done}
    for name, number in last.items():
        assert int(newest(hosts[2], name)["values"]["n"]) >= number
    took = sorted(took for _, took, done, _, _ in writes if done)
    failed = sum(not done for _, _, done, _, _ in writes)
    assert len(took) > len(writes) // 2
    figure(
        f"1 % loss, {len(writes)} writes: p50 {1e3 * took[len(took) // 2]:.1f} ms, p99 "
        f"{1e3 * took[len(took) * 99 // 100]:.0f} ms, {failed} unknown, 0 acknowledged ones lost"
    )


def test_with_refuse_a_logout_holds_on_both_sides_of_a_cut(
    tmp_path: Path, tls: Path, figure: Figure
) -> None:
    with on_machines(3, tmp_path, tls, "partition=refuse") as (hosts, wires):
        names = made(hosts[0], 3)
        assert all(hosts[2].patiently("load", key=name)["is"] == "record" for name in names)
        wires.unplug(2)
        took = []
        for name in names:
            answer = hosts[0].patiently("end", key=name)
            took.append(answer["s"])
            # The silent machine's workers still run; the lease of what they hold is over by now.
            assert hosts[2]("load", key=name)["is"] != "record"
        wires.plug(2)
        eventually(lambda: all(newest(hosts[2], name)["is"] == "mark" for name in names), 30)
        figure(f"logout with a machine cut silently: {max(took):.2f} s at most")


def test_machines_that_met_by_gossip_meet_again_after_a_cut(tmp_path: Path, tls: Path) -> None:
    """zenoh reconnects only seeds; s2 and s3 know one another from s1."""
    with on_machines(3, tmp_path, tls, listed=1) as (hosts, wires):
        names = made(hosts[0], 3)
        wires.filter(1, "ip saddr 10.231.0.3 drop")
        wires.filter(2, "ip saddr 10.231.0.2 drop")
        eventually(lambda: linked(hosts[1:], {"s1", "s2"}, {"s1", "s3"}), 15)
        wires.filter(1)
        wires.filter(2)
        eventually(lambda: linked(hosts, ALL, ALL, ALL), 20)
        for name in names:
            assert hosts[2].patiently("put", key=name, after="1")["is"] == "applied"


def test_a_paused_machine_is_fenced_when_it_wakes(three: Machines) -> None:
    hosts, _ = three
    names = made(hosts[0], 10)
    hosts[2].signal(signal.SIGSTOP)
    for name in names:
        assert hosts[0].patiently("put", key=name, while_="paused")["is"] == "applied"
    hosts[2].signal(signal.SIGCONT)
    for name in names:
        assert hosts[2].patiently("put", key=name, after="waking")["is"] == "applied"
        assert {"while_", "after"} <= newest(hosts[1], name)["values"].keys()


def test_one_name_that_resolves_to_all_servers_is_resolved_again(tmp_path: Path, tls: Path) -> None:
    """As DNS does when servers come: each knew only itself, so there were two clusters."""
    with namespaces(2) as names, resolving(names) as resolve:
        hosts: list[Host] = []
        try:
            for index, name in enumerate(names):
                resolve(index, index + 1)
                url = f"cluster://shop.internal{tmp_path}?size=8MB&deadline=5s&tls={tls}"
                within = ("ip", "netns", "exec", name)
                hosts.append(Host(f"s{index + 1}", url, f"10.231.0.{index + 1}", within=within))
            joined(hosts)
            assert linked(hosts, {"s1"}, {"s2"})
            alone = made(hosts[1], 3)
            resolve(0, 1, 2)
            eventually(lambda: linked(hosts, {"s1", "s2"}, {"s1", "s2"}), 30)
            eventually(lambda: all(newest(hosts[0], name)["is"] == "record" for name in alone))
        finally:
            ended(hosts)


@contextmanager
def resolving(names: list[str]) -> Iterator[Callable[..., None]]:
    """A hosts file for each namespace: ``ip netns exec`` lays it over /etc/hosts."""
    folders = [Path("/etc/netns") / name for name in names]

    def resolve(index: int, *servers: int) -> None:
        lines = [f"10.231.0.{server} shop.internal" for server in servers]
        (folders[index] / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    for folder in folders:
        folder.mkdir(parents=True)
    try:
        yield resolve
    finally:
        for folder in folders:
            shutil.rmtree(folder)
        with suppress(OSError):
            folders[0].parent.rmdir()  # unless others have namespaces too
