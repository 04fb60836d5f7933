"""The three strategies by URL: which store answers, and which affinity the balancer should give."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast, get_args

from samesession.adopt import Shelf
from samesession.counts import Count, uncounted
from samesession.errors import ConfigError
from samesession.settings import Url, redacted, size_bytes
from samesession.store import Store
from samesession.stores.moving import Moving
from samesession.stores.near import Feed, NearCache, boot_ms

Affinity = Literal["none", "cookie", "ip"]
Kind = Literal["loop", "threads"]

LEAST_NEAR_BYTES = 1 << 20
"""A session of the usual limit, 64 KB, takes more than a third of it."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One row of the table: where a store lives and what it needs around it.

    Attributes:
        module: has ``open_loop(url)`` for event loops and ``open_threads(url)`` for threads.
        extra: what to install when the module's client library is missing.
        affinity: what the balancer must give for sessions to be found.
        many_workers: whether the worker processes of one server share the store.
        counts: whether its openers take a `Count`, too.
        near: has ``near_loop(url, bytes, count)`` and ``near_threads``: the store with what tells
            of changes to it.
        no_near: why there is none.
    """

    strategy: str
    module: str
    extra: str = ""
    affinity: Affinity = "none"
    many_workers: bool = True
    counts: bool = False
    near: str = ""
    no_near: str = "it cannot tell what changed; redis:// and valkey:// can"


_REDIS = Scheme(
    "external",
    "samesession.stores.redis",
    extra="redis",
    counts=True,
    near="samesession.stores.redis_near",
)

SCHEMES = {
    "memory": Scheme(
        "memory",
        "samesession.stores.memory",
        affinity="cookie",
        many_workers=False,
        no_near="its records are in this process already",
    ),
    "sticky": Scheme(
        "sticky",
        "samesession.stores.local",
        extra="local",
        affinity="cookie",
        no_near="its records are in this server's memory already",
    ),
    "cluster": Scheme(
        "cluster",
        "samesession.cluster.client",
        extra="cluster",
        no_near="its servers keep copies of what they use already",
    ),
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
class Near:
    """``?near=16MB``: copies in each process, of so many bytes; ``&stale=accept``."""

    limit_bytes: int
    accept_stale: bool


@dataclass(frozen=True, slots=True)
class Strategy:
    """A URL understood: what it is called, what it needs, and how its store is opened.

    Attributes:
        asked: the affinity that the URL asks of the balancer (``?affinity=``).
        near: the copies that each process keeps, if there are any.
        old: the strategy that is being left (``?from=``), if there is one.
        write_old: the first step of leaving it (``&write=old``).
    """

    url: Url
    row: Scheme
    asked: Affinity | None = field(default=None, kw_only=True)
    near: Near | None = field(default=None, kw_only=True)
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
        if self.asked is not None:
            return self.asked
        if self.old is not None and self.old.affinity != "none":
            return self.old.affinity
        return self.row.affinity

    @property
    def many_workers(self) -> bool:
        """Whether the worker processes of one server share the store."""
        return self.row.many_workers and (self.old is None or self.old.many_workers)

    def open_loop(self, count: Count = uncounted) -> Store:
        """Open the store for event loops; nothing is connected before the first use.

        Args:
            count: of what a store counts itself (`samesession.counts.NAMES`).
        """
        return self._opened("loop", count)

    def open_threads(self, count: Count = uncounted) -> Store:
        """Open the store for threads: its coroutines never suspend (``samesession._bridge``)."""
        return self._opened("threads", count)

    def _opened(self, kind: Kind, count: Count) -> Store:
        if self.near is None:
            opener = self._opener(self.row.module, f"open_{kind}")
            store: Store = opener(self.url, count) if self.row.counts else opener(self.url)
        else:
            opener = self._opener(self.row.near, f"near_{kind}")
            authority, feed = cast(
                "tuple[Store, Feed]", opener(self.url, self.near.limit_bytes, count)
            )
            store = NearCache(
                authority,
                feed,
                clock_ms=_clock_ms,
                boot_ms=boot_ms,
                count=count,
                accept_stale=self.near.accept_stale,
            )
        if self.old is None:
            return store
        old = self.old._opened(kind, count)
        return Moving(old, store, _clock_ms, write_old=self.write_old)

    def missing(self, error: ModuleNotFoundError) -> ConfigError:
        """What to install when a client library is not there."""
        return ConfigError(
            f"{self.scheme}:// needs {error.name}; pip install 'samesession[{self.row.extra}]'"
        )

    def must_be_there(self) -> None:
        """Refuse a file or folder that does not exist: opened, it would be made, and be empty.

        Raises:
            ConfigError: naming the place.
        """
        find = getattr(self._module(self.row.module), "place", None)
        place = None if find is None else cast("Path | None", find(self.url))
        if place is not None and not place.exists():
            raise ConfigError(
                f"{redacted(self.url.text)}: nothing is at {place}; name it as the servers do, "
                "under their SAMESESSION_SERVER"
            )

    def _module(self, name: str) -> ModuleType:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if not self.row.extra or (error.name or "").startswith("samesession"):
                raise
            raise self.missing(error) from None

    def _opener(self, module_name: str, name: str) -> Callable[..., Any]:
        opener = getattr(self._module(module_name), name, None)
        if opener is None:
            serves = "threads" if name.endswith("_loop") else "event loops"
            raise ConfigError(
                f"{self.scheme}:// serves {serves} only: {module_name} has no {name}(url); write "
                "it (where nothing of the store suspends, the other one under both names)"
            )
        return cast("Callable[..., Any]", opener)


def strategy_of(url: str) -> Strategy:
    """Understand a strategy's URL.

    Raises:
        ConfigError: no such scheme (the nearest one is named), or no URL at all.
    """
    parsed = Url.parse(url)
    row = SCHEMES.get(parsed.scheme) or _from_entry_points(parsed.scheme)
    if row is None:
        like = difflib.get_close_matches(parsed.scheme, SCHEMES, n=1)
        hint = f"did you mean {like[0]}://?" if like else f"known: {', '.join(SCHEMES)}"
        raise ConfigError(f"{redacted(url)!r}: no strategy is called {parsed.scheme}://; {hint}")
    parameters = dict(parsed.parameters)
    old, write = parameters.pop("from", None), parameters.pop("write", None)
    if write is not None and (old is None or write != "old"):
        raise ConfigError(f"{redacted(url)!r}: write={write}; it is write=old, beside from=OLD")
    asked = _affinity(parsed.scheme, parameters)
    near = _near(redacted(url), parsed.scheme, row, parameters)
    parsed = replace(parsed, parameters=parameters)
    if old is None:
        return Strategy(parsed, row, asked=asked, near=near)
    left = strategy_of(old)
    if left.old is not None:
        raise ConfigError(f"{redacted(url)!r} moves from a move; finish that one first")
    if replace(parsed, text="") == replace(left.url, text=""):
        raise ConfigError(
            f"{redacted(url)!r} moves to where it comes from; from= names the old one"
        )
    return Strategy(parsed, row, asked=asked, near=near, old=left, write_old=write is not None)


def _affinity(scheme: str, parameters: dict[str, str]) -> Affinity | None:
    given = parameters.pop("affinity", None)
    known: tuple[Affinity, ...] = get_args(Affinity)
    asked = next((one for one in known if one == given), None)
    if given is not None and asked is None:
        raise ConfigError(f"{scheme}://?affinity={given!r}: write {' or '.join(known)}")
    return asked


def _near(url: str, scheme: str, row: Scheme, parameters: dict[str, str]) -> Near | None:
    size, stale = parameters.pop("near", None), parameters.pop("stale", None)
    if stale is not None and (size is None or stale not in {"accept", "refuse"}):
        raise ConfigError(f"{url!r}: stale={stale}; it is stale=accept or refuse, beside near=16MB")
    if size is None:
        return None
    if not row.near:
        raise ConfigError(f"{url!r}: {scheme}:// takes no near cache: {row.no_near}")
    limit = size_bytes(size, f"{scheme}://?near")
    if limit < LEAST_NEAR_BYTES:
        raise ConfigError(
            f"{url!r}: near={size} holds next to nothing; 1MB is the least, 16MB usual"
        )
    return Near(limit, stale == "accept")


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


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
    opened = Strategy(parsed, shelves)._opener(shelves.module, opener)(parsed)
    return cast(Shelf, opened)


def _from_entry_points(scheme: str) -> Scheme | None:
    for found in entry_points(group="samesession.stores", name=scheme):
        return Scheme("external", found.value)
    return None
