"""Where a contestant's time goes: py-spy's samples, or cProfile's calls."""

from __future__ import annotations

import asyncio
import pstats
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.contestants import Contestant
from bench.load import browsers, hang_up, run_slice
from bench.servers import server
from bench.workloads import Workload
from samesession.lab.engines import Engine

SAMPLES_PER_S = 500
ATTACH_S = 1.0  # py-spy reads the symbols of the process first
EVERYBODY = (
    0.95  # a function that this share of the samples passes through says nothing (main, run)
)


async def profile(
    contestant: Contestant,
    workload: Workload,
    engine: Engine,
    *,
    core: int,
    requests: int,
    connections: int,
    rows: int,
    every_call: bool,
) -> str:
    """Return tables of functions, by the time in themselves and by the time under them.

    Args:
        every_call: use cProfile, which counts each call but makes small functions look slow;
            otherwise, and if it is installed, py-spy samples from outside, which distorts little.
    """
    spy = None if every_call else _py_spy()
    with TemporaryDirectory(prefix="bench-profile-") as folder:
        figures = Path(folder, "figures")
        cprofile = None if spy else figures
        with server(contestant, engine=engine, core=core, cprofile=cprofile) as running:
            users = await browsers(running, connections)
            async with _sampling(spy, running.pid, figures):
                measured = await run_slice(running, users, workload, requests, engine)
            hang_up(users)
        table = _sampled(figures, rows) if spy else _called(figures, rows)
    how = f"py-spy, {SAMPLES_PER_S} samples/s" if spy else "cProfile"
    what = f"{contestant.name} {workload.name}, {measured.requests} requests"
    return f"{what}, {measured.app_us:.1f} µs each under {how}\n\n{table}"


def _py_spy() -> str | None:
    return shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))


@asynccontextmanager
async def _sampling(spy: str | None, pid: int, figures: Path) -> AsyncIterator[None]:
    """Let py-spy, if there is one, watch a process for as long as the block runs."""
    if spy is None:
        yield
        return
    sampler = await asyncio.create_subprocess_exec(
        *(spy, "record", "--pid", str(pid), "--output", str(figures), "--format", "raw"),
        *("--rate", str(SAMPLES_PER_S), "--duration", "600"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await asyncio.sleep(ATTACH_S)
        yield
    finally:
        sampler.send_signal(signal.SIGINT)  # it writes its figures and ends
        await sampler.wait()


def _sampled(figures: Path, rows: int) -> str:
    """Render py-spy's raw format: `function (file:line);… count`, outermost frame first."""
    packages: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    under: Counter[str] = Counter()
    for sample in figures.read_text().splitlines():
        stack, _, number = sample.rpartition(" ")
        frames = stack.split(";")
        packages[_package(frames[-1])] += int(number)
        functions[_function(frames[-1])] += int(number)
        lines[frames[-1]] += int(number)
        under.update(dict.fromkeys(map(_function, frames), int(number)))
    total = max(1, lines.total())
    under = Counter({what: number for what, number in under.items() if number < EVERYBODY * total})

    def table(title: str, counted: Counter[str]) -> str:
        shares = (f"{number / total:6.1%}  {what}" for what, number in counted.most_common(rows))
        return "\n".join([title, *shares])

    return "\n\n".join(
        [
            table("in the package itself", packages),
            table("in the function itself", functions),
            table("in the line itself", lines),
            table("in the function and everything that it calls", under),
        ]
    )


def _function(frame: str) -> str:
    name, colon, _ = frame.rpartition(":")
    return f"{name})" if colon else frame


def _package(frame: str) -> str:
    return frame.rpartition("(")[2].partition("/")[0].partition(":")[0]


def _called(figures: Path, rows: int) -> str:
    """Render cProfile's figures."""
    text = StringIO()
    stats = pstats.Stats(str(figures), stream=text)
    stats.sort_stats("tottime").print_stats(rows)
    stats.sort_stats("cumulative").print_stats(rows)
    return text.getvalue()
