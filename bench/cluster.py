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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import machine, revision, versions

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "cluster.md"
KEYS = 100
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
    frames: float
    frame_bytes: float
    owner_bytes: float
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
    parser.add_argument("--servers", type=int, nargs="+", default=[3, 5, 8])
    parser.add_argument("--all", type=int, nargs="*", default=[5, 8], help="also with copies=all")
    parser.add_argument("--rate", type=float, default=200, help="writes a second, one writer")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--logouts", type=int, default=40)
    parser.add_argument("--joining", type=int, default=2000, help="sessions that a joiner takes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT / "tests"))  # its servers are driven here
    runs = []
    for number, copies in [(n, "3") for n in options.servers] + [(n, "all") for n in options.all]:
        print(f"{number} servers, copies={copies} …", file=sys.stderr, flush=True)
        runs.append(measured(number, copies, options))
    facts = (
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{shlex.join(['python', '-m', 'bench', 'cluster', *arguments])}`"),
        ("commit", revision()),
        ("machine", machine()),
        ("load", f"{os.getloadavg()[0]:.1f} runnable processes at the end; others may share it"),
        ("versions", versions()),
    )
    text = page(runs, facts, options)
    print(text)
    options.out.write_text(text)
    return 0


def measured(number: int, copies: str, options: argparse.Namespace) -> Run:
    """Start servers, use them, and count."""
    from agents.hosts import Host, joined

    with _running(number, copies) as hosts:
        writer: Host = hosts[0]
        names = writer("many", number=KEYS, size=500)["keys"]
        assert len(names) == KEYS
        for name in names:
            writer.patiently("put", key=name, n="0")
        time.sleep(2)

        before, began, cpu = [_sent(host) for host in hosts], time.monotonic(), _cpu(hosts)
        time.sleep(3)
        idle_s = time.monotonic() - began
        after, idle_cpu = [_sent(host) for host in hosts], _cpu(hosts)
        idle_bytes = sum(_sum(a, "bytes") - _sum(b, "bytes") for a, b in zip(after, before))

        before = [_sent(host) for host in hosts]
        reads = 2000
        for host in hosts:  # fetch once: it is cached where it is used
            for name in names:
                host.patiently("load", key=name)
        before = [_sent(host) for host in hosts]
        for host in hosts[:3]:
            assert host("present", keys=names * (reads // 3 // KEYS))["number"]
        after = [_sent(host) for host in hosts]
        read_frames = sum(
            _sum(a, "frames", _ASKED) - _sum(b, "frames", _ASKED) for a, b in zip(after, before)
        )

        before, cpu_before = [_sent(host) for host in hosts], _cpu(hosts)
        began = time.monotonic()
        writer.tell("writing", keys=names, seconds=options.seconds, rate=options.rate)
        writes = writer.hear(options.seconds * 10 + 60)["writes"]
        took = time.monotonic() - began
        cpu_after, after = _cpu(hosts), [_sent(host) for host in hosts]
        frames = sum(
            _sum(a, "frames", _ASKED) - _sum(b, "frames", _ASKED) for a, b in zip(after, before)
        )
        frame_bytes = sum(
            _sum(a, "bytes", _ASKED) - _sum(b, "bytes", _ASKED) for a, b in zip(after, before)
        )
        told = sum(a["told"]["bytes"] - b["told"]["bytes"] for a, b in zip(after, before))
        rss = sum(_rss(host.agent) for host in hosts) / number

        logouts = []
        for _ in range(options.logouts):
            name = secrets.token_hex(16)
            writer.patiently("create", key=name, principal="ann", a="x")
            logouts.append(1000 * writer.patiently("end", key=name)["s"])

        if options.joining:
            writer("many", number=options.joining, size=500)
        joiner = hosts[-1]
        joiner.kill()
        time.sleep(3)
        joiner.start()
        began = time.monotonic()
        joined([joiner])
        join_s = time.monotonic() - began

        owners = (number if copies == "all" else min(3, number)) - 1
        done = [1000 * took_s for _, took_s, applied, _, _ in writes if applied]
        return Run(
            servers=number,
            copies=copies,
            rate=len(writes) / took,
            writes=len(writes),
            unknown=len(writes) - len(done),
            commits_ms=sorted(done),
            logouts_ms=sorted(logouts),
            frames=frames / len(writes),
            frame_bytes=frame_bytes / len(writes),
            owner_bytes=told / len(writes) / owners,
            idle_bytes_s=idle_bytes / idle_s / number,
            read_frames=read_frames,
            reads=3 * len(names * (reads // 3 // KEYS)),
            cpu_ms=1000 * (cpu_after - cpu_before - (idle_cpu - cpu) / idle_s * took) / len(writes),
            idle_cpu=100 * (idle_cpu - cpu) / idle_s / number,
            rss_mb=rss,
            join_s=join_s,
        )


_ASKED = ("told", "asked", "replied")


@contextmanager
def _running(number: int, copies: str) -> Iterator[list[Any]]:
    from agents.hosts import on_loopback

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        with on_loopback(number, Path(folder), f"copies={copies}") as hosts:
            yield hosts


def _sent(host: Any) -> dict[str, dict[str, int]]:
    return {row["sent"]: row for row in host.status()["sent"]}


def _sum(sent: dict[str, dict[str, int]], what: str, kinds: tuple[str, ...] = ()) -> int:
    return sum(row[what] for kind, row in sent.items() if not kinds or kind in kinds)


def _cpu(hosts: list[Any]) -> float:
    """CPU seconds of all agents."""
    return sum(_ticks(host.agent) for host in hosts) * TICK_S


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _rss(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    shared = int(Path(f"/proc/{pid}/statm").read_text().split()[2])
    return (pages - shared) * os.sysconf("SC_PAGE_SIZE") / 1e6


def page(runs: list[Run], facts: tuple[tuple[str, str], ...], options: argparse.Namespace) -> str:
    """The tables."""
    lines = ["# What a cluster costs", ""]
    lines += [f"- {name}: {value}" for name, value in facts]
    lines += [
        "",
        f"{KEYS} sessions of 500 bytes, one worker of one server changing one key of each in turn "
        f"for {options.seconds:g} s. Frames are those between agents, heartbeats and news to "
        "everybody apart. Compare inside this table only.",
        "",
        "| servers | copies | writes/s | commit p50 / p99 ms | unknown | frames a write | bytes a "
        "write, all frames | bytes to each owner | agents' CPU a write, all, ms |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run in runs:
        lines.append(
            f"| {run.servers} | {run.copies} | {run.rate:.0f} | {_at(run.commits_ms, 50):.2f} / "
            f"{_at(run.commits_ms, 99):.1f} | {run.unknown} of {run.writes} | {run.frames:.2f} | "
            f"{run.frame_bytes:.0f} | {run.owner_bytes:.0f} | {run.cpu_ms:.2f} |"
        )
    lines += [
        "",
        "| servers | copies | logout p50 / p99 ms | frames for unchanged reads | idle bytes/s a "
        "server | idle CPU a server | own memory of an agent | rejoin after kill -9, s |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run in runs:
        lines.append(
            f"| {run.servers} | {run.copies} | {_at(run.logouts_ms, 50):.2f} / "
            f"{_at(run.logouts_ms, 99):.1f} | {run.read_frames} for {run.reads} | "
            f"{run.idle_bytes_s:.0f} | {run.idle_cpu:.1f} % | {run.rss_mb:.0f} MB | "
            f"{run.join_s:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _at(figures: list[float], percent: int) -> float:
    return figures[min(len(figures) - 1, len(figures) * percent // 100)] if figures else 0.0
