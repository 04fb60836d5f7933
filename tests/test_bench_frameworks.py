"""What a request costs Redis in each framework, counted on the benchmark's own servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from bench.counts import Cost, count
from bench.cpu import cores
from bench.frameworks import FRAMEWORKS, Framework
from bench.servers import server
from bench.workloads import Workload
from samesession.lab.engines import Engine, start


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with start() as running:
        yield running


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
def test_a_read_is_one_command_and_a_write_two_in_every_framework(
    framework: Framework, engine: Engine
) -> None:
    """The benchmark's browser checks every answer on the way."""
    core, _ = cores()

    async def counted(workload: Workload) -> Cost:
        return await count(running, workload, engine.port, requests=20)

    with server(framework.ours[0], engine=engine, core=core) as running:
        read, write = (asyncio.run(counted(workload)) for workload in (Workload.R, Workload.W))
    assert read.sent == {"HGETALL": 1}
    assert write.sent == {"EVALSHA": 1, "HGETALL": 1}
    # No EXISTS: that begins a near cache's tracking anew (redis_scripts.py), and there is none.
    assert write.scripted == {"HMGET": 1, "HSET": 1}
    # 575 bytes of session: out once, and in only what changed.
    assert read.bytes_in < 100
    assert write.bytes_in < 400
    assert read.bytes_out < 750
    assert write.bytes_out < 850
