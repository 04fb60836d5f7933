"""``python -m bench``, or with profile, cluster, failover, frameworks, growth, near, redis."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from bench import cluster, failover, frameworks, growth, near, readme, redis_reads
from bench.callgrind import instructions
from bench.contestants import BASELINE, BY_NAME, RIVALS, Contestant
from bench.cpu import cores
from bench.engine import redis
from bench.machine import machine, revision, versions
from bench.profiling import profile
from bench.report import Counted, report
from bench.rounds import SLICE_REQUESTS, Plan, measure
from bench.workloads import Workload
from samesession.lab.engines import Engine

RESULTS = Path(__file__).parent / "results.md"
CONNECTIONS = 32
T = TypeVar("T")


def main(arguments: list[str]) -> int:
    """Run what the arguments say; 1 means that a floor does not hold."""
    if arguments[:1] == ["cluster"]:
        return cluster.main(arguments[1:])
    if arguments[:1] == ["redis"]:
        return redis_reads.main(arguments[1:])
    if arguments[:1] == ["failover"]:
        return failover.main(arguments[1:])
    app_core, load_core = cores()
    # Engines are our children and stay on this core; servers move to their own.
    os.sched_setaffinity(0, {load_core})
    if arguments[:1] == ["profile"]:
        return _profile(arguments[1:], app_core)
    if arguments[:1] == ["growth"]:
        return growth.main(arguments[1:])
    if arguments[:1] == ["frameworks"]:
        return frameworks.main(arguments[1:], app_core, _run)
    if arguments[:1] == ["near"]:
        return near.main(arguments[1:], app_core, _run)
    return _compare(arguments, app_core)


def _compare(arguments: list[str], app_core: int) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure added CPU per request."
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--requests", type=int, default=3_840, help="per round, contestant and workload"
    )
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument(
        "--only", nargs="+", choices=[rival.name for rival in RIVALS], metavar="NAME", default=[]
    )
    parser.add_argument(
        "--quick", action="store_true", help="2 rounds of 1280 requests: for development"
    )
    parser.add_argument(
        "--out", type=Path, help="default: bench/results.md, and nowhere with --only or --quick"
    )
    parser.add_argument(
        "--no-instructions",
        action="store_true",
        help="do not count them (with valgrind, where it is installed; about 20 s a contestant)",
    )
    options = parser.parse_args(arguments)

    requests = 1_280 if options.quick else options.requests
    plan = Plan(
        rivals=[rival for rival in RIVALS if not options.only or rival.name in options.only],
        rounds=2 if options.quick else options.rounds,
        turns=max(1, round(requests / SLICE_REQUESTS)),
        connections=options.connections,
    )
    with redis() as engine:
        measured = _run(measure(plan, engine, core=app_core, tell=_tell))
        counts = not (options.no_instructions or options.quick) and shutil.which("valgrind")
        counted = _instructions(plan.rivals, engine, app_core) if counts else {}
        facts = (
            ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
            ("command", f"`{shlex.join(['python', '-m', 'bench', *arguments])}`"),
            ("commit", revision()),
            ("machine", machine()),
            ("versions", f"{versions()}, {engine.binary}"),
            ("rounds", f"{plan.rounds}, each {plan.turns} slices of {SLICE_REQUESTS} requests"),
        )
    page, holds = report(measured, facts=facts, counted=counted)
    print(page)
    out = options.out or (None if options.only or options.quick else RESULTS)
    if out is not None:
        out.write_text(growth.with_growth(page) if out == RESULTS else page)
        _tell(f"written to {out}")
    if out == RESULTS:
        readme.write(measured)
        _tell(f"written to {', '.join(readme.PAGES)}")
    return 0 if holds else 1


def _instructions(rivals: Sequence[Contestant], engine: Engine, core: int) -> Counted:
    counted = {}
    for contestant in (BASELINE, *rivals):
        counted[contestant] = _run(instructions(contestant, engine, core))
        _tell(f"instructions of {contestant.name}")
    return counted


def _profile(arguments: list[str], app_core: int) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench profile", description="Show where the time goes."
    )
    parser.add_argument("contestant", choices=BY_NAME, metavar="CONTESTANT")
    parser.add_argument("workload", choices=Workload.__members__, metavar="WORKLOAD")
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument(
        "--cprofile", action="store_true", help="count every call instead of sampling with py-spy"
    )
    options = parser.parse_args(arguments)
    with redis() as engine:
        text = _run(
            profile(
                BY_NAME[options.contestant],
                Workload[options.workload],
                engine,
                core=app_core,
                requests=options.requests,
                connections=options.connections,
                rows=options.rows,
                every_call=options.cprofile,
            )
        )
    print(text)
    return 0


def _run(work: Coroutine[Any, Any, T]) -> T:
    # uvloop here too: with a slow load generator the server falls asleep between requests.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_stoppable(work))


async def _stoppable(work: Coroutine[Any, Any, T]) -> T:
    """Let SIGTERM end children and remove folders, as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def _tell(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
