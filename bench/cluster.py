"""What clusters cost: ``python -m bench cluster``: messages, bytes, CPU and latency by servers.

Servers are real agents with a worker each, on this machine's loopback. Frames and their bytes are
counted where they are handed to the network (heartbeats and news to everybody apart); the wire adds
zenoh's and TCP's headers to each.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import cluster_moves
from bench.machine import machine, revision, versions

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "cluster.md"
KEYS = 100
READS = 1800
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Run:
    """One size of cluster, measured."""

    servers: int
    copies: str
    rate: float
    writes: int
    unknown: int
    commits_ms: list[float]
    logouts_ms: list[float]
    visible_ms: list[float]
    not_visible: int
    frames: float
    frame_bytes: float
    owner_bytes: float
    rounds_bytes_s: float
    idle_bytes_s: float
    read_frames: int
    reads: int
    cpu_ms: float
    idle_cpu: float
    rss_mb: float
    join_s: float


def main(arguments: list[str]) -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench cluster", description=__doc__)
    parser.add_argument("--servers", type=int, nargs="+", default=[3, 5, 8, 12])
    parser.add_argument("--all", type=int, nargs="*", default=[8], help="also with copies=all")
    parser.add_argument("--rate", type=float, default=200, help="writes a second, one writer")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--logouts", type=int, default=40)
    parser.add_argument("--joining", type=int, default=500, help="sessions that a joiner takes")
    parser.add_argument("--visible", type=int, default=200, help="writes looked for elsewhere")
    parser.add_argument("--takes", type=int, default=100_000, help="sessions of the large join")
    parser.add_argument("--rounds", type=int, default=2, help="large joins and kills; 0 for none")
    parser.add_argument("--holds", type=int, default=24_000, help="sessions on twelve servers")
    parser.add_argument("--ends", type=int, default=100_000, help="of one principal, signed out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT / "tests"))  # its servers are driven here
    runs: list[Run] = []
    moves: list[Any] = []
    failed: list[str] = []
    facts = _facts(arguments)

    def part(what: str, measure: Callable[[], Any]) -> Any:
        """Measure one thing; one that fails loses none of the others."""
        print(f"{what} …", file=sys.stderr, flush=True)
        began, found = time.monotonic(), None
        try:
            found = measure()
        except Exception as error:  # noqa: BLE001  (it is written down)
            traceback.print_exc()
            failed.append(f"{what}, after {time.monotonic() - began:.0f} s: {error!r}")
        return found

    def write() -> None:
        lines = [line for move in moves for line in ("", str(move))]
        lines += [line for why in failed for line in ("", f"**Not measured**: {why}")]
        options.out.write_text(page(runs, facts, options) + "\n".join([*lines, ""]))

    for number, copies in [(n, "3") for n in options.servers] + [(n, "all") for n in options.all]:
        run = part(
            f"{number} servers, copies={copies}",
            lambda number=number, copies=copies: measured(number, copies, options),  # type: ignore[misc]
        )
        runs += [] if run is None else [run]
        write()  # it takes minutes
    rounds = options.rounds
    for what, measure in (
        ("large joins", lambda: cluster_moves.join(options.takes, rounds)),
        ("deaths", lambda: cluster_moves.death(rounds + 2)),
        ("sign-outs", lambda: cluster_moves.sign_out(options.ends)),
        ("memory", lambda: cluster_moves.memory(12, options.holds)),
    ):
        if rounds:
            move = part(what, measure)
            moves += [] if move is None else [move]
            write()
    print(options.out.read_text())
    return 1 if failed else 0


def _facts(arguments: list[str]) -> tuple[tuple[str, str], ...]:
    return (
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{shlex.join(['python', '-m', 'bench', 'cluster', *arguments])}`"),
        ("commit", revision()),
        ("machine", machine()),
        ("load", f"{os.getloadavg()[0]:.1f} runnable processes at the end; others may share it"),
        ("versions", versions()),
    )


def measured(number: int, copies: str, options: argparse.Namespace) -> Run:
    """Start servers, use them, and count."""
    from agents.hosts import on_loopback

    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        on_loopback(number, Path(folder), f"copies={copies}") as hosts,
    ):
        writer = hosts[0]
        _settled(hosts)  # whoever is relieved of a shard would ask once for each of its copies
        names = writer("many", number=KEYS, size=500)["keys"]
        assert len(names) == KEYS
        for host in hosts:  # it is cached where it is used
            for name in names:
                host.patiently("load", key=name)
        _settled(hosts)

        idle = Meter(hosts)
        time.sleep(10)  # a round
        idle.stop()

        reading = Meter(hosts)
        rounds = READS // 3 // KEYS
        for host in hosts[:3]:
            assert host("present", keys=names * rounds)["number"] == KEYS * rounds
        reading.stop()

        writing = Meter(hosts)
        writer.tell("writing", keys=names, seconds=options.seconds, rate=options.rate)
        writes = writer.hear(options.seconds * 10 + 60)["writes"]
        writing.stop()
        seen = _visible_ms(hosts, names, options.visible)
        owners = (number if copies == "all" else min(3, number)) - 1
        done = [1000 * took_s for _, took_s, applied, _, _ in writes if applied]
        idle_cpu_s = idle.cpu_s / idle.took_s

        measured_ = Run(
            servers=number,
            copies=copies,
            rate=len(writes) / writing.took_s,
            writes=len(writes),
            unknown=len(writes) - len(done),
            commits_ms=sorted(done),
            logouts_ms=sorted(_logouts_ms(writer, options.logouts)),
            visible_ms=sorted(seen),
            not_visible=options.visible - len(seen),
            frames=writing.sent("frames") / len(writes),
            frame_bytes=writing.sent("bytes") / len(writes),
            owner_bytes=writing.sent("bytes", TO_OWNERS) / len(writes) / owners,
            rounds_bytes_s=idle.sent("bytes", ROUNDS) / idle.took_s / number,
            idle_bytes_s=idle.sent("bytes", TO_ALL) * (number - 1) / idle.took_s / number,
            read_frames=reading.sent("frames"),
            reads=3 * KEYS * rounds,
            cpu_ms=1000 * (writing.cpu_s - idle_cpu_s * writing.took_s) / len(writes),
            idle_cpu=100 * idle_cpu_s / number,
            rss_mb=sum(own_mb(host.agent) for host in hosts) / number,
            join_s=_rejoin_s(hosts, options.joining),
        )
        cluster_moves.killed(hosts)
        return measured_


TO_OWNERS = ("put", "fill", "carrying")
"""What takes a change to another owner; "carrying": inside the answer to one that asked."""

ROUNDS = (
    *("claim", "claimed", "fenced", "level", "listing", "listed", "fetch", "fetched"),
    *("hand", "release"),
)
"""Comparing copies every 10 s, and moving shards: whatever is read or written."""

TO_ALL = ("beat", "news")
"""Published once for everybody; each server that is linked gets its copy."""

APART = (*ROUNDS, *TO_ALL, "heard", "missed", "farewell", "forget")


class Meter:
    """What all agents sent and computed between two moments."""

    def __init__(self, hosts: list[Any]) -> None:
        """Begin."""
        self._hosts = hosts
        self._before = [_sent(host) for host in hosts]
        self._cpu_s = cpu_s(hosts)
        self._began = time.monotonic()

    def stop(self) -> None:
        """End."""
        self.took_s = time.monotonic() - self._began
        self.cpu_s = cpu_s(self._hosts) - self._cpu_s
        self._after = [_sent(host) for host in self._hosts]

    def sent(self, what: str, kinds: tuple[str, ...] | None = None) -> int:
        """Frames or bytes, of all servers together; of every kind but those `APART`, or of some."""
        pairs = zip(self._after, self._before, strict=True)
        return sum(
            row[what] - before.get(kind, {}).get(what, 0)
            for after, before in pairs
            for kind, row in after.items()
            if (kind not in APART if kinds is None else kind in kinds)
        )


def _logouts_ms(host: Any, number: int) -> list[float]:
    took = []
    for _ in range(number):
        name = secrets.token_hex(16)
        host.patiently("create", key=name, principal="ann", a="x")
        took.append(1000 * host.patiently("end", key=name)["s"])
    return took


def _visible_ms(hosts: list[Any], names: list[str], number: int) -> list[float]:
    """How long another server's worker takes to show a write, asked with the new cookie at once."""
    took = []
    for count in range(number):
        name, other = names[count % len(names)], hosts[1 + count % (len(hosts) - 1)]
        put = hosts[0]("put", key=name, n=f"seen {count}")
        shown = other("load", key=name, number=put["number"], tag=put["tag"])
        if shown["is"] == "record" and shown["values"]["n"] == f"seen {count}":
            took.append(1000 * shown["s"])
    return took


def _settled(hosts: list[Any]) -> None:
    """Wait until no shard moves any more: the first few to start owned what all share now."""
    moves = ("hand", "release", "fill")
    deadline = time.monotonic() + 30
    before, calm = None, 0
    while calm < 2:
        now = [(row["sent"], row["frames"]) for host in hosts for row in host.status()["sent"]]
        moved = [row for row in now if row[0] in moves]
        calm = calm + 1 if moved == before else 0
        before = moved
        assert time.monotonic() < deadline, "shards keep moving"
        time.sleep(1)


def _rejoin_s(hosts: list[Any], sessions: int) -> float:
    """Until a server that was killed has what the others have, its start included."""
    from agents.hosts import joined

    if sessions:
        hosts[0]("many", number=sessions, size=500)
    joiner = hosts[-1]
    joiner.kill()
    time.sleep(3)
    joiner.start()
    began = time.monotonic()
    joined([joiner])
    return time.monotonic() - began


def _sent(host: Any) -> dict[str, dict[str, int]]:
    return {row["sent"]: row for row in host.status()["sent"]}


def cpu_s(hosts: list[Any]) -> float:
    """CPU seconds of all agents."""
    return sum(_ticks(host.agent) for host in hosts) * TICK_S


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def own_mb(pid: int) -> float:
    """Memory without what it shares, as the map."""
    _, pages, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (pages - shared) * os.sysconf("SC_PAGE_SIZE") / 1e6


def page(runs: list[Run], facts: tuple[tuple[str, str], ...], options: argparse.Namespace) -> str:
    """The tables."""
    lines = ["# What a cluster costs", ""]
    lines += [f"- {name}: {value}" for name, value in facts]
    how = (
        f"{KEYS} sessions of 500 bytes, one worker of one server changing one key of each in turn "
        f"for {options.seconds:g} s. Frames are those that a write or a read causes among agents; "
        "what runs anyway is apart: heartbeats and news to everybody, and comparing copies every "
        "10 s (rounds). Bytes to each owner are those of the frames that take the change there. "
        "Compare inside this table only."
    )
    head = (
        "| servers | copies | writes/s | commit p50 / p99 ms | unknown | frames a write | bytes a "
        "write, all frames | bytes to each owner | agents' CPU a write, all, ms |"
    )
    lines += ["", how, "", head, "|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for run in runs:
        lines.append(
            f"| {run.servers} | {run.copies} | {run.rate:.0f} | {_at(run.commits_ms, 50):.2f} / "
            f"{_at(run.commits_ms, 99):.1f} | {run.unknown} of {run.writes} | {run.frames:.2f} | "
            f"{run.frame_bytes:.0f} | {run.owner_bytes:.0f} | {run.cpu_ms:.2f} |"
        )
    head = (
        "| servers | copies | logout p50 / p99 ms | visible elsewhere p50 / p99 ms | frames for "
        "unchanged reads | rounds, bytes/s a server | heartbeats, bytes/s a server, to all | idle "
        "CPU a server | own memory of an agent | rejoin after kill -9, s |"
    )
    lines += ["", head, "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for run in runs:
        lines.append(
            f"| {run.servers} | {run.copies} | {_at(run.logouts_ms, 50):.2f} / "
            f"{_at(run.logouts_ms, 99):.1f} | {_at(run.visible_ms, 50):.2f} / "
            f"{_at(run.visible_ms, 99):.1f} ({run.not_visible} of {options.visible} not) | "
            f"{run.read_frames} for {run.reads} | {run.rounds_bytes_s:.0f} | "
            f"{run.idle_bytes_s:.0f} | {run.idle_cpu:.1f} % | {run.rss_mb:.0f} MB | "
            f"{run.join_s:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _at(figures: list[float], percent: int) -> float:
    return figures[min(len(figures) - 1, len(figures) * percent // 100)] if figures else 0.0
