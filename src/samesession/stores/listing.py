"""Every key of a store, page by page: for moving it, and for ending what a restore brought back."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from samesession.errors import ConfigError
from samesession.record import Key
from samesession.store import Store
from samesession.stores.redis import RedisStore
from samesession.stores.redis_target import address


@runtime_checkable
class Listing(Protocol):
    """A store that can list what it holds."""

    async def keys(self, cursor: str, most: int) -> tuple[list[Key], str]:
        """Return about ``most`` keys of records, and where to go on; an empty cursor ends it.

        Each record that is there from the first page to the last is on one of them, at least once.
        """
        ...


async def keys_of(store: Store, cursor: str, most: int) -> tuple[list[Key], str]:
    """A page of a store's keys; begin with an empty cursor.

    Raises:
        ConfigError: this store cannot list what it holds.
    """
    if isinstance(store, RedisStore):
        return await _scanned(store, cursor, most)
    if isinstance(store, Listing):
        return await store.keys(cursor, most)
    raise ConfigError(
        f"{type(store).__name__} cannot list what it holds; run every server with "
        "NEW?from=OLD until SAMESESSION_LIFETIME has passed, then with NEW alone"
    )


async def _scanned(store: RedisStore, cursor: str, most: int) -> tuple[list[Key], str]:
    """One server after another, in the order of their slots: ``number@address@its cursor``."""
    prefix = store._session
    match = "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in prefix) + "*"
    servers = await store._wire.primaries()
    number, where, at = cursor.split("@") if cursor else ("0", "", "0")
    if int(number) >= len(servers):
        return [], ""
    server = servers[int(number)]
    if where != address(server):
        at = "0"  # a replica has taken over, and its cursors are its own
    following, names = await store._wire.call_at(
        server, "SCAN", at, "MATCH", match, "COUNT", most, "TYPE", "hash"
    )
    keys = [Key(name.decode()[len(prefix) :]) for name in names if name.isascii()]
    after = following.decode() if isinstance(following, bytes) else str(following)
    if after != "0":
        return keys, f"{number}@{address(server)}@{after}"
    return keys, f"{int(number) + 1}@@0" if int(number) + 1 < len(servers) else ""
