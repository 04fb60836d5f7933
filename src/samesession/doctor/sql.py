"""What a SQL database is like; judged for sessions."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path

from samesession._bridge import ready
from samesession.doctor import probe
from samesession.doctor.finding import Finding, bad, clock, latency, note, ok, transport
from samesession.errors import ConfigError
from samesession.settings import Url
from samesession.stores import sql, sql_check
from samesession.stores.sql_drivers import Target
from samesession.stores.sql_facts import Facts, facts_of
from samesession.stores.sql_table import SCHEMA

CREATE = "samesession doctor URL --create makes it, --sql prints the statements"

# SQLite's is ours to choose: WAL with synchronous=NORMAL (samesession.stores.sql_drivers).
_DURABLE = {
    "postgresql": "fsync=on, synchronous_commit=on",
    **dict.fromkeys(("mysql", "mariadb"), "innodb_flush_log_at_trx_commit=1"),
}


def examine(url: Url) -> list[Finding]:
    """Look at everything that sessions need.

    Raises:
        ConfigError: nobody answers there, or not to us.
    """
    target = Target.of(url)
    if target.dialect == "sqlite" and not Path(target.url.database or "").exists():
        raise ConfigError(f"{target.name}: no such file; samesession doctor URL --create makes it")
    facts = sql_check.once(target, lambda connection: facts_of(connection, target, _now_ms))
    found = [ok("version", facts.version), _schema(facts, target), *_judged(facts, target.dialect)]
    found.append(latency(facts.trips_ms, target.deadline_s * 1000))
    if facts.ahead_ms is not None:
        found.append(clock(facts.ahead_ms))
    if target.dialect == "sqlite":
        found.append(_file(Path(target.url.database or "")))
    elif target.socket is None:
        found.append(transport(secure=bool(facts.secure), host=url.host, way="use ?tls=1 or ?ca="))
    if facts.schema == SCHEMA and not facts.read_only:
        store = sql.open_threads(url)
        found.append(probe.rights(store))
        ready(store.close())
    return found


def create(url: Url) -> Finding:
    """Make the table, if it is not there."""
    target = Target.of(url)
    sql_check.make_private(target)
    sql_check.once(target, lambda connection: sql_check.create(connection, target))
    return ok("schema", f"table {target.table} is there, schema {SCHEMA}")


def statements(url: Url) -> list[str]:
    """What `create` would send."""
    return [statement.rstrip(";") + ";" for statement in sql_check.ddl(Target.of(url))]


def _schema(facts: Facts, target: Target) -> Finding:
    if facts.schema is None:
        return bad("schema", f"no table {target.table}", CREATE)
    if facts.schema != SCHEMA:
        text = f"table {target.table} has schema {facts.schema}, this samesession has {SCHEMA}"
        return bad("schema", text, "install the samesession that made it, or name another ?table=")
    return ok("schema", f"table {target.table}, schema {SCHEMA}")


def _judged(facts: Facts, dialect: str) -> Iterator[Finding]:
    if facts.read_only:
        yield bad("role", "read-only: a replica, or an account that may not write", "the primary")
    if facts.durable is False:
        yield note(
            "durability",
            "what was acknowledged last may be lost by a power failure (not by a crash of ours)",
            _DURABLE.get(dialect, ""),
        )
    elif facts.durable:
        yield ok("durability", "acknowledged is kept, also over a power failure")
    if facts.replicas == 0:
        yield note("replicas", "none", "when this server dies, its sessions wait for its return")
    elif facts.replicas:
        yield ok("replicas", str(facts.replicas))
    if facts.almighty:
        way = "SELECT, INSERT, UPDATE and DELETE on the one table are enough"
        yield note("user", "may do everything", way)
    elif facts.almighty is not None:
        yield ok("user", "restricted")
    if facts.connections:
        text = f"{facts.connections} at most; each process takes up to ?pool=10"
        yield ok("connections", text)
    if facts.expired:
        text = f"{facts.expired} rows are long over"
        yield note("backlog", text, "each server that writes sweeps 200 a second; it will shrink")
    elif facts.expired == 0:
        yield ok("backlog", "none")


def _file(path: Path) -> Finding:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return bad("file", f"{path} may be read by others ({mode:o})", f"chmod 600 {path}")
    return ok("file", f"{path}, ours alone")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
