"""Reads a second from Redis: ``python -m bench redis``: our store beside redis-py's own GET.

Ours loads a session (HGETALL of 8 keys, 575 bytes) and makes a record of it, with no near cache;
redis-py fetches the same bytes by one GET from a pool of 50, and does nothing with them. Both run
in one process on one core, the engine on another; rounds take turns, the table shows medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import redis
import redis.asyncio as redis_asyncio
import uvloop

from bench.cpu import cores
from bench.machine import machine, revision, versions
from samesession._bridge import ready
from samesession.lab import engines
from samesession.record import Record
from samesession.strategies import strategy_of
from samesession.testing import created, fresh_key

RESULTS = Path(__file__).parent / "redis.md"
CLIENTS = (1, 32, 256)
FLOOR_AT, FLOOR = 32, 2.0
VALUES = {f"key{number}": b"x" * 68 for number in range(8)}

Read = Callable[[], Awaitable[object]]
Rates = dict[str, dict[int, list[float]]]


def main(arguments: list[str]) -> int:
    """Measure and write the table; 1 means that the floor does not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench redis", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contestant and round")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    engine_core, own_core = cores()
    os.sched_setaffinity(0, {engine_core})
    with engines.start() as engine:
        os.sched_setaffinity(0, {own_core})
        rates: Rates = {}
        for number in range(options.rounds):
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_on_a_loop(engine.url, options.seconds, rates))
            _in_threads(engine.url, options.seconds, rates)
            print(f"{number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        facts = (
            ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
            ("command", f"`{shlex.join(['python', '-m', 'bench', 'redis', *arguments])}`"),
            ("commit", revision()),
            ("machine", machine()),
            ("load", f"{os.getloadavg()[0]:.1f} runnable processes; others may share it"),
            ("versions", f"{versions(('samesession', 'redis', 'hiredis'))}, {engine.binary}"),
            ("rounds", f"{options.rounds} of {options.seconds:g} s each"),
        )
    text, ratio = page(rates, facts)
    print(text)
    options.out.write_text(text)
    return 0 if ratio >= FLOOR else 1


async def _on_a_loop(url: str, seconds: float, rates: Rates) -> None:
    key = fresh_key()
    async with AsyncExitStack() as stack:
        store = strategy_of(f"{url}?deadline=10s").open_loop()
        stack.push_async_callback(store.close)
        await store.commit(created(key, **VALUES))
        pool = redis_asyncio.BlockingConnectionPool.from_url(url, max_connections=50, timeout=10)
        client = redis_asyncio.Redis(connection_pool=pool)
        stack.push_async_callback(pool.aclose)
        await client.set("blob", b"x" * 575)

        async def ours() -> None:
            assert isinstance(await store.load(key), Record)

        async def theirs() -> None:
            assert await client.get("blob")

        for clients in CLIENTS:
            for name, read in (("samesession, loop", ours), ("redis-py, loop", theirs)):
                rate = await _rate(read, clients, seconds)
                rates.setdefault(name, {}).setdefault(clients, []).append(rate)


async def _rate(read: Read, clients: int, seconds: float) -> float:
    until = time.perf_counter() + seconds
    done = 0

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await read()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.perf_counter() - began)


def _in_threads(url: str, seconds: float, rates: Rates) -> None:
    key = fresh_key()
    store = strategy_of(f"{url}?deadline=10s").open_threads()
    ready(store.commit(created(key, **VALUES)))
    pool = redis.BlockingConnectionPool.from_url(url, max_connections=50, timeout=10)
    client = redis.Redis(connection_pool=pool)
    client.set("blob", b"x" * 575)

    def ours() -> None:
        assert isinstance(ready(store.load(key)), Record)

    def theirs() -> None:
        assert client.get("blob")

    for clients in (1, 32):
        for name, read in (("samesession, threads", ours), ("redis-py, threads", theirs)):
            rate = _thread_rate(read, clients, seconds)
            rates.setdefault(name, {}).setdefault(clients, []).append(rate)
    ready(store.close())
    pool.disconnect()


def _thread_rate(read: Callable[[], None], clients: int, seconds: float) -> float:
    until = time.perf_counter() + seconds

    def client(_: int) -> int:
        done = 0
        while time.perf_counter() < until:
            read()
            done += 1
        return done

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        done = sum(threads.map(client, range(clients)))
    return done / (time.perf_counter() - began)


def page(rates: Rates, facts: tuple[tuple[str, str], ...]) -> tuple[str, float]:
    """The table, and how many times redis-py's rate ours is where the floor is set."""
    lines = ["# Reads a second from Redis", ""]
    lines += [f"- {name}: {value}" for name, value in facts]
    lines += ["", " ".join((__doc__ or "").split("\n\n")[1].split()), ""]
    lines += ["| | " + " | ".join(f"{clients} at once" for clients in CLIENTS) + " |"]
    lines += ["|---|" + "--:|" * len(CLIENTS)]
    for name, by_clients in rates.items():
        cells = [f"{median(by_clients[n]):,.0f}" if n in by_clients else "–" for n in CLIENTS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    ratio = median(
        ours / theirs
        for ours, theirs in zip(
            rates["samesession, loop"][FLOOR_AT], rates["redis-py, loop"][FLOOR_AT], strict=True
        )
    )
    verdict = "holds" if ratio >= FLOOR else "does not hold"
    said = (
        f"On a loop at {FLOOR_AT} at once ours is {ratio:.2f} times redis-py's, the median of the "
        f"rounds (floor {FLOOR:g}: {verdict})."
    )
    lines += ["", said]
    return "\n".join(lines) + "\n", ratio
