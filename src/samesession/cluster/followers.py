"""What an authority owes to the other owners, until each says that it is on its shelf.

1. A change goes out as a `Put` to who holds what was before; whoever says that it does not fit, or
   says nothing for ``retry_ms``, gets the whole item as it is by then (`Fill`).
2. So nothing depends on the order in which messages come, and no log is kept: what is owed is a
   set of keys.
3. Whole shards (to a joiner) flow in pages, a few at a time; single changes do not queue behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from msgspec import Raw

from samesession.cluster.copies import Change, Item, packed
from samesession.cluster.state import State
from samesession.cluster.wire import Ack, Fill, Put
from samesession.record import Key

FILL = 200
"""Items in one page."""

WINDOW = 8
"""Pages of many items under way to one server."""

PAGE_BYTES = 1 << 20
"""About so many bytes at most in a page, and always one item."""


@dataclass(slots=True)
class _Page:
    server: str
    shard: int
    keys: tuple[Key, ...]
    sent_ms: int


class Followers:
    """Everything owed by one server, by server, shard and key."""

    def __init__(self, state: State, epoch_of: Callable[[int], int | None]) -> None:
        """Owe nothing.

        Args:
            state: shared.
            epoch_of: in which this server is the authority of a shard, or None.
        """
        self._state = state
        self._epoch_of = epoch_of
        self._owed: dict[str, dict[int, dict[Key, int]]] = {}
        self._queues: dict[str, deque[tuple[int, Key]]] = {}
        self._pages: dict[int, _Page] = {}
        self._again: set[Key] = set()
        self._under_way: dict[str, int] = {}
        self._number = 0

    def owed(
        self, server: str, shard: int, epoch: int, item: Item, change: Change | None
    ) -> Put | Fill:
        """Owe an item, and say what is to be sent now: what changed in it, or the whole."""
        number = self._sends(server, shard, (item.key,))
        if change is not None:
            return Put(number, shard, epoch, change)
        return Fill(number, shard, epoch, (packed(item),))

    def page(self, server: str, shard: int, epoch: int, items: Mapping[Key, Raw]) -> Fill:
        """Owe items that are sent together, now."""
        number = self._sends(server, shard, tuple(items))
        return Fill(number, shard, epoch, tuple(items.values()))

    def owe(self, server: str, shard: int, key: Key) -> None:
        """Owe an item, to be sent when there is room (`flush`)."""
        self._owed.setdefault(server, {}).setdefault(shard, {})[key] = 0
        self._queues.setdefault(server, deque()).append((shard, key))

    def lacks(self, server: str, shard: int, keys: Iterable[Key]) -> bool:
        """Whether a server has not said yet that it has these items as they are."""
        owed = self._owed.get(server, {}).get(shard)
        return owed is not None and any(key in owed for key in keys)

    def behind(self, server: str, shard: int) -> int:
        """How many items of a shard a server still lacks."""
        return len(self._owed.get(server, {}).get(shard, ()))

    def acked(self, server: str, ack: Ack) -> list[int]:
        """Somebody has some of it; returns the shards in which it lacks less now."""
        settled: dict[int, None] = {}
        for number in ack.numbers:
            page = self._arrived(server, number)
            if page is not None:
                owed = self._owed.get(server, {}).get(page.shard, {})
                for key in page.keys:
                    if owed.get(key) == number:
                        del owed[key]
                        settled[page.shard] = None
                self._again.difference_update(page.keys)
        for number in ack.unfit:
            page = self._arrived(server, number)
            if page is not None:
                self._state.counts["unfit"] += 1
                self._requeue(page, number)
        return [*settled]

    def forget_server(self, server: str) -> None:
        """Owe a server nothing any more."""
        self._owed.pop(server, None)
        self._queues.pop(server, None)
        for number in [n for n, page in self._pages.items() if page.server == server]:
            self._arrived(server, number)

    def forget_shard(self, shard: int) -> None:
        """Owe nobody anything of a shard: somebody else is its authority now."""
        for owed in self._owed.values():
            owed.pop(shard, None)

    def tick(self) -> None:
        """Send again what was not acknowledged in time."""
        now, patience = self._state.now.mono_ms, self._state.settings.retry_ms
        for number, page in list(self._pages.items()):
            waited = now - page.sent_ms
            if waited >= (patience if len(page.keys) == 1 else 3 * patience):
                self._arrived(page.server, number)
                self._state.counts["sent_again"] += 1
                self._requeue(page, number)

    def flush(self) -> None:
        """Send what there is room for."""
        for server, queue in [*self._queues.items()] if self._queues else ():
            while queue and self._under_way.get(server, 0) < WINDOW:
                self._page(server, queue)
            if not queue:
                del self._queues[server]

    def _page(self, server: str, queue: deque[tuple[int, Key]]) -> None:
        items: dict[Key, Raw] = {}
        shard, size = queue[0][0], 0
        owed = self._owed.get(server, {}).get(shard, {})
        while queue and queue[0][0] == shard and len(items) < FILL and size < PAGE_BYTES:
            key = queue.popleft()[1]
            if owed.get(key) != 0:
                continue
            item = self._packed(key)
            if item is None:
                del owed[key]  # its time is over
            else:
                items[key] = item
                size += memoryview(item).nbytes
        epoch = self._epoch_of(shard)
        if items and epoch is not None:
            self._state.tell(server, self.page(server, shard, epoch, items))

    def _packed(self, key: Key) -> Raw | None:
        """As it lies here; when that was not taken, only what this server can read itself."""
        raw = None if key in self._again else self._state.shelf.packed(key)
        if raw is None and (item := self._state.held(key)) is not None:
            raw = packed(item)
        return raw

    def _sends(self, server: str, shard: int, keys: tuple[Key, ...]) -> int:
        self._number += 1
        owed = self._owed.setdefault(server, {}).setdefault(shard, {})
        for key in keys:
            owed[key] = self._number
        self._pages[self._number] = _Page(server, shard, keys, self._state.now.mono_ms)
        if len(keys) > 1:
            self._under_way[server] = self._under_way.get(server, 0) + 1
        return self._number

    def _arrived(self, server: str, number: int) -> _Page | None:
        page = self._pages.get(number)
        if page is None or page.server != server:
            return None
        del self._pages[number]
        if len(page.keys) > 1:
            self._under_way[server] -= 1
        return page

    def _requeue(self, page: _Page, number: int) -> None:
        owed = self._owed.get(page.server, {}).get(page.shard, {})
        for key in page.keys:
            if owed.get(key) == number:
                self._again.add(key)
                self.owe(page.server, page.shard, key)
