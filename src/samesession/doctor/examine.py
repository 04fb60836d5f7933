"""Which engine a URL names, looked at by whoever knows it; and sessions ended after a restore."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from types import ModuleType
from typing import cast

from samesession._bridge import ready
from samesession.doctor.finding import Finding, ok
from samesession.errors import ConfigError, StoreCorruptError
from samesession.record import TOKEN_BYTES, Ending, Key, Reason, Record
from samesession.settings import Url, redacted
from samesession.store import Store
from samesession.stores.listing import keys_of
from samesession.strategies import Strategy, strategy_of

EXAMINERS = {
    "samesession.stores.memcached": "samesession.doctor.memcached",
    "samesession.stores.redis": "samesession.doctor.redis",
    "samesession.stores.sql": "samesession.doctor.sql",
}
"""By the module of the store."""

PAGE = 500


def examine(text: str) -> list[Finding]:
    """Reach the engine that a URL names, and say what it is like.

    Raises:
        ConfigError: it cannot be reached, or the URL names none.
    """
    strategy = strategy_of(text)
    name = EXAMINERS.get(strategy.row.module)
    if name is None:
        cluster = "; `samesession cluster status` looks at a cluster"
        raise ConfigError(
            f"{redacted(text)}: there is no engine to look at; it lives in this host"
            f"{cluster if strategy.name == 'cluster' else ''}"
        )
    return cast("list[Finding]", _module(strategy, name).examine(strategy.url))


def create(text: str) -> Finding:
    """Make the SQL table."""
    return cast("Finding", _sql(text).create(Url.parse(text)))


def statements(text: str) -> list[str]:
    """The statements that make the SQL table; nothing is connected."""
    return cast("list[str]", _sql(text).statements(Url.parse(text)))


def restored(text: str, before: datetime | None, progress: Callable[[int], object]) -> Finding:
    """End every session that was made before a restore: a backup has forgotten who logged out.

    Args:
        before: when the restored engine began to serve; now by default.
        progress: told how many were looked at.
    """
    strategy = strategy_of(text)
    strategy.must_be_there()
    store = replace(strategy, near=None).open_threads()  # it lists, and waits for nobody
    moment = before or datetime.now(UTC)
    before_ms = int(moment.timestamp() * 1000)
    ending = Ending(Reason.REVOKED, time.time_ns() // 1_000_000, secrets.token_bytes(TOKEN_BYTES))
    ended = looked_at = 0
    try:
        cursor = ""
        while True:
            keys, cursor = ready(keys_of(store, cursor, PAGE))
            for key in keys:
                ended += _ended(store, key, before_ms, ending)
            looked_at += len(keys)
            progress(looked_at)
            if not cursor:
                break
    finally:
        ready(store.close())
    when = moment.astimezone().isoformat(timespec="seconds")
    return ok("restored", f"{ended} of {looked_at} sessions were made before {when} and are over")


def _ended(store: Store, key: Key, before_ms: int, ending: Ending) -> bool:
    try:
        found = ready(store.load(key))
    except StoreCorruptError:
        return False  # it signs nobody in
    if not isinstance(found, Record) or found.origin.created_ms >= before_ms:
        return False
    return ready(store.end(key, ending)).token == ending.token


def _sql(text: str) -> ModuleType:
    strategy = strategy_of(text)
    name = EXAMINERS.get(strategy.row.module, "")
    if not name.endswith(".sql"):
        raise ConfigError(f"{redacted(text)}: only SQL has a schema; nothing needs to be made")
    return _module(strategy, name)


def _module(strategy: Strategy, name: str) -> ModuleType:
    """Whoever knows an engine; imported with its client library, which may be missing."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("samesession"):
            raise
        raise strategy.missing(error) from None
