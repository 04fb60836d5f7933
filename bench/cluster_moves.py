"""What a cluster does when servers come and go, and what it takes to hold a million sessions.

Each is a cluster of its own, on this machine's loopback: a joiner takes 100 000 sessions over, a
server is killed under writes, and twelve servers hold sessions of 500 bytes with three copies.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samesession.errors import ConfigError, StoreUnavailableError

SHARDS = 1024
MB = 1 << 20
MILLION = 1_000_000


@dataclass
class Join:
    """A server with an empty map comes to two that hold so many sessions, several times."""

    sessions: int
    level_s: list[float]
    ready_s: list[float]
    agent_cpu_s: list[float]


@dataclass
class Death:
    """One of three servers is killed under writes, several times."""

    writes: int
    unknown: int
    pauses_s: list[float]


@dataclass
class Memory:
    """What servers need to hold their share, measured."""

    servers: int
    sessions: int
    copies: list[int]
    map_bytes: list[float]
    own_mb: float
    own_mb_empty: float

    @property
    def bytes_a_copy(self) -> float:
        """Of the map."""
        return sum(self.map_bytes) / sum(self.copies)


def join(sessions: int, rounds: int) -> Join:
    """From the start of the joiner's process until it lacks nothing of any shard."""
    from agents.hosts import on_loopback
    from agents.stored import store

    from bench.cluster import cpu_s

    measured = Join(sessions, [], [], [])
    map_mb = 64 + sessions * 3 // 1000
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        store(Path(folder), ["s1", "s2"], sessions, map_size=map_mb * MB)
        with on_loopback(3, Path(folder), "copies=3", size=f"{map_mb}MB") as hosts:
            joiner = hosts[-1]
            _level(joiner)
            for _ in range(rounds):
                joiner.kill()
                shutil.rmtree(joiner.options.folder)
                time.sleep(4)
                began = time.monotonic()
                joiner.start()
                joiner.tell("join")
                _level(joiner)
                measured.level_s.append(time.monotonic() - began)
                measured.agent_cpu_s.append(cpu_s([joiner]))
                assert joiner.hear()["is"] == "ready"
                measured.ready_s.append(time.monotonic() - began)
            killed(hosts)
    return measured


def death(rounds: int, rate: float = 200) -> Death:
    """The longest that a write took after another server was killed."""
    from agents.hosts import joined, on_loopback

    measured = Death(0, 0, [])
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        on_loopback(3, Path(folder), "copies=3") as hosts,
    ):
        writer, victim = hosts[0], hosts[2]
        names = writer("many", number=100, size=500)["keys"]
        for _ in range(rounds):
            time.sleep(3)
            writer.tell("writing", keys=names, seconds=2, rate=rate)
            time.sleep(1)
            at = time.monotonic()
            victim.kill()
            writes = writer.hear(60)["writes"]
            measured.writes += len(writes)
            measured.unknown += sum(not applied for _, _, applied, _, _ in writes)
            measured.pauses_s.append(max(s for begun, s, *_ in writes if begun + s >= at))
            victim.start()
            joined([victim])
        killed(hosts)
    return measured


def memory(servers: int, sessions: int) -> Memory:
    """Sessions of 500 bytes in the maps of their owners; the agents are started over them."""
    from agents.hosts import on_loopback
    from agents.stored import store

    from bench.cluster import own_mb
    from samesession.cluster.placement import owners, shard_of

    names = [f"s{number + 1}" for number in range(servers)]
    size = 32 * MB + sessions * 3000 * 3 // 4  # the first few to start own what all will share
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        with on_loopback(servers, Path(folder) / "empty", "copies=3") as hosts:
            empty = sum(own_mb(host.agent) for host in hosts) / servers
            killed(hosts)
        keys = store(Path(folder), names, sessions, map_size=size)
        held = dict.fromkeys(names, 0)
        for key in keys:
            for name in owners(shard_of(key), names, 3):
                held[name] += 1
        with on_loopback(servers, Path(folder), "copies=3", size=f"{size // MB}MB") as hosts:
            for host in hosts:
                _level(host)
            used = [host.status()["agent"]["map_used"] * (size // MB) * MB for host in hosts]
            own = sum(own_mb(host.agent) for host in hosts) / servers
            killed(hosts)
    return Memory(servers, sessions, [held[name] for name in names], used, own, empty)


def killed(hosts: list[Any]) -> None:
    """End servers at once: one after the other handing over what it has takes a minute for 12."""
    for host in hosts:
        host.kill()


def page(joined: Join | None, died: Death | None, held: Memory | None) -> list[str]:
    """The lines of the report."""
    lines = []
    if joined is not None:
        took = ", ".join(f"{s:.2f}" for s in joined.level_s)
        ready = ", ".join(f"{s:.2f}" for s in joined.ready_s)
        cpu = ", ".join(f"{s:.2f}" for s in joined.agent_cpu_s)
        told = (
            f"**Joining.** A third server with an empty map, {joined.sessions} sessions of 500 "
            f"bytes: from the start of its process until it lacks nothing {took} s; ready {ready} "
            f"s; CPU of its agent, its start included, {cpu} s."
        )
        lines += ["", told]
    if died is not None:
        took = ", ".join(f"{s:.3f}" for s in died.pauses_s)
        told = (
            f"**A server is killed** (kill -9) under 200 writes a second: the longest that a write "
            f"took afterwards {took} s; {died.unknown} of {died.writes} writes unknown."
        )
        lines += ["", told]
    if held is not None:
        lines += ["", _arithmetic(held)]
    return lines


def _arithmetic(held: Memory) -> str:
    mean = sum(held.copies) / held.servers
    share = MILLION * 3 / held.servers
    spread = max(held.copies) / mean
    return (
        f"**Memory for a million sessions.** Measured: {held.servers} servers, {held.sessions} "
        f"sessions of 500 bytes, 3 copies: {min(held.copies)} to {max(held.copies)} copies a "
        f"server ({mean:.0f} on average, {spread:.2f} times that at most), "
        f"{held.bytes_a_copy:.0f} bytes of map a copy; an agent's own memory "
        f"{held.own_mb_empty:.0f} MB empty, {held.own_mb:.0f} MB with them. So 1 000 000 sessions: "
        f"1 000 000 x 3 / {held.servers} = {share:.0f} copies a server, x {held.bytes_a_copy:.0f} "
        f"bytes = {share * held.bytes_a_copy / MB:.0f} MB of map, "
        f"{share * spread * held.bytes_a_copy / MB:.0f} MB where the most are, beside "
        f"{held.own_mb:.0f} MB of the agent's own. With copies=all it would be "
        f"{MILLION * held.bytes_a_copy / MB:.0f} MB on each."
    )


def _level(host: Any) -> None:
    """Wait until a server's copies of every shard are as good as the authorities'."""
    deadline = time.monotonic() + 120
    while True:
        try:
            status = host.status()
            if status["level_in"] + status["authority_of"] == SHARDS:
                return
        except (ConfigError, StoreUnavailableError):  # it is on its way
            assert time.monotonic() < deadline
        time.sleep(0.1)  # each status costs its agent some milliseconds
