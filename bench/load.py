"""One slice of load: a fixed number of requests to one server, and the CPU time they took."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from itertools import count
from statistics import median_low

from bench.browser import Browser
from bench.contestants import Contestant
from bench.cpu import cpu_ns
from bench.servers import Server
from bench.workloads import CYCLE, Step, Workload
from samesession.lab.engines import Engine

SLICE_S = 120.0  # no slice takes a tenth of it; a server that hangs must not hold the benchmark
WARM_UP = 2 * CYCLE  # requests per browser before any is measured
# Counters far apart: nobody else's session can give the right answer.
_starts = count(1_000_000, 5_000)


@dataclass(frozen=True)
class Slice:
    """What one slice of load cost.

    Attributes:
        app_us: CPU time of the application process per request, in microseconds.
        engine_us: the same of the engine's process.
        p50_us: median time from request to answer, seen by the load generator.
    """

    contestant: Contestant
    workload: Workload
    requests: int
    app_us: float
    engine_us: float
    p50_us: float


async def browsers(server: Server, connections: int) -> list[Browser]:
    """Open connections, each with a user of its own who has logged in and looked around.

    What happens once per connection or process (caches, pools, loaded scripts) is over then.
    """
    loop = asyncio.get_running_loop()
    users = []
    async with asyncio.timeout(SLICE_S):
        for _ in range(connections):
            new = partial(Browser, start=next(_starts), keeps=server.contestant.keeps)
            _, user = await loop.create_connection(new, "127.0.0.1", server.port)
            await user.visit([Step.LOGIN])
            users.append(user)
        await visit_all(users, Workload.M, WARM_UP)
    return users


def hang_up(*crowds: list[Browser]) -> None:
    """Close every connection."""
    for users in crowds:
        for user in users:
            user.close()


async def visit_all(users: list[Browser], workload: Workload, requests: int) -> None:
    """Let every user take `requests` steps at the same time."""
    plans = [workload.steps(requests=requests, shift=shift) for shift in range(len(users))]
    await asyncio.gather(*(user.visit(plan) for user, plan in zip(users, plans, strict=True)))


async def run_slice(
    server: Server, users: list[Browser], workload: Workload, requests: int, engine: Engine
) -> Slice:
    """Measure about `requests` requests: a whole number of cycles of each user.

    Each user reads once before that. A near cache's lease lapses while others have their slices,
    and so short a slice would show 1 read in 20 that asks for it again.
    """
    each = max(1, round(requests / len(users) / CYCLE)) * CYCLE
    async with asyncio.timeout(SLICE_S):
        await visit_all(users, Workload.R, 1)
    for user in users:
        user.latencies_ns.clear()
    app_ns, engine_ns = cpu_ns(server.pid), cpu_ns(engine.pid)
    async with asyncio.timeout(SLICE_S):
        await visit_all(users, workload, each)
    app_ns, engine_ns = cpu_ns(server.pid) - app_ns, cpu_ns(engine.pid) - engine_ns
    total = each * len(users)
    latencies_ns = (latency for user in users for latency in user.latencies_ns)
    return Slice(
        contestant=server.contestant,
        workload=workload,
        requests=total,
        app_us=app_ns / total / 1000,
        engine_us=engine_ns / total / 1000,
        p50_us=median_low(latencies_ns) / 1000,
    )
