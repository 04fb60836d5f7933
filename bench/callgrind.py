"""Instructions per request of a real server under callgrind: the same on a busy machine.

Only the process's own instructions are counted; what the kernel does for it is not.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.contestants import Contestant
from bench.load import browsers, hang_up, visit_all
from bench.servers import server
from bench.workloads import CYCLE, Workload
from samesession.lab.engines import Engine

REQUESTS = 10 * CYCLE
CONNECTIONS = 2

_TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)


async def instructions(
    contestant: Contestant, engine: Engine, core: int, keep: Path | None = None
) -> dict[Workload, float]:
    """Return instructions per request, for R and for W.

    Args:
        keep: a folder for callgrind's files (`callgrind_annotate FILE`).
    """
    counted = {}
    if contestant.app.endswith(":ours"):  # valgrind is some forty times slower
        more = "&" if "?" in contestant.url else "?"
        contestant = replace(contestant, url=f"{contestant.url}{more}deadline=30s")
    with TemporaryDirectory(prefix="bench-", dir="/dev/shm") as folder:
        out = Path(keep or folder, "callgrind.%p")
        under = [
            "valgrind",
            "--tool=callgrind",
            "--instr-atstart=no",
            f"--callgrind-out-file={out}",
        ]
        with server(contestant, engine=engine, core=core, under=under) as running:
            users = await browsers(running, CONNECTIONS)
            _control(running.pid, "--instr=on")
            for workload in (Workload.R, Workload.W):
                await visit_all(users, workload, CYCLE)
                _control(running.pid, "--zero")
                await visit_all(users, workload, REQUESTS)
                _control(running.pid, f"--dump={workload.name}")
            hang_up(users)
        for number, workload in enumerate((Workload.R, Workload.W), start=1):
            text = Path(str(out).replace("%p", f"{running.pid}.{number}")).read_text()
            counted[workload] = int(_TOTAL.findall(text)[-1]) / REQUESTS / CONNECTIONS
    return counted


def _control(pid: int, command: str) -> None:
    subprocess.run(["callgrind_control", command, str(pid)], check=True, capture_output=True)
