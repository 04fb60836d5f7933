"""The SQL store's table, looked at and made: when a store opens, and by ``samesession doctor``.

Everything here connects by itself, once, and blocks; it is for the start of a process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from samesession.errors import ConfigError
from samesession.stores.sql_drivers import Target
from samesession.stores.sql_table import SCHEMA, Statements
from samesession.stores.sql_wire import codes_of, in_a_line

log = logging.getLogger("samesession")

T = TypeVar("T")

START_S = 2.0
"""A process that starts has more time than a request; a database that is away must not stop it."""

PATIENCE_S = 5.0
"""For somebody at a terminal."""

CREATE = "samesession doctor URL --create makes it, --sql prints the statements"

# What no waiting will change: wrong password, no such user, no such database, no access to it.
_WRONG = frozenset({"28P01", "28000", "3D000", "42501", 1044, 1045, 1049, 1698})


def checked(target: Target) -> Target:
    """Return the target whose table is there and is ours.

    A database that does not answer is no reason not to start: the store will say so when it is
    asked, and go on when the database is back.

    Raises:
        ConfigError: wrong password, no such database, no table, or another schema.
    """
    make_private(target)
    engine = _patient(target, START_S).thread_engine(once=True)
    try:
        with engine.connect() as connection:
            if target.dialect == "sqlite" and schema_of(connection, target) is None:
                create(connection, target)
            found = schema_of(connection, target)
    except (SQLAlchemyError, OSError) as error:
        wrong = what_is_wrong(error)
        if wrong:
            raise ConfigError(f"{target.name}: {wrong}") from None
        log.warning("%s does not answer yet: %s", target.name, in_a_line(error))
        return target
    finally:
        engine.dispose()
    if found is None:
        raise ConfigError(f"{target.name} has no table {target.table}; {CREATE}")
    if found != SCHEMA:
        raise ConfigError(
            f"{target.name}: table {target.table} has schema {found}, this samesession has "
            f"{SCHEMA}; install the samesession that made it, or name a new one (?table=)"
        )
    return target


def make_private(target: Target) -> None:
    """Make SQLite's file before SQLite does, who would let others read it."""
    if target.dialect == "sqlite":
        with suppress(OSError):  # it will say so itself
            os.close(os.open(target.url.database or "", os.O_CREAT | os.O_RDWR, 0o600))


def once(target: Target, work: Callable[[Connection], T]) -> T:
    """Do something on a connection of its own, in front of somebody who waits.

    Raises:
        ConfigError: the database's own words when it cannot be done.
    """
    engine = _patient(target, PATIENCE_S).thread_engine(once=True)
    try:
        with engine.connect() as connection:
            return work(connection)
    except (SQLAlchemyError, OSError) as error:
        raise ConfigError(f"{target.name}: {in_a_line(error)}") from None
    finally:
        engine.dispose()


def schema_of(connection: Connection, target: Target) -> int | None:
    """The schema's number; None when there is no table.

    Raises:
        ConfigError: there is a table of that name, and it is none of ours.
    """
    look = inspect(connection)
    if not look.has_table(target.table):
        return None
    found = None
    if {"id", "version"} <= {column["name"] for column in look.get_columns(target.table)}:
        found = connection.execute(Statements(target.table).schema).scalar()
    if found is None:
        raise ConfigError(
            f"{target.name}: table {target.table} is not ours; name another one (?table=)"
        )
    return int(found)


# Several servers may start at once; SQLite's and PostgreSQL's tables come with all they need or
# not at all, MySQL commits each statement.
_ALONE = {
    "sqlite": ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"),
    "postgresql": ("BEGIN; SELECT pg_advisory_xact_lock(7305808)", "COMMIT", "ROLLBACK"),
    "mysql": ("DO GET_LOCK('samesession', 10)", *("DO RELEASE_LOCK('samesession')",) * 2),
}
_ALONE["mariadb"] = _ALONE["mysql"]


def create(connection: Connection, target: Target) -> None:
    """Make the table, if nobody else has made it meanwhile."""
    statements = Statements(target.table)
    begin, end, undo = _ALONE[target.dialect]
    connection.exec_driver_sql(begin)
    try:
        if schema_of(connection, target) is None:
            statements.table.create(connection)
            connection.execute(statements.stamp(connection.dialect))
    except BaseException:
        connection.exec_driver_sql(undo)
        raise
    connection.exec_driver_sql(end)


def _patient(target: Target, seconds: float) -> Target:
    return replace(target, deadline_s=max(target.deadline_s, seconds))


def ddl(target: Target) -> Sequence[str]:
    """The statements that `create` sends, for whoever may not let a program do it."""
    return Statements(target.table).ddl(target.thread_engine(once=True).dialect)


def what_is_wrong(error: BaseException) -> str:
    """What no waiting will change, in a line; nothing when the database may just be away."""
    cause: Any = error.orig if isinstance(error, DBAPIError) else error
    text = in_a_line(error)
    refused = "password authentication failed" in text or "does not exist" in text
    insecure = "support SSL" in text or "CERTIFICATE" in text.upper()
    no_file = "unable to open database file" in text or "file is not a database" in text
    return text if codes_of(cause) & _WRONG or refused or insecure or no_file else ""
