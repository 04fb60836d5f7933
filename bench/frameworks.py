"""``python -m bench frameworks``: each framework's usual session layer on Redis beside ours.

The same small application three times in each framework (without a session, with its usual peer,
with samesession on the same Redis), under the server that people run it with.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import getloadavg
from pathlib import Path

from bench.callgrind import instructions
from bench.contestants import Contestant
from bench.counts import REQUESTS, Cost
from bench.engine import redis
from bench.figures import Figures
from bench.machine import machine, revision, versions
from bench.markdown import commands, spread, table
from bench.report import RWM
from bench.rounds import SLICE_REQUESTS, Measured, Plan, measure
from bench.workloads import Workload
from samesession.lab.engines import Engine

RESULTS = Path(__file__).parent / "frameworks.md"
MOST = 0.5  # issue 5: added CPU at most half the peer's, everywhere

PACKAGES = (
    *("samesession", "msgspec", "redis", "hiredis", "flask", "flask-session", "django", "litestar"),
    *("aiohttp", "aiohttp-session", "fastapi", "starsessions", "quart", "quart-session", "beaker"),
    *("gunicorn", "uvicorn", "uvloop"),
)

LEGEND = f"""\
R reads one key, W changes one, M is 9 R to 1 W; the session has 8 keys, 575 bytes as JSON.
In each framework the same small application runs without a session, with the session layer that
its users usually take for Redis, and with samesession on the same Redis, without and with its near
cache, all with their defaults (but `Secure`: we run over plain http). Flask, Django and plain WSGI
run under gunicorn (one worker, 4 threads), Litestar, FastAPI and Quart under uvicorn, aiohttp under
its own server; the last four on uvloop. Quart's own session is the whole session in a signed cookie
and so no peer on Redis; Quart-Session is the layer for it that the package index has. WSGI has no
session of its own; Beaker is the middleware for it that is still released, and writes the time of
the last access on each read.
Each server is alone on one core; load generator (one process) and Redis share the other.
CPU is the serving process's own (all its threads, counted by the scheduler) divided by requests;
*adds* is that minus the same application without a session. Short slices of baseline and contestant
alternate, each contestant's slice is divided by the baseline's right before and after it, and the
figure is the median of these multiples over all rounds; in brackets what single rounds gave.
*Least* is the whole request in the luckiest slice. Each browser reads once before its slice begins,
because a near cache's lease (250 ms) lapses while others are measured. Every answer was checked:
each read returned the browser's own last write. The peer's added CPU is 1; at
most {MOST} is the floor."""


@dataclass(frozen=True)
class Framework:
    """One framework's contestants.

    Attributes:
        peer: the session layer that most people would take.
        ours: samesession, in each way that is measured.
    """

    name: str
    baseline: Contestant
    peer: Contestant
    ours: Sequence[Contestant]


def _framework(name: str, server: str, peer: str, app: str) -> Framework:
    def contestant(which: str, function: str, url: str = "", *, keeps: bool = True) -> Contestant:
        called = f"{name}: {which}"
        return Contestant(called, f"bench.apps.{app}:{function}", url, keeps=keeps, server=server)

    return Framework(
        name,
        contestant("no session", "plain", keeps=False),
        contestant(peer, "peer", "{redis}/0"),
        [
            contestant("samesession", "ours", "{redis}/1"),
            contestant("samesession, near cache", "ours", "{redis}/2?near=16MB"),
        ],
    )


FRAMEWORKS = (
    _framework("Flask", "gunicorn", "Flask-Session", "on_flask"),
    _framework("Django", "gunicorn", "cache engine, RedisCache", "on_django"),
    _framework("Litestar", "uvicorn", "ServerSideSessionConfig, RedisStore", "on_litestar"),
    _framework("aiohttp", "aiohttp", "aiohttp-session RedisStorage", "on_aiohttp"),
    _framework("FastAPI", "uvicorn", "starsessions RedisStore", "on_fastapi"),
    _framework("Quart", "uvicorn", "Quart-Session", "on_quart"),
    _framework("WSGI", "gunicorn", "Beaker, ext:redis", "on_wsgi"),
)
BY_NAME = {framework.name.lower(): framework for framework in FRAMEWORKS}


def main(arguments: Sequence[str], core: int, run: Callable[..., Measured]) -> int:
    """Measure and write the page; 1 means that a floor does not hold.

    Args:
        core: of the servers.
        run: carries out `measure`'s coroutine.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench frameworks", description="Measure each framework beside its peer."
    )
    parser.add_argument("--only", nargs="+", choices=BY_NAME, metavar="NAME", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=2, help="slices per round and workload")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument(
        "--out", type=Path, help="default: bench/frameworks.md, nowhere with --only"
    )
    parser.add_argument(
        "--instructions",
        action="store_true",
        help="count them with valgrind instead: exact on a busy machine, but without the kernel's",
    )
    options = parser.parse_args(arguments)
    load = getloadavg()[0]
    chosen = [one for one in FRAMEWORKS if not options.only or one.name.lower() in options.only]
    with redis() as engine:
        if options.instructions:
            for framework in chosen:
                _count_instructions(framework, engine, core)
            return 0
        measured = []
        for framework in chosen:
            plan = Plan(
                rivals=(framework.peer, *framework.ours),
                rounds=options.rounds,
                turns=options.turns,
                connections=options.connections,
                baseline=framework.baseline,
                lone=(),
            )
            measured.append((framework, run(measure(plan, engine, core=core, tell=_tell))))
            _tell(f"{framework.name} measured")
    facts = (
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{shlex.join(['python', '-m', 'bench', 'frameworks', *arguments])}`"),
        ("commit", revision()),
        ("machine", machine()),
        ("load before", f"{load:.1f} (1 is one busy core; above that compare with care)"),
        ("versions", f"{versions(PACKAGES)}, {engine.binary}"),
        ("rounds", f"{options.rounds}, each {options.turns} slices of {SLICE_REQUESTS} requests"),
        ("connections", f"{options.connections}"),
    )
    page, holds = report(measured, facts=facts)
    print(page)
    out = options.out or (None if options.only else RESULTS)
    if out is not None:
        out.write_text(page)
        _tell(f"written to {out}")
    return 0 if holds else 1


def report(
    measured: Sequence[tuple[Framework, Measured]], *, facts: Sequence[tuple[str, str]]
) -> tuple[str, bool]:
    """Return the page, and whether every floor holds."""
    judged = [
        (framework, contestant, workload, one.many.ratio(contestant, framework.peer, workload))
        for framework, one in measured
        for contestant in framework.ours
        for workload in RWM
    ]
    parts = [
        "# What a session costs in each framework",
        "\n".join(f"- {name}: {value}" for name, value in facts),
        LEGEND,
        "## Added CPU as a multiple of the peer's",
        table(
            [
                ("framework: contestant", "workload", "of the peer's", f"at most {MOST}"),
                *(
                    (ours.name, workload.name, spread(ratio), _verdict(ratio.value))
                    for _, ours, workload, ratio in judged
                ),
            ]
        ),
        "## Application CPU",
        table(_cpu_rows(measured)),
        f"## What Redis sees per request, counted over {REQUESTS} of them, one after another",
        table(_cost_rows(cost for _, one in measured for cost in one.costs)),
    ]
    return "\n\n".join(parts) + "\n", all(ratio.value <= MOST for *_, ratio in judged)


def _verdict(ratio: float) -> str:
    return "pass" if ratio <= MOST else "**FAIL**"


def _cpu_rows(measured: Sequence[tuple[Framework, Measured]]) -> Iterator[Sequence[str]]:
    added = (f"{workload.name} adds µs" for workload in RWM)
    least = (f"least {workload.name} µs" for workload in RWM)
    yield ("framework: contestant", *added, *least)
    for framework, one in measured:
        figures, baseline = one.many, framework.baseline
        whole = (f"{figures.baseline_us(workload):.1f} in all" for workload in RWM)
        yield (baseline.name, *whole, *_least(figures, baseline))
        for contestant in (framework.peer, *framework.ours):
            adds = (f"{figures.added_us(contestant, workload):+.1f}" for workload in RWM)
            yield (contestant.name, *adds, *_least(figures, contestant))


def _least(figures: Figures, contestant: Contestant) -> Iterator[str]:
    return (f"{figures.least_us(contestant, workload):.1f}" for workload in RWM)


def _cost_rows(costs: Iterable[Cost]) -> Iterator[Sequence[str]]:
    yield ("framework: contestant", "workload", "commands", "in scripts", "bytes in", "bytes out")
    for cost in costs:
        counted = (commands(cost.sent), commands(cost.scripted))
        size = (f"{cost.bytes_in:.0f}", f"{cost.bytes_out:.0f}")
        yield (cost.contestant.name, cost.workload.name, *counted, *size)


def _count_instructions(framework: Framework, engine: Engine, core: int) -> None:
    """Print instructions per request, whole and added, as each contestant is counted."""
    contestants = (framework.baseline, framework.peer, *framework.ours)
    counted = {one: asyncio.run(instructions(one, engine, core)) for one in contestants}
    base, peer = counted[framework.baseline], counted[framework.peer]
    rows: list[Sequence[str]] = [("contestant", "R", "R adds", "of peer", "W", "W adds", "of peer")]
    for one, whole in counted.items():
        row = [one.name]
        for workload in (Workload.R, Workload.W):
            added = whole[workload] - base[workload]
            row += [f"{whole[workload]:,.0f}", f"{added:,.0f}"]
            row += [f"{added / (peer[workload] - base[workload]):.3f}"]
        rows.append(row)
    print(table(rows), flush=True)


def _tell(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)
