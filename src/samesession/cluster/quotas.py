"""How many sessions a principal may have: decided by the authority of the principal's own shard.

1. Admissions of one principal are decided one after the other: each looks for the live records on
   all servers, and counts who was admitted lately and has not made its record yet.
2. Whoever is displaced is ended, everywhere, before the admission is answered; so there are never
   more than the quota says. An admission that is sent again ends them again, and counts once; one
   that comes late, of a session that is over by then, displaces nobody.
3. Who is being made is in memory only: after the death of this authority, logins that it admitted
   and that have not made their record yet are not counted by the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from samesession.cluster.desk import Desk, Do
from samesession.cluster.principals import Ask, Search, Searches
from samesession.cluster.state import State
from samesession.cluster.wire import (
    Admit,
    Displaced,
    End,
    Load,
    Loaded,
    Marked,
    Message,
    Unavailable,
)
from samesession.quota import MAKING_MS, displaced
from samesession.record import TOKEN_BYTES, Ending, Key, Reason
from samesession.settings import Quota

DECIDE_MS = 3000
"""For one admission; endings of the displaced may take the lease besides."""


@dataclass(slots=True)
class _Making:
    """Who was admitted: until when it counts, whom it displaced, and whether it is over."""

    until_ms: int
    absolute_ms: int
    replaces: Key | None
    going: tuple[Key, ...]
    over: bool = False


@dataclass(slots=True)
class _Principal:
    """One principal's admissions: those that wait, the first of them under way."""

    queue: dict[Key, tuple[Admit, list[Do]]] = field(default_factory=dict)
    making: dict[Key, _Making] = field(default_factory=dict)


class Quotas:
    """Admissions within a quota."""

    def __init__(self, state: State, desk: Desk, searches: Searches, ask: Ask) -> None:
        """Decide for the principals whose shards ``desk`` serves."""
        self._state = state
        self._desk = desk
        self._searches = searches
        self._ask = ask
        self._principals: dict[str, _Principal] = {}
        desk.quotas = self.admit

    def admit(self, asked: Admit, done: Do) -> None:
        """Admit, displace, or refuse; ``done`` is called when it is decided and done."""
        principal = self._principals.setdefault(asked.principal, _Principal())
        if asked.key in principal.queue:  # asked again meanwhile
            principal.queue[asked.key][1].append(done)
            return
        principal.queue[asked.key] = asked, [done]
        if len(principal.queue) == 1:
            self._begin(asked)

    def _begin(self, asked: Admit) -> None:
        until_ms = self._state.now.mono_ms + DECIDE_MS
        making = self._principals[asked.principal].making

        def found(search: Search | None) -> None:
            if search is None:
                self._over(asked, Unavailable("not every shard has an authority"))
                return
            now = self._state.now
            for key in [k for k, entry in making.items() if entry.until_ms <= now.mono_ms]:
                del making[key]
            held = {
                record.key: record.origin.absolute_ms
                for record in search.records.values()
                if record.ends_ms > now.wall_ms
            }
            unseen = [key for key, entry in making.items() if not (entry.over or key in held)]
            self._look(asked, held, unseen, until_ms)

        self._searches.begin(asked.principal, until_ms, found)

    def _look(self, asked: Admit, held: dict[Key, int], unseen: list[Key], until_ms: int) -> None:
        """Whether those who were admitted are still to make their record, or over by now."""
        if not unseen:
            self._decide(asked, held)
            return
        making, key = self._principals[asked.principal].making, unseen[0]

        def loaded(message: Message | None) -> None:
            if not isinstance(message, Loaded):
                self._over(asked, Unavailable("the authority of an admitted session is silent"))
                return
            entry = making.get(key)
            if entry is not None and message.mark is None:
                held[key] = entry.absolute_ms
            elif entry is not None:
                entry.over = True
            self._look(asked, held, unseen[1:], until_ms)

        self._ask(Load(key), until_ms, loaded)

    def _decide(self, asked: Admit, held: dict[Key, int]) -> None:
        if not self._desk.decides(asked):
            self._over(asked, self._desk.not_mine(asked))
            return
        making = self._principals[asked.principal].making
        before = making.get(asked.key)
        if before is not None:
            self._end(asked, before.going, [*before.going])
            return
        moving = {e.replaces: key for key, e in making.items() if e.replaces and not e.over}
        quota = Quota(asked.most, asked.evicts)
        going = displaced(held, moving, asked.key, asked.replaces, quota)
        if going is None:
            self._over(asked, Displaced((), refused=True))
            return
        until_ms = self._state.now.mono_ms + MAKING_MS
        making[asked.key] = _Making(until_ms, asked.until_ms, asked.replaces, going)
        self._desk.admitted(asked)
        self._end(asked, going, [*going])

    def _end(self, asked: Admit, going: tuple[Key, ...], left: list[Key]) -> None:
        if not left:
            making = self._principals[asked.principal].making
            for key in going:
                if key in making:
                    making[key].over = True
            self._over(asked, Displaced(going))
            return
        now = self._state.now
        ending = Ending(Reason.DISPLACED, now.wall_ms, left[0].encode()[:TOKEN_BYTES])

        def ended(message: Message | None) -> None:
            if isinstance(message, Marked):
                self._end(asked, going, left[1:])
            else:
                self._over(asked, Unavailable("whoever makes room could not be ended in time"))

        until_ms = now.mono_ms + DECIDE_MS + self._state.settings.lease_ms
        self._ask(End(left[0], ending), until_ms, ended)

    def _over(self, asked: Admit, message: Message) -> None:
        principal = self._principals[asked.principal]
        _, waiting = principal.queue.pop(asked.key)
        for done in waiting:
            done(message)
        if principal.queue:
            self._begin(next(iter(principal.queue.values()))[0])
        elif not principal.making:
            del self._principals[asked.principal]
