"""Replicas with one rule taken out each: the simulator must catch every one of them.

A check that has never failed proves nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import MethodType
from typing import Any

from msgspec.structs import replace

from samesession.cluster import counter
from samesession.cluster.copies import Item, Stamp
from samesession.cluster.replica import Replica, Settings
from samesession.cluster.shelf import DictShelf, Lease
from samesession.cluster.wire import OLDEST, PROTOCOL, Ack, Committed, Fence, Fill, Put
from samesession.record import Delta

Build = Callable[[Settings, DictShelf], Replica]


def _swap(target: Any, name: str, function: Callable[..., Any]) -> None:
    setattr(target, name, MethodType(function, target))


def acknowledges_before_replication(settings: Settings, shelf: DictShelf) -> Replica:
    """A commit is answered when only the authority has it."""
    replica = Replica(settings, shelf)
    answered = replica._desk._answered

    def at_once(self: Any, wait: Any) -> bool:
        wait.copies = 0
        return answered(wait)

    _swap(replica._desk, "_answered", at_once)
    return replica


def acknowledges_ends_at_once(settings: Settings, shelf: DictShelf) -> Replica:
    """An end is answered before everybody has heard of it."""
    replica = Replica(settings, shelf)
    _swap(replica._news, "known_everywhere", lambda self, saying: True)
    return replica


def ignores_the_lease(settings: Settings, shelf: DictShelf) -> Replica:
    """Workers answer from their copies for ever."""
    replica = Replica(settings, shelf)
    put = shelf.put_lease
    shelf.put_lease = lambda lease: put(Lease(1 << 60, lease.era))  # type: ignore[method-assign]
    return replica


def leaves_no_mark(settings: Settings, shelf: DictShelf) -> Replica:
    """Ending deletes, and says so to nobody."""
    replica = Replica(settings, shelf)
    say = replica._news.say

    def ended(self: Any, shard: int, role: Any, key: Any, before: Any, mark: Any) -> Item:
        self._state.forget(key)
        return Item(key, Stamp(0, 0), 0, None, mark, None)

    _swap(replica._desk, "_ended", ended)
    _swap(replica._news, "say", lambda self, endings=(), claims=(): claims and say((), claims))
    return replica


class _Fenceless(Replica):
    def _store(  # type: ignore[override]
        self, sender: str, boot: int, message: Put | Fill, *, later: bool = False
    ) -> None:
        """Keep whatever anybody sends who says he is an authority."""
        self._claims.learn(Fence(message.shard, message.epoch, sender, boot))
        if isinstance(message, Fill):
            self._keep(message.shard, message.items, 0)
            self._state.tell(sender, Ack((message.number,)))
            return
        fits, number = self._change(message.shard, message), (message.number,)
        self._state.tell(sender, Ack(number) if fits else Ack((), number))


def obeys_fenced_authorities(settings: Settings, shelf: DictShelf) -> Replica:
    """An authority needs no lease, and its followers take lower epochs."""
    replica = _Fenceless(settings, shelf)

    def serving(self: Any, shard: int) -> Any:
        role = self.roles.get(shard)
        return role if role is not None and role.serving else None

    _swap(replica._claims, "serving", serving)
    return replica


def serves_before_comparing(settings: Settings, shelf: DictShelf) -> Replica:
    """Who takes over goes on with what it has."""
    replica = Replica(settings, shelf)
    ready = replica._claims._serve_if_ready

    def at_once(self: Any, shard: int, role: Any) -> None:
        role.waiting.clear()
        role.sure = True
        ready(shard, role)

    _swap(replica._claims, "_serve_if_ready", at_once)
    return replica


def revives_by_writing(settings: Settings, shelf: DictShelf) -> Replica:
    """A commit is an upsert: what was ended is made again by a late write."""
    replica = Replica(settings, shelf)
    commit = replica._desk._commit

    def upserting(
        self: Any, shard: int, role: Any, delta: Delta, done: Any, asker: str | None, **how: bool
    ) -> None:
        stored = self._state.held(delta.key)
        if stored is not None and stored.mark is not None and delta.key in last:
            self._state.hold(shard, last[delta.key])
        commit(shard, role, delta, done, asker, **how)
        item = self._state.held(delta.key)
        if item is not None and item.record is not None:
            last[delta.key] = item

    last: dict[Any, Item] = {}
    _swap(replica._desk, "_commit", upserting)
    return replica


def signs_out_only_what_it_sees(settings: Settings, shelf: DictShelf) -> Replica:
    """A sign-out everywhere ends the records that it finds, not what they moved to meanwhile."""
    replica = Replica(settings, shelf)

    class Hasty(counter.SignOut):
        def _admissions(self, message: Any) -> None:
            self._searches.begin(self._request.principal, self._until_ms, self._found)

        def _found(self, search: Any) -> None:
            if search is None:
                self._say(None)
            else:
                self._end(search.records)

        def _ended(self, message: Any) -> None:
            self._pages -= 1
            if not self._pages:
                self._say(0)

    request = replica._counter._end_all

    def hasty(self: Any, *args: Any) -> None:
        careful = counter.SignOut
        counter.SignOut = Hasty  # type: ignore[misc]
        try:
            request(*args)
        finally:
            counter.SignOut = careful  # type: ignore[misc]

    _swap(replica._counter, "_end_all", hasty)
    return replica


def forgets_what_it_owes(settings: Settings, shelf: DictShelf) -> Replica:
    """What was lost on the way is not sent again, and nobody compares."""
    replica = Replica(settings, shelf)
    _swap(replica._claims.followers, "tick", lambda self: None)
    _swap(replica._claims, "_round", lambda self: None)
    return replica


def believes_what_it_does_not_keep(settings: Settings, shelf: DictShelf) -> Replica:
    """An answer that carries what the asker should keep is passed on, and nothing is kept."""
    replica = Replica(settings, shelf)

    def passed(self: Any, frame: Any) -> Any:
        message = frame.message
        return replace(message, carries=None) if isinstance(message, Committed) else message

    _swap(replica, "_kept", passed)
    return replica


def carries_to_old_builds(settings: Settings, shelf: DictShelf) -> Replica:
    """Whoever asks is taken for one that keeps what the answer carries; here nobody does."""
    replica = Replica(dataclasses.replace(settings, protocol=OLDEST), shelf)
    answer = replica._answer
    _swap(
        replica,
        "_answer",
        lambda self, question, frame: answer(question, replace(frame, protocol=PROTOCOL)),
    )
    reply = replica._state.reply
    _swap(
        replica._state,
        "reply",
        lambda self, question, message, protocol: reply(question, message, OLDEST),
    )
    return replica


WROTE, SHOWS, CALM = (
    r"wrote .* shows|is \S+, and",
    r"still (shows|serves)",
    r"calm|differ|converged",
)
BUILDS: dict[str, tuple[Build, str, str]] = {
    "acknowledges before replication": (acknowledges_before_replication, "faults", WROTE),
    "acknowledges ends at once": (acknowledges_ends_at_once, "ends", SHOWS),
    "ignores the lease": (ignores_the_lease, "ends", SHOWS),
    "leaves no mark": (leaves_no_mark, "calm", SHOWS),
    "obeys fenced authorities": (obeys_fenced_authorities, "link", WROTE),
    "serves before comparing": (serves_before_comparing, "link", WROTE),
    "revives by writing": (revives_by_writing, "ends", SHOWS),
    "signs out only what it sees": (signs_out_only_what_it_sees, "ends", SHOWS),
    "believes what it does not keep": (believes_what_it_does_not_keep, "faults", WROTE),
    "carries to old builds": (carries_to_old_builds, "faults", WROTE),
    "forgets what it owes": (forgets_what_it_owes, "faults", CALM),
}
"""By name: how it is built, the kind of history that shows its fault, and how that reads."""
