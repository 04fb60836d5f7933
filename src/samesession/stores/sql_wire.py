"""SQLAlchemy behind four calls, for event loops and for threads: rows, change, insert, sweep.

Every statement is a transaction of its own, may be sent twice, and is guarded by what was read;
so one whose connection broke is sent once more on a new one. A statement that was not answered
within its deadline is not: nobody knows what became of it, and its connection is thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import Executable

from samesession.errors import StoreUnavailableError
from samesession.store import CircuitBreaker
from samesession.stores.sql_drivers import Target, patiently
from samesession.stores.sql_table import Statements

log = logging.getLogger("samesession")

T = TypeVar("T")
Work = Callable[[Connection], T]
Row = Sequence[Any]


class ConflictError(Exception):
    """Another statement was in the way (a deadlock); nothing was written, try again."""


class Wire(Protocol):
    """The seam: everything above speaks statements and rows.

    Each call raises StoreUnavailableError when no answer came within the deadline, or the engine
    refused; and ConflictError.
    """

    suspends: bool

    async def rows(self, statement: Executable, **values: Any) -> Sequence[Row]:
        """Return what a SELECT finds."""
        ...

    async def change(self, statement: Executable, *, more_s: float = 0, **values: Any) -> int:
        """Run an UPDATE or a DELETE; returns how many rows it met.

        Args:
            more_s: beyond the deadline, for a statement that has much to do.
        """
        ...

    async def insert(self, statement: Executable, **values: Any) -> bool:
        """Run an INSERT; False when the key is taken."""
        ...

    async def together(self, work: Work[T]) -> T:
        """Do several statements as one: all or none of them, each sees what others committed."""
        ...

    async def sweep(self, statements: Statements, *, before_ms: int, most: int) -> int:
        """Delete rows that may go, those that nobody else is deleting; returns how many."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class _Speaking:
    """The four calls by what one connection does; how it comes to one is the subclass's."""

    async def _run(self, work: Work[T], more_s: float = 0) -> T:
        raise NotImplementedError

    async def rows(self, statement: Executable, **values: Any) -> Sequence[Row]:
        """See `Wire`."""
        return await self._run(lambda connection: connection.execute(statement, values).all())

    async def change(self, statement: Executable, *, more_s: float = 0, **values: Any) -> int:
        """See `Wire`."""

        def work(connection: Connection) -> int:
            return connection.execute(statement, values).rowcount

        return await self._run(work, more_s)

    async def insert(self, statement: Executable, **values: Any) -> bool:
        """See `Wire`."""

        def work(connection: Connection) -> bool:
            try:
                connection.execute(statement, values)
            except IntegrityError:
                return False
            return True

        return await self._run(work)

    async def together(self, work: Work[T]) -> T:
        """See `Wire`."""
        return await self._run(lambda connection: _together(connection, work))

    async def sweep(self, statements: Statements, *, before_ms: int, most: int) -> int:
        """See `Wire`."""
        values: dict[str, Any] = {"before": before_ms, "most": most}

        def two(connection: Connection) -> int:
            keys = list(connection.execute(statements.over, values).scalars())
            if not keys:
                return 0
            named = {"keys": keys, "before": before_ms}
            return connection.execute(statements.drop_many, named).rowcount

        def work(connection: Connection) -> int:
            if connection.dialect.name in {"postgresql", "sqlite"}:
                return connection.execute(statements.sweep, values).rowcount
            # MariaDB cannot limit a subquery: two statements, and what they lock is let go at once.
            return _together(connection, two)

        return await self._run(work)


def _together(connection: Connection, work: Work[T]) -> T:
    """Work in a transaction that locks no more rows than it names."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            done = work(connection)
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")
        return done
    connection = connection.execution_options(isolation_level="READ COMMITTED")
    with connection.begin():
        return work(connection)


class ThreadWire(_Speaking):
    """Blocking connections, one a thread at a time; its coroutines never suspend."""

    suspends = False

    def __init__(self, target: Target) -> None:
        """Connect at the first call."""
        self._target = target
        self._breaker = CircuitBreaker(clock=time.monotonic)
        self._opening = Lock()
        self._engine: Engine | None = None
        self._pid = 0

    async def close(self) -> None:
        """See `Wire`."""
        with self._opening:
            if self._engine is not None:
                self._engine.dispose(close=self._pid == os.getpid())
            self._engine = None

    async def _run(self, work: Work[T], more_s: float = 0) -> T:
        if more_s:
            work = partial(patiently, work, more_s)
        _ask(self._breaker, self._target)
        engine, until = self._opened(), time.monotonic() + self._target.deadline_s
        try:
            try:
                with engine.connect() as connection:
                    done = work(connection)
            except SQLAlchemyError as error:
                if not _may_repeat(error, until):
                    raise
                with engine.connect() as connection:  # the server was restarted, for one
                    done = work(connection)
        except Exception as error:  # noqa: BLE001  (drivers raise their own while they connect)
            raise _translated(error, self._target, self._breaker) from None
        self._breaker.succeeded()
        return done

    def _opened(self) -> Engine:
        if self._engine is None or self._pid != os.getpid():
            with self._opening:
                if self._engine is not None and self._pid != os.getpid():
                    self._engine.dispose(close=False)  # a fork's: they are the parent's
                    self._engine = None
                if self._engine is None:
                    self._engine, self._pid = self._target.thread_engine(), os.getpid()
        return self._engine


class LoopWire(_Speaking):
    """A pool of connections for each event loop that asks."""

    suspends = True

    def __init__(self, target: Target) -> None:
        """Connect at the first call."""
        self._target = target
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()

    async def close(self) -> None:
        """See `Wire`; connections of other loops went with their loops."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close()

    async def _run(self, work: Work[T], more_s: float = 0) -> T:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            pool = self._pools[loop] = _Pool(self._target)
        return await pool.run(work, more_s)


class _Pool:
    """Connections of one event loop."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._breaker = CircuitBreaker(clock=time.monotonic)
        self._engine: AsyncEngine = target.loop_engine()
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, work: Work[T], more_s: float = 0) -> T:
        """Run in a task of its own: who asks may be cancelled, a half-read answer may not stay."""
        _ask(self._breaker, self._target)
        held: list[Any] = []
        task = asyncio.get_running_loop().create_task(self._exchange(work, held))
        self._running.add(task)
        task.add_done_callback(self._ended)
        done, _ = await asyncio.wait([task], timeout=self._target.deadline_s + more_s)
        if not done:
            self._breaker.failed()
            if held:
                _cut(held[-1])  # the task ends by the error that this is to it
            else:
                task.cancel()
            raise StoreUnavailableError(
                f"{self._target.name} did not answer within {self._target.deadline_s:g} s"
            )
        try:
            result = task.result()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  (as in threads)
            raise _translated(error, self._target, self._breaker) from None
        self._breaker.succeeded()
        return result

    async def close(self) -> None:
        for task in tuple(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=self._target.deadline_s)
        with contextlib.suppress(SQLAlchemyError, OSError, asyncio.TimeoutError):
            await self._engine.dispose()

    async def _exchange(self, work: Work[T], held: list[Any]) -> T:
        until = time.monotonic() + self._target.deadline_s
        try:
            return await self._exchange_once(work, held)
        except SQLAlchemyError as error:
            if not _may_repeat(error, until):
                raise
        return await self._exchange_once(work, held)  # the server was restarted, for one

    async def _exchange_once(self, work: Work[T], held: list[Any]) -> T:
        async with self._engine.connect() as connection:
            raw = await connection.get_raw_connection()
            held.append(raw.driver_connection)
            try:
                return await connection.run_sync(work)
            finally:
                held.pop()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen; whoever waited has been told


def _cut(connection: Any) -> None:
    """End a driver's connection without a word to the server, which is silent."""
    # asyncpg calls it terminate, asyncmy close.
    end = getattr(connection, "terminate", None) or connection.close
    end()


def _ask(breaker: CircuitBreaker, target: Target) -> None:
    if not breaker.allows():
        raise StoreUnavailableError(f"{target.name} did not answer a moment ago")


def _may_repeat(error: SQLAlchemyError, until: float) -> bool:
    """Whether a pooled connection had died meanwhile, and there is time for another one."""
    broke = isinstance(error, DBAPIError) and error.connection_invalidated
    return broke and time.monotonic() < until


# PostgreSQL's SQLSTATE (deadlock, serialization) and MySQL's numbers (deadlock, lock wait).
_CONFLICTS = frozenset({"40P01", "40001", 1213, 1205, 1020})


def _translated(error: BaseException, target: Target, breaker: CircuitBreaker) -> Exception:
    """A driver's errors in our words."""
    cause: Any = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(error, ConflictError) or codes_of(cause) & _CONFLICTS:
        return ConflictError()
    breaker.failed()
    if isinstance(error, PoolTimeoutError):
        return StoreUnavailableError(
            f"{target.name}: all {target.pool} connections were busy for {target.deadline_s:g} s; "
            "raise ?pool="
        )
    reason = in_a_line(error)
    known = isinstance(error, DBAPIError) and error.connection_invalidated
    if not (known or isinstance(cause, OSError | asyncio.CancelledError | TimeoutError)):
        # No table, no permission, read-only replica: a wrong set-up, told in the log too.
        log.error("%s refused a statement: %s", target.name, reason)
    return StoreUnavailableError(f"{target.name}: {reason}")


def codes_of(cause: Any) -> frozenset[str | int]:
    """The SQLSTATE and the number of a driver's error, as far as it has them."""
    first = next(iter(getattr(cause, "args", ())), None)
    codes = (getattr(cause, "sqlstate", None), first)
    return frozenset(code for code in codes if isinstance(code, str | int))


def in_a_line(error: BaseException) -> str:
    """An error's own words without the driver's decoration."""
    cause: Any = error.orig if isinstance(error, DBAPIError) else error
    if len(getattr(cause, "args", ())) == 2:  # MySQL's: a number and a text
        cause = cause.args[1]
    return " ".join(str(cause).split()) or type(cause).__name__
