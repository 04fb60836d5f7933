"""Instructions a request, counted by valgrind: exact to a percent, whatever else the machine does.

The contestant's application is called in this process, without a server, a socket or a kernel's
share; so the figures compare what libraries do in user space, and nothing else. CPU time is the
other half of the truth (`python -m bench`).
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.contestants import Contestant
from bench.workloads import CYCLE, Step, Workload

REQUESTS = 20 * CYCLE
WARM_UP = 4 * CYCLE  # the interpreter specialises its code, caches fill
ONE_RUN_S = 300.0  # 10 to 20 s on a free core
MARK = "sched_get_priority_max"
"""A function of libc that nobody else calls: valgrind writes its counters down at each call."""

_TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)


def count(
    contestant: Contestant,
    workloads: Sequence[Workload],
    *,
    redis_port: int,
    keep: Path | None = None,
) -> dict[Workload, float]:
    """Return instructions a request of each workload.

    Args:
        redis_port: of the engine, for contestants that use it.
        keep: a folder for callgrind's files, to look into (`callgrind_annotate FILE`).
    """
    with TemporaryDirectory(prefix="bench-", dir="/dev/shm") as folder:
        url = contestant.url.format(redis=f"redis://127.0.0.1:{redis_port}", folder=folder)
        out = Path(keep or folder, f"callgrind.{contestant.name}")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        command += [f"--dump-before={MARK}", sys.executable, "-m", "bench.instructions"]
        command += [contestant.app, url, *(workload.name for workload in workloads)]
        environment = os.environ | {"SAMESESSION_SERVER": "bench", "PYTHONHASHSEED": "0"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=ONE_RUN_S, check=False
        )
        if done.returncode:
            raise SystemExit(f"bench: {contestant.name} under valgrind:\n{done.stderr[-2000:]}")
        # The first dump is everything up to the first mark.
        parts = [Path(f"{out}.{number + 2}") for number in range(2 * len(workloads))][::2]
        return {
            workload: int(_TOTAL.findall(part.read_text())[-1]) / REQUESTS
            for workload, part in zip(workloads, parts, strict=True)
        }


class _Visitor:
    """One browser that calls the application by itself."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._cookies: dict[bytes, bytes] = {}

    async def take(self, step: Step) -> None:
        method, target, _ = step.value.split(b" ", 2)
        path, _, query = target.partition(b"?")
        headers = [
            (b"host", b"127.0.0.1"),
            (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) bench"),
            (b"accept", b"text/html,application/xhtml+xml"),
            (b"accept-language", b"en-GB,en"),
        ]
        if self._cookies:
            pairs = b"; ".join(b"=".join(pair) for pair in self._cookies.items())
            headers.append((b"cookie", pairs))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 40000),
            "scheme": "http",
            "method": method.decode(),
            "root_path": "",
            "path": path.decode(),
            "raw_path": path,
            "query_string": query % 7 if query else b"",
            "headers": headers,
            "state": {},
        }
        await self._app(scope, _receive, self._send)

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            if message["status"] != 200:
                raise SystemExit(f"answered {message['status']}")
            for name, value in message["headers"]:
                if name == b"set-cookie":
                    key, _, cookie = value.partition(b";")[0].partition(b"=")
                    self._cookies[key] = cookie


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


def _mark() -> None:
    os.sched_get_priority_max(os.SCHED_OTHER)


async def _visit(app: Any, workloads: Sequence[Workload]) -> None:
    visitor = _Visitor(app)
    await visitor.take(Step.LOGIN)
    for workload in workloads:
        for step in workload.steps(requests=WARM_UP, shift=0):
            await visitor.take(step)
    for workload in workloads:
        _mark()
        for step in workload.steps(requests=REQUESTS, shift=0):
            await visitor.take(step)
        _mark()


def main(arguments: Sequence[str]) -> None:
    """Visit the contestant's application: the child's half."""
    app, url, *names = arguments
    asyncio.run(_visit(import_module(app).build(url), [Workload[name] for name in names]))


if __name__ == "__main__":
    main(sys.argv[1:])
