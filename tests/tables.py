"""Databases made ready for tests: a server with our table, or a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from samesession.lab import databases
from samesession.lab.daemon import Daemon
from samesession.settings import Url
from samesession.stores import sql_check
from samesession.stores.sql_drivers import Target

SERVERS: Mapping[str, Callable[[], Daemon]] = {
    "postgresql": databases.Postgres,
    "mariadb": databases.MariaDB,
    "memcached": databases.Memcached,
}


def make_table(url: str) -> None:
    """As `samesession doctor URL --create` does."""
    target = Target.of(Url.parse(url))
    engine = target.thread_engine(once=True)
    with engine.connect() as connection:
        sql_check.create(connection, target)
    engine.dispose()


@contextmanager
def started(kind: str) -> Iterator[tuple[str, Daemon | None]]:
    """A URL that is ready to be used, and the server behind it."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{Path(folder) / 'sessions.db'}", None
        return
    with SERVERS[kind]() as server:
        if kind != "memcached":
            make_table(server.url)
        yield server.url, server
