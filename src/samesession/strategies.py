"""The three strategies by URL: which store answers, and which affinity the balancer should give."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import Literal, cast, get_args

from samesession.adopt import Shelf
from samesession.errors import ConfigError
from samesession.settings import Url, redacted
from samesession.store import Store
from samesession.stores.moving import Moving

Affinity = Literal["none", "cookie", "ip"]
Opener = Callable[[Url], Store]


@dataclass(frozen=True, slots=True)
class Scheme:
    """One row of the table: where a store lives and what it needs around it.

    Attributes:
        module: has ``open_loop(url)`` for event loops and ``open_threads(url)`` for threads.
        extra: what to install when the module's client library is missing.
        affinity: what the balancer must give for sessions to be found.
        many_workers: whether the worker processes of one server share the store.
    """

    strategy: str
    module: str
    extra: str = ""
    affinity: Affinity = "none"
    many_workers: bool = True


_REDIS = Scheme("external", "samesession.stores.redis", extra="redis")

SCHEMES = {
    "memory": Scheme("memory", "samesession.stores.memory", affinity="cookie", many_workers=False),
    "sticky": Scheme("sticky", "samesession.stores.local", extra="local", affinity="cookie"),
    "cluster": Scheme("cluster", "samesession.cluster.client", extra="cluster"),
    **dict.fromkeys(("redis", "rediss", "valkey", "valkeys"), _REDIS),
    **dict.fromkeys(("redis+unix", "valkey+unix"), _REDIS),
    **{
        f"{base}+{topology}": _REDIS
        for base in ("redis", "rediss", "valkey", "valkeys")
        for topology in ("sentinel", "cluster")
    },
    "memcached": Scheme("external", "samesession.stores.memcached", extra="memcached"),
    "sqlite": Scheme("external", "samesession.stores.sql", extra="sql"),
    "postgresql": Scheme("external", "samesession.stores.sql", extra="sql-postgresql"),
    "mysql": Scheme("external", "samesession.stores.sql", extra="sql-mysql"),
    "mariadb": Scheme("external", "samesession.stores.sql", extra="sql-mysql"),
}


@dataclass(frozen=True, slots=True)
class Strategy:
    """A URL understood: what it is called, what it needs, and how its store is opened.

    Attributes:
        old: the strategy that is being left (``?from=``), if there is one.
        write_old: the first step of leaving it (``&write=old``).
    """

    url: Url
    row: Scheme
    old: Strategy | None = field(default=None, kw_only=True)
    write_old: bool = field(default=False, kw_only=True)

    @property
    def name(self) -> str:
        """``memory``, ``sticky``, ``cluster`` or ``external``."""
        return self.row.strategy

    @property
    def scheme(self) -> str:
        """The URL's scheme, such as ``redis``."""
        return self.url.scheme

    @property
    def affinity(self) -> Affinity:
        """What the balancer should give: what the URL asks for, or what the strategy needs."""
        chosen = self.url.parameters.get("affinity")
        known: tuple[Affinity, ...] = get_args(Affinity)
        needed = self.row.affinity
        if self.old is not None and self.old.affinity != "none":
            needed = self.old.affinity
        return next((one for one in known if one == chosen), needed)

    @property
    def many_workers(self) -> bool:
        """Whether the worker processes of one server share the store."""
        return self.row.many_workers and (self.old is None or self.old.many_workers)

    def open_loop(self) -> Store:
        """Open the store for event loops; nothing is connected before the first use."""
        return self._opened("open_loop")

    def open_threads(self) -> Store:
        """Open the store for threads: its coroutines never suspend (``samesession._bridge``)."""
        return self._opened("open_threads")

    def _opened(self, opener: str) -> Store:
        store = self._opener(opener)(self.url)
        if self.old is None:
            return store
        old = self.old._opened(opener)
        return Moving(old, store, lambda: time.time_ns() // 1_000_000, write_old=self.write_old)

    def missing(self, error: ModuleNotFoundError) -> ConfigError:
        """What to install when a client library is not there."""
        return ConfigError(
            f"{self.scheme}:// needs {error.name}; pip install 'samesession[{self.row.extra}]'"
        )

    def _opener(self, name: str) -> Opener:
        try:
            module = import_module(self.row.module)
        except ModuleNotFoundError as error:
            if not self.row.extra or (error.name or "").startswith("samesession"):
                raise
            raise self.missing(error) from None
        return cast("Opener", getattr(module, name))


def strategy_of(url: str) -> Strategy:
    """Understand a strategy's URL.

    Raises:
        ConfigError: no such scheme (the nearest one is named), or no URL at all.
    """
    parsed = Url.parse(url)
    row = SCHEMES.get(parsed.scheme) or _from_entry_points(parsed.scheme)
    if row is None:
        near = difflib.get_close_matches(parsed.scheme, SCHEMES, n=1)
        hint = f"did you mean {near[0]}://?" if near else f"known: {', '.join(SCHEMES)}"
        raise ConfigError(f"{redacted(url)!r}: no strategy is called {parsed.scheme}://; {hint}")
    parameters = dict(parsed.parameters)
    old, write = parameters.pop("from", None), parameters.pop("write", None)
    if write is not None and (old is None or write != "old"):
        raise ConfigError(f"{redacted(url)!r}: write={write}; it is write=old, beside from=OLD")
    if old is None:
        return Strategy(parsed, row)
    left = strategy_of(old)
    if left.old is not None:
        raise ConfigError(f"{redacted(url)!r} moves from a move; finish that one first")
    if replace(parsed, text="", parameters=parameters) == replace(left.url, text=""):
        raise ConfigError(
            f"{redacted(url)!r} moves to where it comes from; from= names the old one"
        )
    return Strategy(
        replace(parsed, parameters=parameters), row, old=left, write_old=write is not None
    )


def open_shelf(url: str, opener: Literal["open_loop", "open_threads"]) -> Shelf:
    """Open another library's store, to read from it (`samesession.adopt`).

    Raises:
        ConfigError: it is no Redis or Valkey.
    """
    parsed = Url.parse(url)
    row = SCHEMES.get(parsed.scheme)
    if row is None or row.module != "samesession.stores.redis":
        raise ConfigError(
            f"{redacted(url)!r}: sessions are adopted from redis:// and valkey:// "
            "(and from cookies that hold them)"
        )
    shelves = replace(row, module="samesession.stores.redis_shelf")
    return cast(Shelf, Strategy(parsed, shelves)._opener(opener)(parsed))


def _from_entry_points(scheme: str) -> Scheme | None:
    for found in entry_points(group="samesession.stores", name=scheme):
        return Scheme("external", found.value)
    return None
