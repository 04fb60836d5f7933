"""``python -m bench near``: what a near cache over Redis saves its process, and costs the server.

Three questions: added CPU of R beside the in-process memory store, commands a request, and what a
commit costs the server when many processes hold what it changes, told by key or by prefix (BCAST).
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from bench.callgrind import instructions
from bench.contestants import BASELINE, MEMORY, NEAR, REDIS
from bench.engine import redis
from bench.machine import machine, revision, versions
from bench.markdown import commands, spread, table
from bench.resp import Connection, info
from bench.rounds import SLICE_REQUESTS, Measured, Plan, measure
from bench.workloads import Workload
from samesession._bridge import ready
from samesession.lab.engines import Engine
from samesession.record import Key
from samesession.stores.near import NearCache
from samesession.strategies import strategy_of
from samesession.testing import changed, created, fresh_key

RESULTS = Path(__file__).parent / "near.md"
MOST_ADDED = 1.5
"""Issue 4: added CPU of R with a near cache, as a multiple of the memory store's."""
MOST_PER_COMMIT = 2.0
"""Issue 4: server CPU a commit with eight processes caching, as a multiple of nobody's."""

KEYS = 400
BATCH = 50  # commits in one write: what a busy server's event loop sends in a tick
ROUNDS = 8
PREFIX = "samesession:s:"

LEGEND = """\
R reads one key, W changes one; a session of 8 keys, 575 bytes as JSON. CPU as in results.md: of the
application process, what the session adds to the same application without one.
*Server CPU a commit* is Redis' own (user and system), while sessions that every process holds are
committed once each, 50 in a write, as a busy event loop sends them; reading them again is not in.
*Told by key* is what a near cache uses: the server remembers who has read what. *Told by prefix*
(BCAST) tells every process of every change. In *spread* each process holds its own share only, as
with an affinity cookie. Compare inside a run, never across runs."""


OWN = """\
A process spends {:.1f} µs of CPU on each change that it is told of, and {:.2f} µs on a load that a
copy answers."""


@dataclass(frozen=True)
class Told:
    """What commits cost the server, with some processes caching what they change."""

    how: str
    processes: int
    server_us: float
    messages: float
    bytes: float


class Caching:
    """One process that holds sessions, as the server sees it: a tracked connection."""

    def __init__(self, port: int, how: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        tracking = f"CLIENT TRACKING ON BCAST PREFIX {PREFIX}" if how == "prefix" else ""
        self._ask("HELLO 3", tracking or "CLIENT TRACKING ON NOLOOP")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def read(self, keys: Sequence[Key]) -> None:
        """Read sessions, so that their changes are told."""
        self._ask(*(f"HGETALL {PREFIX}{key}" for key in keys))

    def news(self) -> tuple[int, int]:
        """How many keys were told, in how many bytes."""
        got = self._ask()
        return got.count(PREFIX.encode()), len(got) - len(b"+PONG\r\n")

    def _ask(self, *lines: str) -> bytes:
        self._socket.sendall("".join(f"{line}\r\n" for line in (*lines, "PING")).encode())
        got = b""
        while not got.endswith(b"+PONG\r\n"):
            got += self._socket.recv(1 << 20)
        return got


def main(arguments: list[str], core: int, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> int:
    """Measure, print and write the page; 1 means that a floor does not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench near", description="See bench/near.py.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=3_840)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="one short round: for development")
    parser.add_argument(
        "--no-instructions", action="store_true", help="without valgrind, which takes a minute"
    )
    parser.add_argument("--out", type=Path, help="default: bench/near.md, nowhere with --quick")
    options = parser.parse_args(arguments)
    plan = Plan(
        rivals=(MEMORY, REDIS, NEAR),
        rounds=1 if options.quick else options.rounds,
        turns=max(1, round((1_280 if options.quick else options.requests) / SLICE_REQUESTS)),
        connections=options.connections,
    )
    with redis() as engine:
        told = list(_all_told(engine))
        mine = asyncio.run(_own_cost(engine))
        counted = {}
        if not options.no_instructions:
            for one in (BASELINE, *plan.rivals):
                # Under valgrind everything takes fifty times as long.
                patient = replace(one, url=f"{one.url}&deadline=9s") if one is NEAR else one
                counted[one] = run(instructions(patient, engine, core))
                _tell(f"instructions of {one.name}")
        measured = run(measure(plan, engine, core=core, tell=_tell))
        facts = (
            ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
            ("command", f"`{shlex.join(['python', '-m', 'bench', 'near', *arguments])}`"),
            ("commit", revision()),
            ("machine", machine()),
            ("versions", f"{versions()}, {engine.binary}"),
        )
    page, holds = _page(measured, counted, told, mine, facts)
    print(page)
    out = options.out or (None if options.quick else RESULTS)
    if out is not None:
        out.write_text(page)
        _tell(f"written to {out}")
    return 0 if holds else 1


def _page(
    measured: Measured,
    counted: dict[Any, dict[Workload, float]],
    told: Sequence[Told],
    mine: tuple[float, float],
    facts: Sequence[tuple[str, str]],
) -> tuple[str, bool]:
    figures = measured.many
    ratio = figures.ratio(NEAR, MEMORY, Workload.R)
    nobody = told[0].server_us
    eight = next(one for one in told if (one.how, one.processes) == ("by key", 8)).server_us
    reads = [cost for cost in measured.costs if cost.contestant is NEAR]
    sent = {cost.workload: _without_heartbeats(cost.sent) for cost in reads}
    floors = [
        (f"R adds at most {MOST_ADDED} times the memory store's CPU", spread(ratio)),
        ("R sends no command", commands(sent[Workload.R])),
        ("W sends one command", commands(sent[Workload.W])),
        (
            f"8 caching: server CPU a commit at most {MOST_PER_COMMIT} times",
            f"{eight / nobody:.2f}",
        ),
    ]
    holds = [
        ratio.value <= MOST_ADDED,
        sum(sent[Workload.R].values()) <= 0.02,
        sum(sent[Workload.W].values()) <= 1.02,
        eight <= MOST_PER_COMMIT * nobody,
    ]
    if counted:
        added = {
            one: {w: figure - counted[BASELINE][w] for w, figure in each.items()}
            for one, each in counted.items()
        }
        by_count = added[NEAR][Workload.R] / added[MEMORY][Workload.R]
        floors.append((f"the same in instructions (at most {MOST_ADDED})", f"{by_count:.2f}"))
        holds.append(by_count <= MOST_ADDED)
    parts = [
        "# What a near cache saves and costs",
        "\n".join(f"- {name}: {value}" for name, value in facts),
        LEGEND,
        "## Floors",
        table(
            [
                ("floor", "measured", "holds"),
                *(
                    (*floor, "yes" if held else "NO")
                    for floor, held in zip(floors, holds, strict=True)
                ),
            ]
        ),
        f"## Application CPU, {measured.plan.connections} connections",
        table(
            [
                ("", "R adds, µs", "W adds, µs", "R of memory's", "W of memory's"),
                *(
                    (
                        one.name,
                        f"{figures.added_us(one, Workload.R):.1f}",
                        f"{figures.added_us(one, Workload.W):.1f}",
                        spread(figures.ratio(one, MEMORY, Workload.R)),
                        spread(figures.ratio(one, MEMORY, Workload.W)),
                    )
                    for one in measured.plan.rivals
                ),
            ]
        ),
        "## Commands a request (PING is the heartbeat: ten a second while copies are in use)",
        table(
            [
                ("", "R", "W"),
                *(
                    (
                        one.name,
                        *(commands(cost.sent) for cost in measured.costs if cost.contestant is one),
                    )
                    for one in measured.plan.rivals
                    if one.uses_redis
                ),
            ]
        ),
        "## Server CPU a commit, and what is told",
        table(
            [
                ("told", "processes", "server CPU, µs", "of nobody's", "messages", "bytes"),
                *(
                    (
                        one.how,
                        str(one.processes),
                        f"{one.server_us:.2f}",
                        f"{one.server_us / nobody:.2f}",
                        f"{one.messages:.2f}",
                        f"{one.bytes:.0f}",
                    )
                    for one in told
                ),
            ]
        ),
        OWN.format(*mine),
    ]
    if counted:
        parts.append("## Instructions a request, thousands (callgrind)")
        parts.append(
            table(
                [
                    ("", "R", "W"),
                    *(
                        (one.name, *(f"{figure / 1000:.0f}" for figure in each.values()))
                        for one, each in counted.items()
                    ),
                ]
            )
        )
    return "\n\n".join(parts) + "\n", all(holds)


def _without_heartbeats(sent: dict[str, float]) -> dict[str, float]:
    return {name: number for name, number in sent.items() if name != "PING"}


# --- the server's side ----------------------------------------------------------------------------


def _all_told(engine: Engine) -> Iterator[Told]:
    keys = [fresh_key() for _ in range(KEYS)]
    url = f"redis://127.0.0.1:{engine.port}/0?deadline=5s"
    plain = strategy_of(url).open_threads()
    for key in keys:
        ready(plain.commit(created(key, "ann", **{f"k{n}": b"x" * 70 for n in range(8)})))
    ready(plain.close())
    asyncio.run(_told(engine, url, keys, "nobody", 0))  # warm
    yield asyncio.run(_told(engine, url, keys, "nobody", 0))
    for how in ("by key", "by prefix", "by key, spread", "by prefix, spread"):
        for processes in (1, 2, 4, 8, 16):
            yield asyncio.run(_told(engine, url, keys, how, processes))
        _tell(f"told {how}")


async def _told(engine: Engine, url: str, keys: Sequence[Key], how: str, processes: int) -> Told:
    writer = strategy_of(url).open_loop()
    spent = messages = size = 0.0
    try:
        with ExitStack() as stack:
            everybody = [
                stack.enter_context(Caching(engine.port, "prefix" if "prefix" in how else "key"))
                for _ in range(processes)
            ]
            for _ in range(ROUNDS):
                for number, one in enumerate(everybody):
                    one.read(keys[number::processes] if "spread" in how else keys)
                before = _server_us(engine)
                for at in range(0, len(keys), BATCH):
                    batch = [changed(key, k1=b"y" * 70) for key in keys[at : at + BATCH]]
                    await asyncio.gather(*map(writer.commit, batch))
                spent += _server_us(engine) - before
                for one in everybody:
                    news = one.news()
                    messages, size = messages + news[0], size + news[1]
    finally:
        await writer.close()
    commits = ROUNDS * len(keys)
    return Told(how, processes, spent / commits, messages / commits, size / commits)


def _server_us(engine: Engine) -> float:
    with Connection(engine.port) as connection:
        connection.send("INFO cpu")
        fields = dict(info(connection.bulk()[0]))
    return 1e6 * (float(fields["used_cpu_user"]) + float(fields["used_cpu_sys"]))


# --- the process's side ---------------------------------------------------------------------------


async def _own_cost(engine: Engine) -> tuple[float, float]:
    """CPU on one change that is told, and on one load that a copy answers, in microseconds."""
    url = f"redis://127.0.0.1:{engine.port}/0?deadline=5s"
    near = strategy_of(f"{url}&near=64MB").open_loop()
    plain = strategy_of(url).open_threads()
    assert isinstance(near, NearCache)
    keys = [fresh_key() for _ in range(2_000)]
    for key in keys:
        ready(plain.commit(created(key, a=b"x" * 70)))
    news = hits = 0.0
    for _ in range(3):
        for key in keys:
            await near.load(key)
        copies = near._feed.at_hand()
        began = time.process_time()
        for key in keys:
            await near.load(key)
        hits += time.process_time() - began
        for key in keys:  # this thread writes, so the loop hears nothing yet
            ready(plain.commit(changed(key, a=b"y" * 70)))
        began = time.process_time()
        while len(copies):
            await asyncio.sleep(0)
        news += time.process_time() - began
    await near.close()
    ready(plain.close())
    return 1e6 * news / 3 / len(keys), 1e6 * hits / 3 / len(keys)


def _tell(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)
