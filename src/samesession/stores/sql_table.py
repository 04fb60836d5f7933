"""The one table of the SQL store, and every statement that is ever sent to it.

A row is a record or the mark of an ended one, as bytes; its other columns are for finding and
guarding. There is no upsert: rows are inserted, or changed where they still are what was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Delete,
    Index,
    Insert,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Update,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement
from sqlalchemy.sql import Executable

from samesession.record import LATEST_MS

SCHEMA = 1
"""Of the table; stored as the version of the row `SCHEMA_ID`, and compared when a store opens."""

SCHEMA_ID = "schema"
"""No session has this key: theirs are 32 hexadecimal digits."""

ASIDE = 2
"""In the column ``ended``: neither a record nor a mark (`samesession.stores.sql_quota`)."""


def _text(length: int) -> Any:
    # Compared byte by byte everywhere; SQLite's strict tables know TEXT only.
    kind = String(length).with_variant(sqlite.TEXT(), "sqlite")
    bytewise = mysql.VARCHAR(length, charset="ascii", collation="ascii_bin")
    return kind.with_variant(bytewise, "mysql", "mariadb")


def _number(kind: Any) -> Any:
    return kind.with_variant(sqlite.INTEGER(), "sqlite")


class Statements:
    """The statements over a table of a given name."""

    def __init__(self, name: str, dialect: str = "") -> None:
        """Describe the table; nothing is sent."""
        table = self.table = Table(
            name,
            MetaData(),
            Column("id", _text(64), primary_key=True),
            Column("version", _number(BigInteger()), nullable=False),
            Column("ended", _number(SmallInteger()), nullable=False),
            # A hash of the principal: names differ in length, case and accents, hashes do not.
            Column("principal", _text(32), nullable=True),
            Column("forget_ms", _number(BigInteger()), nullable=False),
            Column(
                "data",
                LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb"),
                nullable=False,
            ),
            sqlite_strict=True,
            mysql_engine="InnoDB",
            mariadb_engine="InnoDB",
            postgresql_with={"fillfactor": 80},  # room for the next version on the same page
        )
        self._indexes = (
            # Without ``ended``: an end then changes no index, which is half its price (PostgreSQL's
            # heap-only update; 100 000 rows took 1.2 s of its CPU, and take 0.5).
            Index(f"{name}_principal", table.c.principal, table.c.id),
            Index(f"{name}_forget_ms", table.c.forget_ms),
        )
        mine = table.c.id == bindparam("key")
        # No number that somebody writes there makes the next one impossible.
        following = table.c.version % literal_column(str(1 << 62)) + 1
        self.load: Executable = select(table.c.version, table.c.data).where(mine)
        self.insert: Insert = insert(table).values(
            id=bindparam("key"),
            version=1,
            ended=bindparam("over"),
            principal=bindparam("owner"),
            forget_ms=bindparam("until"),
            data=bindparam("raw"),
        )
        self.update: Update = (
            update(table)
            .where(mine, table.c.version == bindparam("seen"))
            .values(
                version=following,
                ended=bindparam("over"),
                forget_ms=bindparam("until"),
                data=bindparam("raw"),
            )
        )
        # In pages: a principal may hold more than can be read within a deadline.
        self.held: Executable = _page(table, table.c.data, ended=0)
        self.live: Executable = _page(table, table.c.forget_ms, ended=0)
        others = table.c.data != bindparam("raw")
        self.marks: Executable = _page(table, table.c.data, ended=1, also=others)
        # Of a principal, from one key to another; the bytes of the mark are the same for all. Each
        # stays where it is as long as its session would have, which is longer than a mark must.
        owners = table.c.principal == bindparam("owner")
        within: tuple[Any, ...] = (
            owners,
            table.c.id > bindparam("after"),
            table.c.id <= bindparam("last"),
            table.c.id != bindparam("keep"),
        )
        row: Any = literal_column("ctid" if dialect == "postgresql" else "rowid")
        if dialect == "sqlite":
            # In the order of its pages, by what the index alone says: a small cache then holds each
            # page once (100 000 rows: 0.15 s of CPU, and 0.5 in the order of the index).
            within = (row.in_(select(row).select_from(table).where(*within)),)
        self.end_part: Update = (
            update(table)
            .where(
                *within,
                table.c.ended == 0,
                table.c.forget_ms > bindparam("since"),
                table.c.forget_ms <= bindparam("till"),
            )
            .values(version=following, ended=1, data=bindparam("raw"))
        )
        more = select(table.c.id).limit(1).offset(bindparam("most"))
        self.more_than: Executable = more.where(owners)
        self.last_of_page: Executable = more.where(
            owners, table.c.id > bindparam("after")
        ).order_by(table.c.id)
        # For a quota: the principal's own row, who is about to make a record, and who has one.
        self.lock: Executable = select(table.c.id).where(mine).with_for_update()
        both = (table.c.forget_ms, table.c.data)
        self.aside: Executable = _page(table, *both, ended=ASIDE)
        self.owned: Executable = _page(table, *both, ended=0)
        named = table.c.id.in_(bindparam("keys", expanding=True))
        self.known: Executable = select(table.c.id).where(named)
        self.end_many: Update = (
            update(table)
            .where(named, table.c.ended == 0)
            .values(
                version=following,
                ended=1,
                forget_ms=bindparam("until"),
                data=bindparam("raw"),
            )
        )
        # Rows that another server is deleting are skipped where the engine can, so that sweeping
        # servers neither wait for each other nor deadlock. SQLite has one writer at a time.
        over = table.c.forget_ms < bindparam("before")
        found = (
            select(table.c.id)
            .where(over)
            .order_by(table.c.forget_ms)
            .limit(bindparam("most"))
            .with_for_update(skip_locked=True)
        )
        self.over: Executable = found
        # By where they lie, which leaves PostgreSQL's planner no choice: it compared each of them
        # with every row of the table (100 000 sessions: 21 ms of CPU a batch, and now 1).
        there = found.with_only_columns(row)
        named_rows = func.any(func.array(there.scalar_subquery()))
        chosen = row == named_rows if dialect == "postgresql" else row.in_(there)
        self.sweep: Delete = delete(table).where(chosen)
        self.drop_many: Delete = delete(table).where(
            named,
            over,
        )
        self.page: Executable = (
            select(table.c.id)
            .where(table.c.id > bindparam("after"), table.c.id != SCHEMA_ID, table.c.ended == 0)
            .order_by(table.c.id)
            .limit(bindparam("most"))
        )
        self.schema: Executable = select(table.c.version).where(table.c.id == SCHEMA_ID)
        self.backlog: Executable = (
            select(func.count()).select_from(table).where(table.c.forget_ms < bindparam("before"))
        )

    def stamp(self, dialect: Dialect) -> Insert:
        """The row that says which schema this is."""
        nothing: Any = literal_column("''" if dialect.name == "postgresql" else "X''")
        return insert(self.table).values(
            id=SCHEMA_ID,
            version=SCHEMA,
            ended=1,
            principal=None,
            forget_ms=LATEST_MS,
            data=nothing,
        )

    def ddl(self, dialect: Dialect) -> Sequence[str]:
        """The statements that make the table, in an engine's own words."""
        made: list[ExecutableDDLElement] = [CreateTable(self.table)]
        made += [CreateIndex(index) for index in self._indexes]
        texts = [str(element.compile(dialect=dialect)).strip() for element in made]
        stamp = self.stamp(dialect).compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        return [*texts, str(stamp)]


def _page(table: Table, *columns: Any, ended: int, also: Any = None) -> Executable:
    """A principal's rows in the order of the index, after a key."""
    return (
        select(table.c.id, *columns)
        .where(
            table.c.principal == bindparam("owner"),
            table.c.ended == ended,
            table.c.id > bindparam("after"),
            *(() if also is None else (also,)),
        )
        .order_by(table.c.id)
        .limit(bindparam("most"))
    )
