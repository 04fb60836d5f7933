"""Every key of a store, page by page: for moving it, and for ending what a restore brought back."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from samesession.errors import ConfigError
from samesession.record import Key
from samesession.store import Store


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
    if isinstance(store, Listing):
        return await store.keys(cursor, most)
    raise ConfigError(
        f"{type(store).__name__} cannot list what it holds; run every server with "
        "NEW?from=OLD until SAMESESSION_LIFETIME has passed, then with NEW alone"
    )
