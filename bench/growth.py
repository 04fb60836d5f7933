"""What a store's steps cost as it fills: ``python -m bench growth [--sizes 1000 100000 1000000]``.

Each engine is filled with so many sessions, of which some principals hold 1, 100 and 10 000; then
each step is repeated on one connection, blocking, as threads would. What is counted is CPU time, of
the caller and of the engine together: others on the machine hardly disturb it. The table stands in
a file of its own and at the end of ``results.md``, where another benchmark's run leaves it alone.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import func, select

from bench.cpu import cpu_ns
from bench.machine import machine, revision
from samesession._bridge import ready
from samesession.lab import databases, engines
from samesession.record import Delta, Key, Record, made
from samesession.settings import Url
from samesession.store import Store
from samesession.stores import sql, sql_check
from samesession.stores.blob import dumps, forget_ms
from samesession.stores.local import LocalStore, _enter, _name
from samesession.stores.redis import RedisStore
from samesession.stores.redis_fields import arguments
from samesession.stores.sql import SqlStore
from samesession.stores.sql_drivers import Target
from samesession.strategies import strategy_of
from samesession.testing import changed, created, fresh_key, now_ms

TABLE = Path(__file__).parent / "growth.md"
RESULTS = TABLE.with_name("results.md")
TITLE = "What a store's steps cost as it fills"
HOLDERS = {"one": 1, "hundred": 100, "many": 10_000}
PAYLOAD = {f"key{number}": b"\xd9\x40" + b"x" * 64 for number in range(8)}  # about 575 bytes
TIMES = 300
BATCH = 2000
SWEEPS = 10
OVER = 200


Engine = Callable[[], int]
"""The CPU time of an engine's process so far, in nanoseconds; LMDB and SQLite have none."""


@contextmanager
def stores() -> Iterator[dict[str, tuple[Store, Engine]]]:
    """One of each kind, open for threads."""
    with (
        TemporaryDirectory(dir="/dev/shm") as folder,
        engines.start() as redis,
        databases.Postgres({"shared_buffers": "256MB"}) as postgres,
    ):
        target = Target.of(Url.parse(postgres.url))
        sql_check.once(target, lambda connection: sql_check.create(connection, target))
        urls = {
            "LMDB": f"sticky://{folder}/lmdb?size=4GB",
            "SQLite": f"sqlite:///{folder}/sessions.db?deadline=60s",
            "PostgreSQL": f"{postgres.url}?deadline=60s",
            "Redis": f"{redis.url}?deadline=60s",
        }
        opened = {name: strategy_of(url).open_threads() for name, url in urls.items()}
        pids = {"PostgreSQL": _backend(opened["PostgreSQL"]), "Redis": redis.pid}
        yield {name: (store, _clock(pids.get(name))) for name, store in opened.items()}
        for store in opened.values():
            ready(store.close())


def _backend(store: Store) -> int:
    """The process that serves the one connection; others of PostgreSQL clean up meanwhile."""
    assert isinstance(store, SqlStore)
    (row,) = ready(store._wire.rows(select(func.pg_backend_pid())))
    return int(row[0])


def _clock(pid: int | None) -> Engine:
    return (lambda: 0) if pid is None else (lambda: cpu_ns(pid))


def fill(store: Store, number: int, principal: Callable[[int], str]) -> list[Key]:
    """Make so many sessions, past the protocol where there is a quicker way in."""
    keys: list[Key] = []
    for at in range(0, number, BATCH):
        deltas = [
            created(fresh_key(), principal(at + more), **PAYLOAD)
            for more in range(min(BATCH, number - at))
        ]
        _write(store, deltas)
        keys += [delta.key for delta in deltas]
    return keys


def _write(store: Store, deltas: list[Delta]) -> None:
    if isinstance(store, RedisStore):
        commands: list[tuple[str | bytes | int, ...]] = []
        for delta in deltas:
            origin = delta.origin
            assert origin is not None
            index = f"{store._principal}{origin.principal}"
            commands.append(("ZADD", index, origin.absolute_ms, delta.key))
            name = store._session + delta.key
            commands.append(("EVALSHA", COMMIT_SHA, 1, name, *arguments(delta)))
        ready(store._wire.many(commands))
        return
    records: list[Record] = []
    for delta in deltas:
        assert delta.origin is not None
        records.append(made(delta, delta.origin))
    if isinstance(store, LocalStore):
        with store._map.here().begin(write=True) as txn:
            for record in records:
                txn.put(_name(record.key), dumps(record))
                _enter(txn, record.key, record, before=None)
        return
    assert isinstance(store, SqlStore)
    rows = [
        {
            "key": record.key,
            "over": 0,
            "owner": sql._owner(record.origin.principal or ""),
            "until": forget_ms(record),
            "raw": dumps(record),
        }
        for record in records
    ]
    statement = store._say.insert
    ready(store._wire._run(lambda connection: connection.execute(statement, rows)))  # type: ignore[attr-defined]


def microseconds(step: Callable[[int], object], engine: Engine, times: int = TIMES) -> float:
    """What one step costs caller and engine; the first one, which prepares it, is not counted."""
    step(0)
    began = time.process_time_ns() + engine()
    for number in range(times):
        step(number)
    return (time.process_time_ns() + engine() - began) / times / 1000


def measured(store: Store, engine: Engine, size: int) -> dict[str, float]:
    """Fill up to a size, and measure each step."""
    held = {name: f"{name}-{size}" for name in HOLDERS}
    for name, number in HOLDERS.items():
        if number < size:
            fill(store, number, lambda _at, name=name: held[name])  # type: ignore[misc]
    keys = fill(store, size, lambda at: f"p{size}-{at}")
    step = max(len(keys) // TIMES, 1)
    chosen = keys[::step][:TIMES]
    figures = {
        "load": microseconds(lambda at: ready(store.load(chosen[at])), engine),
        "commit": microseconds(
            lambda at: ready(store.commit(changed(chosen[at], key0=b"\x01"))), engine
        ),
    }
    for name, number in HOLDERS.items():
        if number < size:
            times = TIMES if number < 1000 else 3
            ask = microseconds(
                lambda _at, name=name: ready(store.held_by(held[name])),  # type: ignore[misc]
                engine,
                times,
            )
            figures[f"held_by {number}"] = ask
    if not isinstance(store, RedisStore):  # which does it by itself
        figures["sweep"] = sum(_sweep(store, engine) for _ in range(SWEEPS)) / SWEEPS / OVER
    return figures


def _sweep(store: Store, engine: Engine) -> float:
    """Deleting a batch that is over."""
    long_ago = now_ms() - 3 * 3_600_000
    deltas = [_earlier(created(fresh_key(), "over", **PAYLOAD), long_ago) for _ in range(OVER)]
    _write(store, deltas)
    began = time.process_time_ns() + engine()
    if isinstance(store, LocalStore):
        while store._sweep():
            pass
    else:
        assert isinstance(store, SqlStore)
        store._sweep_at = 0
        ready(store._sweep())
    return (time.process_time_ns() + engine() - began) / 1000


def _earlier(delta: Delta, ms: int) -> Delta:
    from msgspec.structs import replace

    assert delta.origin is not None
    return replace(delta, idle_until_ms=ms, origin=replace(delta.origin, absolute_ms=ms))


COMMIT_SHA = ""


def main(arguments: list[str]) -> int:
    """Measure and write the table."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # gigabytes lie in shared memory
    parser = argparse.ArgumentParser(prog="python -m bench growth")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--only", nargs="+", default=[], metavar="ENGINE")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    from samesession.stores import redis as redis_store

    global COMMIT_SHA  # noqa: PLW0603
    COMMIT_SHA = redis_store._COMMIT_SHA
    columns = ["load", "commit", *(f"held_by {number}" for number in HOLDERS.values()), "sweep"]
    lines = [
        f"# {TITLE}",
        "",
        f"- date: {datetime.now(UTC).strftime('%Y-%m-%d %H:%M UTC')}",
        f"- command: `{shlex.join(['python', '-m', 'bench', 'growth', *arguments])}`",
        f"- commit: {revision()}",
        f"- machine: {machine()}, shared; load average at the start {os.getloadavg()[0]:.1f}",
        "",
        "CPU µs of one step, of the caller and the engine together, blocking, one connection: the",
        f"mean of {TIMES} (of 3 for {HOLDERS['many']} sessions). `held_by N` reads and verifies N",
        f"sessions; `sweep` is each session's share of a batch of {OVER} (Redis sweeps by itself).",
        "A session has 8 keys, about 600 bytes.",
        "",
        "| engine | sessions | " + " | ".join(columns) + " |",
        "|---|--:|" + "--:|" * len(columns),
    ]
    with stores() as opened:
        for name, (store, engine) in opened.items():
            if options.only and name not in options.only:
                continue
            if isinstance(store, RedisStore):
                ready(store.commit(created(fresh_key(), n=b"1")))  # it knows its scripts
            for size in options.sizes:
                figures = measured(store, engine, size)
                cells = [
                    f"{figures[column]:,.{int(figures[column] < 100)}f}"
                    if figures.get(column, -1) > 0
                    else "–"
                    for column in columns
                ]
                lines.append(f"| {name} | {size:,} | " + " | ".join(cells) + " |")
                print(lines[-1], file=sys.stderr, flush=True)
    options.out.write_text("\n".join(lines) + "\n")
    if options.out == TABLE:
        RESULTS.write_text(with_growth(RESULTS.read_text()))
    return 0


def with_growth(page: str) -> str:
    """A page of results that ends with this table, whatever it ended with."""
    if not TABLE.exists():
        return page
    page = page.partition(f"\n## {TITLE}\n")[0]
    return f"{page}\n#{TABLE.read_text()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
