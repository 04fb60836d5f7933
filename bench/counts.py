"""Exact counts without noise: which commands, and how many bytes, one request costs the store."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from bench.browser import Browser
from bench.contestants import Contestant
from bench.load import SLICE_S, browsers, visit_all
from bench.resp import Connection, info
from bench.servers import Server
from bench.workloads import Workload

REQUESTS = 200  # one after another; every request costs the same, so more would only take longer
MARK = "bench-is-done"


@dataclass(frozen=True)
class Cost:
    """What one request costs the store, on average over many.

    Attributes:
        sent: commands that the application sent, by name.
        scripted: commands that the store ran inside scripts, by name.
        bytes_in: received by the store.
        bytes_out: sent by the store.
    """

    contestant: Contestant
    workload: Workload
    sent: dict[str, float]
    scripted: dict[str, float]
    bytes_in: float
    bytes_out: float


async def count(
    server: Server, workload: Workload, redis_port: int, requests: int = REQUESTS
) -> Cost:
    """Count what one user costs who sends requests one after another.

    Two passes, since MONITOR's own output would count as bytes. The store's idle work (expiry) does
    not show in either.
    """
    async with asyncio.timeout(SLICE_S):
        users = await browsers(server, 1)
        bytes_in, bytes_out = await _bytes(users, workload, redis_port, requests)
        sent, scripted = await _commands(users, workload, redis_port, requests)
    users[0].close()
    return Cost(server.contestant, workload, sent, scripted, bytes_in, bytes_out)


async def _bytes(
    users: list[Browser], workload: Workload, port: int, requests: int
) -> tuple[float, float]:
    """Return bytes in and out per request."""
    with Connection(port) as redis:

        def traffic() -> tuple[int, int, int, int]:
            question = redis.send("INFO stats")
            text, answer = redis.bulk()
            fields = dict(info(text))
            return (
                int(fields["total_net_input_bytes"]),
                int(fields["total_net_output_bytes"]),
                question,
                answer,
            )

        in_before, out_before, _, answer = traffic()
        await visit_all(users, workload, requests)
        in_after, out_after, question, _ = traffic()
    # Each INFO has counted its own question, but not yet its own answer.
    return (
        (in_after - in_before - question) / requests,
        (out_after - out_before - answer) / requests,
    )


async def _commands(
    users: list[Browser], workload: Workload, port: int, requests: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return commands per request: sent by the application, and run by scripts."""
    sent: Counter[str] = Counter()
    scripted: Counter[str] = Counter()
    with Connection(port) as monitor, Connection(port) as marker:
        monitor.send("MONITOR")
        if monitor.line() != b"+OK":
            raise ConnectionError("Redis refused MONITOR")
        await visit_all(users, workload, requests)
        marker.send(f"ECHO {MARK}")
        # +1700000000.123456 [0 127.0.0.1:40000] "GET" "key"; inside a script the address is `lua`.
        while (line := monitor.line().decode(errors="replace")) and MARK not in line:
            where, _, command = line.partition("] ")
            name = command.split(" ", 1)[0].strip('"').upper()
            (scripted if where.endswith(" lua") else sent)[name] += 1
    return _per_request(sent, requests), _per_request(scripted, requests)


def _per_request(counted: Counter[str], requests: int) -> dict[str, float]:
    return {name: number / requests for name, number in sorted(counted.items())}
