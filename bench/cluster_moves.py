"""What a cluster does when servers come and go, and what it takes to hold a million sessions.

Each is a cluster of its own, on this machine's loopback: a joiner takes 100 000 sessions over, a
server is killed under writes, and twelve servers hold sessions of 500 bytes with three copies.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import suppress
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
    joiner_cpu_s: list[float]
    givers_cpu_s: list[float]

    def __str__(self) -> str:
        """A paragraph of the report."""
        return (
            f"**Joining.** A third server with an empty map, {self.sessions} sessions of 500 "
            f"bytes: from the start of its process until it lacks nothing {_list(self.level_s)} s "
            f"(looked at every 0.1 s); it answers requests from its own copies by then. CPU of its "
            f"agent, its start included, {_list(self.joiner_cpu_s)} s, of the two that give "
            f"{_list(self.givers_cpu_s)} s."
        )


@dataclass
class Death:
    """One of three servers is killed under writes, several times."""

    writes: int
    unknown: int
    pauses_s: list[float]

    def __str__(self) -> str:
        """A paragraph of the report."""
        return (
            f"**A server is killed** (kill -9) under 200 writes a second: the longest that a write "
            f"took afterwards {_list(self.pauses_s, 3)} s; {self.unknown} of {self.writes} writes "
            "unknown."
        )


@dataclass
class SignOut:
    """All sessions of one principal are ended at once, in a cluster of three."""

    sessions: int
    ended: int
    took_s: float
    cpu_s: list[float]

    def __str__(self) -> str:
        """A paragraph of the report."""
        return (
            f"**Signing out everywhere.** {self.sessions} sessions of one principal on three "
            f"servers of this machine: {self.ended} ended and known everywhere after "
            f"{self.took_s:.2f} s; CPU of the three agents {_list(self.cpu_s)} s."
        )


@dataclass
class Memory:
    """What servers need to hold their share, measured."""

    servers: int
    sessions: int
    copies: list[int]
    map_bytes: list[float]
    own_mb: float | None = None
    failed: str = ""

    @property
    def bytes_a_copy(self) -> float:
        """Of the map."""
        return sum(self.map_bytes) / sum(self.copies)

    def __str__(self) -> str:
        """A paragraph of the report, with the arithmetic."""
        mean = sum(self.copies) / self.servers
        share = MILLION * 3 / self.servers
        spread = max(self.copies) / mean
        a_copy = self.bytes_a_copy
        return (
            f"**Memory for a million sessions.** Measured: {self.servers} servers, "
            f"{self.sessions} sessions of 500 bytes, 3 copies: {min(self.copies)} to "
            f"{max(self.copies)} copies a server ({mean:.0f} on average, at most {spread:.2f} "
            f"times that), {a_copy:.0f} bytes of map a copy (what an empty map holds taken off). "
            f"So 1 000 000 sessions: 1 000 000 x 3 / {self.servers} = {share:.0f} copies a "
            f"server, x {a_copy:.0f} bytes = {share * a_copy / MB:.0f} MB of map, "
            f"{share * spread * a_copy / MB:.0f} MB where the most are, beside the agent's own "
            f"memory{'' if self.own_mb is None else f' ({self.own_mb:.0f} MB measured)'}. With "
            f"copies=all: {MILLION * a_copy / MB:.0f} MB on each.{self.failed}"
        )


def join(sessions: int, rounds: int) -> Join:
    """From the start of the joiner's process until it lacks nothing of any shard."""
    from agents.hosts import on_loopback
    from agents.stored import store

    from bench.cluster import cpu_s

    measured = Join(sessions, [], [], [], [])
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
                before = cpu_s(hosts[:-1])
                began = time.monotonic()
                joiner.start()
                joiner.tell("join")
                _level(joiner)
                measured.level_s.append(time.monotonic() - began)
                measured.joiner_cpu_s.append(cpu_s([joiner]))
                measured.givers_cpu_s.append(cpu_s(hosts[:-1]) - before)
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


def sign_out(sessions: int) -> SignOut:
    """From the worker's request until it is answered."""
    from agents.hosts import on_loopback
    from agents.stored import store

    from bench.cluster import cpu_s

    names, map_mb = ["s1", "s2", "s3"], 64 + sessions * 3 // 1000
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        store(Path(folder), names, sessions, map_size=map_mb * MB, principal="ann")
        with on_loopback(3, Path(folder), "copies=3", size=f"{map_mb}MB") as hosts:
            for host in hosts:
                _level(host)
            before = [cpu_s([host]) for host in hosts]
            ended = hosts[0]("end_all", principal="ann")
            took = [cpu_s([host]) - was for host, was in zip(hosts, before, strict=True)]
            killed(hosts)
    assert ended["is"] == "ended", ended
    return SignOut(sessions, ended["number"], ended["s"], took)


def memory(servers: int, sessions: int) -> Memory:
    """Sessions of 500 bytes in the maps of their owners; then the agents are started over them."""
    from agents.hosts import on_loopback
    from agents.stored import store

    from bench.cluster import own_mb
    from samesession.cluster.placement import owners, shard_of

    names = [f"s{number + 1}" for number in range(servers)]
    size = 32 * MB + sessions * 3000 * 3 // 4  # the first few to start own what all will share
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        store(Path(folder) / "empty", names[:1], 0, map_size=16 * MB)
        nothing = _used(Path(folder) / "empty", names[0], 16 * MB)
        keys = store(Path(folder), names, sessions, map_size=size)
        used = [_used(Path(folder), name, size) - nothing for name in names]
        held = dict.fromkeys(names, 0)
        for key in keys:
            for name in owners(shard_of(key), names, 3):
                held[name] += 1
        measured = Memory(servers, sessions, [held[name] for name in names], used)
        try:
            with on_loopback(servers, Path(folder), "copies=3", size=f"{size // MB}MB") as hosts:
                for host in hosts:
                    owns = [host.name in owners(shard, names, 3) for shard in range(SHARDS)]
                    _level(host, sum(owns))
                measured.own_mb = sum(own_mb(host.agent) for host in hosts) / servers
                killed(hosts)
            measured.map_bytes = [_used(Path(folder), name, size) - nothing for name in names]
        except AssertionError as error:
            measured.failed = f" The servers did not start over these maps: {error}."
    return measured


def _used(folder: Path, name: str, size: int) -> float:
    """Bytes of a map's pages, read where its server left it."""
    from samesession.cluster.lmdb_shelf import map_of

    map_ = map_of(folder / "cluster" / name, size)
    try:
        return map_.used() * map_.size
    finally:
        map_.close()


def _list(figures: list[float], digits: int = 2) -> str:
    return ", ".join(f"{figure:.{digits}f}" for figure in figures)


def killed(hosts: list[Any]) -> None:
    """End servers at once: one after the other handing over what it has takes a minute for 12."""
    for host in hosts:
        host.kill()


def _level(host: Any, shards: int = SHARDS) -> None:
    """Wait until a server's copies of so many shards are as good as the authorities'."""
    deadline = time.monotonic() + 120
    while True:
        told = "it does not answer"
        with suppress(ConfigError, StoreUnavailableError):  # it is on its way
            status = host.status()
            if status["level_in"] + status["authority_of"] >= shards:
                return
            told = f"{status['level_in']} level, {status['authority_of']} its own"
        assert time.monotonic() < deadline, f"{host.name} lacks something: {told}"
        time.sleep(0.1)  # each status costs its agent some milliseconds
