"""What a database says about itself, asked for ``samesession doctor``; nothing here judges."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from samesession.stores.sql_check import schema_of
from samesession.stores.sql_drivers import Target
from samesession.stores.sql_table import SCHEMA, Statements

BACKLOG_MS = 20 * 60_000
"""Rows that are over are swept ten minutes later; twice that is a backlog."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a look at a database found; None where it would not say.

    Attributes:
        trips_ms: round trips, fastest first.
        ahead_ms: its clock before ours.
        secure: whether this connection is encrypted; None for a file.
        almighty: whether our user may do everything.
        durable: whether what it has acknowledged outlives a power failure.
        replicas: how many follow it.
        expired: rows that should have been swept a while ago.
    """

    version: str
    schema: int | None
    trips_ms: tuple[float, ...]
    ahead_ms: float | None
    secure: bool | None
    read_only: bool | None
    almighty: bool | None
    durable: bool | None
    replicas: int | None
    expired: int | None
    connections: int | None


_NOW = {
    "postgresql": "SELECT extract(epoch FROM clock_timestamp()) * 1000",
    "mysql": "SELECT UNIX_TIMESTAMP(NOW(3)) * 1000",
}
_CIPHER = (
    "SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS "
    "WHERE VARIABLE_NAME = 'SSL_CIPHER'"
)
_RIGHTS = (
    "SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES "
    "WHERE PRIVILEGE_TYPE IN ('SUPER', 'CREATE USER', 'FILE')"
)
_SYNCED = (
    "SELECT current_setting('fsync') = 'on' AND current_setting('synchronous_commit') <> 'off'"
)
# name of a fact: dialect: a statement whose first value tells, and how
_ASKED: dict[str, dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "version": {
        "postgresql": ("SHOW server_version", lambda v: f"PostgreSQL {v}"),
        "mysql": ("SELECT VERSION()", lambda v: f"{'' if 'Maria' in v else 'MySQL '}{v}"),
        "sqlite": ("SELECT sqlite_version()", lambda v: f"SQLite {v}"),
    },
    "secure": {
        "postgresql": ("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", bool),
        "mysql": (
            _CIPHER,
            bool,
        ),
    },
    "read_only": {
        "postgresql": ("SHOW transaction_read_only", lambda v: v == "on"),
        "mysql": ("SELECT @@global.read_only", lambda v: v not in {0, "OFF", None}),
        "sqlite": ("PRAGMA query_only", bool),
    },
    "almighty": {
        "postgresql": ("SELECT rolsuper FROM pg_roles WHERE rolname = current_user", bool),
        "mysql": (
            _RIGHTS,
            bool,
        ),
    },
    "durable": {
        "postgresql": (
            _SYNCED,
            bool,
        ),
        "mysql": ("SELECT @@innodb_flush_log_at_trx_commit", lambda v: v == 1),
        "sqlite": ("PRAGMA synchronous", lambda v: v >= 2),
    },
    "replicas": {"postgresql": ("SELECT count(*) FROM pg_stat_replication", int)},
    "connections": {
        "postgresql": ("SHOW max_connections", int),
        "mysql": ("SELECT @@max_connections", int),
    },
}


def facts_of(connection: Connection, target: Target, now_ms: Callable[[], int]) -> Facts:
    """Look at a database; what it does not tell this user stays unknown."""
    dialect = {"mariadb": "mysql"}.get(target.dialect, target.dialect)
    told: dict[str, Any] = {}
    for name, statements in _ASKED.items():
        statement, read = statements.get(dialect, ("", bool))
        told[name] = None
        with suppress(SQLAlchemyError):
            if statement:
                told[name] = read(connection.exec_driver_sql(statement).scalar())
    trips = []
    for _ in range(15):
        began = time.perf_counter()
        connection.exec_driver_sql("SELECT 1").scalar()
        trips.append((time.perf_counter() - began) * 1000)
    ahead = None
    if dialect in _NOW:
        before = now_ms()
        there = float(connection.exec_driver_sql(_NOW[dialect]).scalar() or 0)
        ahead = there - (before + now_ms()) / 2
    schema = schema_of(connection, target)
    expired = None
    if schema == SCHEMA:
        asked = Statements(target.table).backlog
        expired = connection.execute(asked, {"before": now_ms() - BACKLOG_MS}).scalar()
    return Facts(
        schema=schema, trips_ms=tuple(sorted(trips)), ahead_ms=ahead, expired=expired, **told
    )
