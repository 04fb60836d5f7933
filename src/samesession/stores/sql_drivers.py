"""Which driver speaks to which database, for event loops and for threads, and how long it may take.

| scheme | loops | threads |
|---|---|---|
| ``postgresql://`` | asyncpg | psycopg |
| ``mysql://``, ``mariadb://`` | asyncmy | PyMySQL |
| ``sqlite:///file`` | the standard library's, for both: it never waits for a network |
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from samesession.errors import ConfigError
from samesession.settings import Url

T = TypeVar("T")

_DIALECTS = {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mariadb", "sqlite": "sqlite"}
_LOOPS = {"postgresql": "asyncpg", "mysql": "asyncmy", "mariadb": "asyncmy"}
_THREADS = {
    "postgresql": "psycopg",
    "mysql": "pymysql",
    "mariadb": "pymysql",
    "sqlite": "pysqlite",
}
_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
# Every statement is a transaction of its own, and none is rolled back when a connection rests.
_AUTOCOMMIT: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}

LOOK_S = 0.05
"""How often a thread that waits looks at the clock."""

_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Target:
    """Which database, which table, and how long it may take.

    Attributes:
        deadline_s: of one statement, connecting and waiting for a connection included.
        pool: connections of this process, at most.
        authorities: a file of certificates, "system", or None for no TLS of our asking.
        socket: a unix socket (MySQL) or its folder (PostgreSQL), instead of the host.
    """

    name: str
    dialect: str
    url: URL
    table: str
    deadline_s: float
    pool: int
    authorities: str | None
    socket: str | None

    @classmethod
    def of(cls, url: Url) -> Target:
        """Read a URL's parts.

        Raises:
            ConfigError: an unknown parameter, no file or database, or a table's name that is none.
        """
        dialect = _DIALECTS[url.scheme]
        common = ("deadline", "pool", "table")
        url.only(*common, *(() if dialect == "sqlite" else ("ca", "tls", "socket")))
        url.single()
        table = url.parameters.get("table", "samesession")
        if _TABLE.fullmatch(table) is None:
            raise ConfigError(
                f"{url.scheme}://?table={table!r} is no table's name; use a-z, 0-9 and _ (up to 40)"
            )
        database = url.path.removeprefix("/")
        if dialect == "sqlite" and (url.host or url.username):
            raise ConfigError(
                f"sqlite://{url.host} names a host; a file has three slashes: "
                "sqlite:///file.db, or four from the root: sqlite:////folder/file.db"
            )
        if not database:
            way = "sqlite:///file.db" if dialect == "sqlite" else f"{url.scheme}://host/database"
            raise ConfigError(f"{url.scheme}:// names no database; write {way}")
        host = None if dialect == "sqlite" else url.host or "127.0.0.1"
        port = None if dialect == "sqlite" else url.port or _PORTS[dialect]
        made = URL.create(dialect, url.username, url.password, host, port, database)
        name = database if host is None else f"{host}:{port}/{database}"
        deadline_s = url.duration_ms("deadline", 250) / 1000
        pool, socket = url.count("pool", 10), url.parameters.get("socket")
        return cls(name, dialect, made, table, deadline_s, pool, _authorities(url), socket)

    def loop_engine(self) -> AsyncEngine:
        """An engine for one event loop; its deadline is the wire's to keep."""
        driver = _LOOPS[self.dialect]
        connect = self._secured()
        if self.socket is not None:
            connect["host" if driver == "asyncpg" else "unix_socket"] = self.socket
        return create_async_engine(
            self.url.set(drivername=f"{self.dialect}+{driver}"),
            connect_args=connect,
            **_AUTOCOMMIT,
            **self._pooled(),
        )

    def thread_engine(self, *, once: bool = False) -> Engine:
        """An engine for threads; its connections keep the deadline themselves.

        Args:
            once: no pool: for looking at a database, not for serving from it.
        """
        driver = _THREADS[self.dialect]
        engine = create_engine(
            self.url.set(drivername=f"{self.dialect}+{driver}"),
            **_AUTOCOMMIT,
            **({"poolclass": NullPool} if once else self._pooled()),
            **self._driven(driver),
        )
        if self.dialect == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
        return engine

    def _pooled(self) -> dict[str, Any]:
        return {
            "pool_size": self.pool,
            "max_overflow": 0,  # it waits, within the deadline, instead of raising
            "pool_timeout": self.deadline_s,
            "pool_reset_on_return": None,  # no transaction is left open
            "pool_use_lifo": True,  # so that those not needed age, and the engine may drop them
        }

    def _driven(self, driver: str) -> dict[str, Any]:
        if driver == "pysqlite":
            return {"connect_args": {"timeout": self.deadline_s}}
        if driver == "psycopg":
            return {"creator": self._psycopg()}
        connect = self._secured()
        for limit in ("connect_timeout", "read_timeout", "write_timeout"):
            connect[limit] = self.deadline_s
        if self.socket is not None:
            connect["unix_socket"] = self.socket
        return {"connect_args": connect}

    def _secured(self) -> dict[str, Any]:
        if self.authorities is None:
            return {}
        file = None if self.authorities == "system" else self.authorities
        return {"ssl": ssl.create_default_context(cafile=file)}

    def _psycopg(self) -> Callable[[], Any]:
        import psycopg  # noqa: PLC0415  (one driver of several)

        deadline_s, url = self.deadline_s, self.url

        class SlowError(psycopg.OperationalError):
            pass

        def within(work: Generator[Any, Any, Any], more_s: float = 0) -> Generator[Any, Any, Any]:
            """The same work, given up when its time is over."""
            until = time.monotonic() + deadline_s + more_s
            try:
                wanted = next(work)
                while True:
                    ready = yield wanted
                    if time.monotonic() >= until:
                        work.close()
                        raise SlowError(f"no answer within {deadline_s:g} s")
                    wanted = work.send(ready)
            except StopIteration as done:
                return done.value

        class Connection(psycopg.Connection[Any]):
            """psycopg waits for ever on a server that is silent, and 2 s to connect to it."""

            more_s = 0.0

            @classmethod
            def _connect_gen(cls, *args: Any, **more: Any) -> Any:
                return within(super()._connect_gen(*args, **more))

            def wait(self, gen: Any, interval: float = LOOK_S, timeout: float | None = None) -> Any:
                try:
                    return super().wait(within(gen, self.more_s), interval=min(interval, LOOK_S))
                except SlowError:
                    self.close()  # its next answer would be this one's
                    raise

        secure: dict[str, Any] = {}
        if self.authorities is not None:
            secure = {"sslmode": "verify-full", "sslrootcert": self.authorities}

        def connect() -> Any:
            return Connection.connect(
                host=self.socket or url.host,
                port=url.port,
                user=url.username,
                password=url.password,
                dbname=url.database,
                **secure,
            )

        return connect


def patiently(work: Callable[[Connection], T], more_s: float, connection: Connection) -> T:
    """Do something on a connection of a thread that may take longer."""
    driver: Any = connection.connection.driver_connection
    if not hasattr(driver, "more_s"):  # SQLite's has no deadline of ours
        return work(connection)
    driver.more_s = more_s
    try:
        return work(connection)
    finally:
        driver.more_s = 0.0


def _authorities(url: Url) -> str | None:
    asked = url.parameters.get("tls", "0")
    if asked not in {"0", "1"}:
        raise ConfigError(f"{url.scheme}://?tls={asked!r}; write 1 (verified TLS) or 0")
    file = url.parameters.get("ca")
    if file is None:
        return "system" if asked == "1" else None
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"{url.scheme}://?ca={file!r} cannot be read: {error}") from None
    return file


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # Readers and the one writer do not wait for each other; what is committed outlives the process.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
