"""A principal's records on all servers, and ending them all.

1. The records themselves are the index: every authority is asked for those in the shards that it
   serves, until every shard was looked at.
2. A sign-out everywhere takes, in this order: who was admitted lately (a login or rotation under
   way has been, before it makes its record), who is there, and what those that moved meanwhile
   led to. So whatever was under way when it began is over when it is answered.
3. A key that was admitted and is not there yet gets a mark, and can never be made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from samesession.cluster.desk import Asked, Desk
from samesession.cluster.members import Members
from samesession.cluster.state import State
from samesession.cluster.wire import (
    PAGE,
    Admissions,
    Admitted,
    EndAll,
    EndedMany,
    EndMany,
    Held,
    Holders,
    Message,
)
from samesession.record import Key, Record

SLOWEST_MS = 2000
"""Between two questions to a server that does not answer."""

WINDOW = 16
"""Pages under way; more would wait at the authorities, and be asked again meanwhile."""

Ask = Callable[[Asked, int, Callable[[Message | None], None]], None]


@dataclass(slots=True, eq=False)
class Search:
    """A principal's records, as far as they are known; ``shards``: those looked at, as bits."""

    principal: str
    until_ms: int
    only_keys: bool
    on: Callable[[Search | None], None]
    shards: int = 0
    records: dict[Key, Record] = field(default_factory=dict)
    keys: dict[Key, None] = field(default_factory=dict)
    again_ms: dict[str, int] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)


class Searches:
    """Looks for principals' records on all servers."""

    def __init__(self, state: State, members: Members, desk: Desk) -> None:
        """Look for nobody."""
        self._state = state
        self._members = members
        self._desk = desk
        self._open: list[Search] = []

    def begin(
        self,
        principal: str,
        until_ms: int,
        on: Callable[[Search | None], None],
        *,
        only_keys: bool = False,
    ) -> None:
        """Look; ``on`` gets the search when every shard was looked at, or None when it is late."""
        search = Search(principal, until_ms, only_keys, on)
        self._open.append(search)
        self._look(search)

    def tick(self) -> None:
        """Look again where somebody did not answer, or was not the authority."""
        for search in [*self._open]:
            self._look(search)

    def _look(self, search: Search) -> None:
        now, settings = self._state.now.mono_ms, self._state.settings
        if now >= search.until_ms:
            self._open.remove(search)
            search.on(None)
            return
        for name in (settings.name, *self._members.peers):
            if search in self._open and now >= search.again_ms.get(name, now):
                # Looking through a hundred thousand takes a while: who is asked for them every
                # moment does nothing else.
                patience = settings.retry_ms * (3 if search.only_keys else 1)
                search.again_ms[name] = now + min(patience << search.tries[name], SLOWEST_MS)
                search.tries[name] += 1
                self._ask(search, name)

    def _ask(self, search: Search, name: str) -> None:
        def held(message: Message | None) -> None:
            if not isinstance(message, Held) or search not in self._open:
                return
            search.records |= {record.key: record for record in message.records}
            search.keys |= dict.fromkeys(message.keys)
            search.shards |= int.from_bytes(message.shards, "little")
            if search.shards == (1 << self._state.settings.shards) - 1:
                self._open.remove(search)
                search.on(search)

        asked = Holders(search.principal, search.only_keys)
        if name == self._state.settings.name:
            self._desk.serve(asked, held)
        else:
            within_ms = search.until_ms - self._state.now.mono_ms
            self._state.ask(name, asked, held, within_ms=within_ms)


class SignOut:
    """Ends every record of a principal; once."""

    def __init__(
        self,
        state: State,
        ask: Ask,
        searches: Searches,
        request: EndAll,
        until_ms: int,
        on: Callable[[int | None], None],
    ) -> None:
        """Prepare; ``on`` gets how many were alive, or None when nobody knows."""
        self._state = state
        self._ask = ask
        self._searches = searches
        self._request = request
        self._until_ms = until_ms
        self._on = on
        self._seen: set[Key] = set() if request.keep is None else {request.keep}
        self._admitted: tuple[Key, ...] = ()
        self._alive = 0
        self._pages = 0
        self._waiting: list[EndMany] = []
        self._over = False

    def begin(self) -> None:
        """Ask who was admitted lately."""
        self._ask(Admissions(self._request.principal), self._until_ms, self._admissions)

    def _admissions(self, message: Message | None) -> None:
        if isinstance(message, Admitted):
            self._admitted = message.keys
            self._searches.begin(
                self._request.principal, self._until_ms, self._found, only_keys=True
            )
        else:
            self._say(None)

    def _found(self, search: Search | None) -> None:
        if search is None:
            self._say(None)
        else:
            self._end([*self._admitted, *search.keys])

    def _end(self, keys: Iterable[Key]) -> None:
        shards: dict[int, list[Key]] = {}
        for key in keys:
            if key not in self._seen:
                self._seen.add(key)
                shards.setdefault(self._state.shard_of(key), []).append(key)
        pages = [
            EndMany(shard, tuple(ours[at : at + PAGE]), self._request.ending)
            for shard, ours in shards.items()
            for at in range(0, len(ours), PAGE)
        ]
        self._waiting += pages
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self._pages < WINDOW:
            self._pages += 1
            self._ask(self._waiting.pop(), self._until_ms, self._ended)
        if not self._pages:
            self._say(self._alive)

    def _ended(self, message: Message | None) -> None:
        if not isinstance(message, EndedMany):
            self._say(None)
            return
        self._pages -= 1
        self._alive += message.alive
        token = self._request.ending.token
        moved = [mark.successor for mark in message.marks if mark.token != token]
        self._end([key for key in moved if key is not None])

    def _say(self, alive: int | None) -> None:
        if not self._over:
            self._over = True
            self._on(alive)
