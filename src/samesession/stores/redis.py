"""``redis://`` and ``valkey://``: a hash a session, one command to load it, one script to commit.

URL: ``redis://[user:password@]host[:6379][/db]``, ``rediss://`` for TLS, ``redis+unix:///path``,
``redis+sentinel://host1,host2,host3/name[/db]``, ``redis+cluster://host1,host2``; ``valkey`` alike.
Parameters: ``deadline=250ms`` for each step, ``wait=500ms`` for a replica to have a login, a
rotation or an end, ``prefix=samesession`` of every key, ``pool=50`` connections to a server
(threads), ``ca``, ``cert``, ``key`` (files, TLS), ``db=N`` (unix sockets), ``sentinel_user``,
``sentinel_password``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from hashlib import sha1

import msgspec

from samesession.counts import Count, uncounted
from samesession.errors import StoreCorruptError
from samesession.quota import MAKING_MS
from samesession.record import (
    MARK_MS,
    TOKEN_BYTES,
    Absent,
    Applied,
    Commit,
    Delta,
    Ended,
    Ending,
    Key,
    Mark,
    Origin,
    Outcome,
    Reason,
    Record,
    Version,
)
from samesession.settings import Quota, Url
from samesession.store import Store, end_with_successors
from samesession.stores import redis_scripts as lua
from samesession.stores.near import boot_ms
from samesession.stores.redis_endings import Endings
from samesession.stores.redis_fields import (
    arguments,
    ends_ms,
    field,
    fields_in,
    outcome_of,
    packed,
    readable,
    standing,
    stored,
    unmark,
)
from samesession.stores.redis_listing import scanned
from samesession.stores.redis_loops import LoopWire, nobody
from samesession.stores.redis_readings import Readings
from samesession.stores.redis_target import Target
from samesession.stores.redis_threads import ThreadWire
from samesession.stores.redis_topology import slot_of
from samesession.stores.redis_wire import Command, Reply, Wire

BATCH = 500
"""Commands a pipeline when all sessions of a principal are read."""

ENDED_AT_ONCE = 1000
"""Sessions a script when they are ended: others wait 3 ms for it."""

_COMMIT_SHA, _, _END_MANY_SHA, _ADMIT_SHA, _ADMIT_WITHIN_SHA, _REPAIR_SHA = (
    sha1(script.encode(), usedforsecurity=False).hexdigest() for script in lua.ALL
)
_pack = msgspec.msgpack.Encoder().encode


class RedisStore:
    """Sessions in Redis or Valkey; what the scripts decide, in the words of the protocol."""

    lags = False
    limits = True

    def __init__(
        self,
        wire: Wire,
        prefix: str,
        clock_ms: Callable[[], int],
        endings: Endings | None = None,
        tracked: Wire | None = None,
    ) -> None:
        """Name the keys; nothing is connected yet.

        Args:
            endings: those that this process has heard of.
            tracked: for loads and commits, where their connection matters (near cache).
        """
        self.suspends = wire.suspends
        self._wire = wire
        self._tracked = tracked or wire
        self._near = self._tracked is not wire
        self._session = f"{prefix}:s:"
        self._principal = f"{prefix}:p:"
        self._clock_ms = clock_ms
        if endings is None:
            endings = Endings(self._session, boot_ms, uncounted)
        self._endings = endings
        self._read = Readings()

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        """See `Store`; the primary is asked, so it covers all that exists."""
        reply = await self._tracked.call("HGETALL", self._session + key)
        found = self._read.same(key, reply) or stored(key, fields_in(reply))
        if isinstance(found, Record):
            ending = self._endings.of(key)
            if ending is not None:
                self._read.forget(key)
                return await self._again(key, ending)
            if not self._near:  # a near cache keeps it anyway
                self._read.keep(reply, found)
            return found
        self._read.forget(key)
        if found is not None:
            self._endings.remember([key], found)
        return found

    async def commit(self, delta: Delta) -> Outcome:
        """See `Store`."""
        key, near = delta.key, self._near
        ending = self._endings.of(key)
        if ending is not None:
            return Ended(await self._again(key, ending))
        command = ("EVALSHA", _COMMIT_SHA, 1, self._session + key)
        if delta.origin is not None and _is_durable(delta, delta.origin):
            reply = await self._durably((*command, *arguments(delta)))
            outcome = await self._seen(key, outcome_of(reply))
        else:
            reply = await self._tracked.call(*command, *arguments(delta, tracked=near))
            outcome = outcome_of(reply)
            if isinstance(outcome, Applied):
                return outcome if near else self._read.changed(delta, outcome, reply)
        if isinstance(outcome, Ended):
            self._read.forget(key)
            if outcome.mark.token:
                self._endings.remember([key], outcome.mark)
        return outcome

    async def repair(self, record: Record, lost_after: Commit) -> bool:
        """See `samesession.stores.near.Repairable`."""
        command: list[str | bytes | int] = [
            *("EVALSHA", _REPAIR_SHA, 1, self._session + record.key),
            packed([lost_after]),
            packed(record.commits),
            record.idle_until_ms,
            self._clock_ms(),
        ]
        for name, raw in record.values.items():
            command += (field(name), raw)
        return bool(await self._tracked.call(*command) == 1)

    async def end(self, key: Key, ending: Ending) -> Mark:
        """See `Store`."""
        command = self._endings.command(key, ending)
        self._read.forget(key)
        mark = standing(key, fields_in(await self._durably(command)), ending)
        self._endings.remember([key], mark)
        return mark

    async def admit(
        self,
        principal: str,
        key: Key,
        until_ms: int,
        *,
        replaces: Key | None = None,
        quota: Quota | None = None,
    ) -> tuple[Key, ...] | None:
        """See `Store`: one sorted set a principal, scored by absolute deadline, pruned by it."""
        index, now = self._principal + principal, self._clock_ms()
        if quota is None:
            await self._enter("EVALSHA", _ADMIT_SHA, 1, index, key, until_ms, now)
            return ()
        within: list[str | int] = [key, until_ms, now, quota.most, int(quota.evicts)]
        within += [replaces or "", now + MAKING_MS]
        call = self._enter
        reply = await call("EVALSHA", _ADMIT_WITHIN_SHA, 1, index, *within, 0)
        if reply[0] == lua.ASKED:  # full, it seems: the index says too much
            over = await self._over(reply[1::2], reply[2::2], now)
            reply = await call("EVALSHA", _ADMIT_WITHIN_SHA, 1, index, *within, 1, *over)
        if reply[0] == lua.REFUSED:
            return None
        gone = _names(reply[1:])
        await self._displace(index, gone)
        return tuple(gone)

    async def dismiss(self, principal: str, key: Key) -> None:
        """See `Store`."""
        with suppress(StoreCorruptError):  # no index at all
            await self._wire.call("ZREM", self._principal + principal, key, f"+{key}", f"!{key}")

    async def held_by(self, principal: str) -> list[Record]:
        """See `Store`: the index may say too much, so each member is looked at."""
        records: list[Record] = []
        now = self._clock_ms()
        members, gone = await self._members(principal)
        await self._displace(self._principal + principal, gone)
        for keys in _batches([key for key in members if key not in gone]):
            loads: list[Command] = [("HGETALL", self._session + key) for key in keys]
            for key, reply in zip(keys, await self._wire.many(loads), strict=True):
                record = readable(key, reply)
                if isinstance(record, Record) and record.origin.principal == principal:
                    records.append(record)
        live = (record for record in records if record.ends_ms > now)
        return sorted(live, key=lambda record: record.origin.created_ms)

    async def end_all(self, principal: str, ending: Ending, *, keep: Key | None = None) -> int:
        """See `Store`: what stands in the index is ended even if it is only about to be made."""
        ended = 0
        index = self._principal + principal
        listed, gone = await self._members(principal)
        await self._displace(index, gone)
        known = {*listed, keep}
        members = [key for key in listed if key != keep and key not in gone]
        if self._wire.scattered:
            members.sort(key=lambda key: slot_of(self._session + key))
        ours = Mark(ending.reason, ending.at_ms, ending.token, ending.successor)
        mark = _pack((ending.reason, ending.at_ms, ending.token, ending.successor))
        for keys in _batches(members, ENDED_AT_ONCE):
            commands: list[Command] = []
            for names in self._together([self._session + key for key in keys]):
                script: Command = ("EVALSHA", _END_MANY_SHA, len(names), *names)
                commands.append((*script, mark, ending.at_ms, MARK_MS))
            for alive, *found in await self._wire.durable(commands):
                ended += alive
                for raw in found:
                    ended += await self._end_successor(raw, known, ending)
            self._endings.remember(keys, ours)
            with suppress(StoreCorruptError):
                await self._wire.call("ZREM", index, *keys)
        return ended

    async def _end_successor(
        self, raw: bytes, known: Collection[Key | None], ending: Ending
    ) -> bool:
        """End what a session went on as, unless the index named it; whether it was alive."""
        try:
            successor = unmark(raw).successor
        except StoreCorruptError:
            return False
        if successor is None or successor in known:
            return False
        return (await end_with_successors(self, successor, ending)).token == ending.token

    def _together(self, names: Sequence[str]) -> Iterable[Sequence[str]]:
        """Keys that one script may have."""
        if not self._wire.scattered:
            return [names]
        slots: dict[int, list[str]] = {}
        for name in names:
            slots.setdefault(slot_of(name), []).append(name)
        return slots.values()

    async def keys(self, cursor: str, most: int) -> tuple[list[Key], str]:
        """See `Listing`."""
        return await scanned(self._wire, self._session, cursor, most)

    async def close(self) -> None:
        """See `Store`."""
        await self._wire.close()
        if self._near:
            await self._tracked.close()

    async def _again(self, key: Key, ending: Ending) -> Mark:
        """End a record that had ended: a failover or a backup has brought it back."""
        fields = fields_in(await self._durably(self._endings.command(key, ending)))
        if fields.get(b"alive") == b"1":
            self._endings.came_back()
        return standing(key, fields, ending)

    async def _enter(self, *command: str | bytes | int) -> Reply:
        """Write to an index; on one server what follows waits for a replica, and so for this."""
        return await (self._durably(command) if self._wire.scattered else self._wire.call(*command))

    async def _durably(self, command: Command) -> Reply:
        (reply,) = await self._wire.durable([command])
        if isinstance(reply, StoreCorruptError):
            raise reply
        return reply

    async def _seen(self, key: Key, outcome: Outcome) -> Outcome:
        """What was made on another connection is read on the tracked one, so that it tells."""
        if not (self._near and isinstance(outcome, Applied)):
            return outcome
        found = await self.load(key)
        if isinstance(found, Record):
            return Applied(found.commits, found.seen_ms, found.idle_until_ms, found)
        return Absent() if found is None else Ended(found)

    async def _members(self, principal: str) -> tuple[list[Key], set[Key]]:
        """Who stands in the index, and who of them was displaced and may not be over yet."""
        try:
            members = await self._wire.call("ZRANGE", self._principal + principal, 0, -1)
        except StoreCorruptError:  # something else lies there; the next login replaces it
            return [], set()
        there = [member for member in members if not (member[:1] in b"+!" or b">" in member)]
        if len(there) == len(members):
            return _names(there), set()
        return _names(there), set(_names(member[1:] for member in members if member[:1] == b"!"))

    async def _over(self, keys: Sequence[bytes], making: Sequence[bytes], now: int) -> list[Key]:
        """Those of an index's members that count no longer: ended, expired, or never made."""
        over: list[Key] = []
        made = {key for key, one in zip(_names(keys), making, strict=True) if one == b"0"}
        for batch in _batches(_names(keys)):
            looks: list[Command] = [("HMGET", self._session + key, "e", "t") for key in batch]
            for key, reply in zip(batch, await self._wire.many(looks), strict=True):
                if isinstance(reply, StoreCorruptError) or reply[0] is not None:
                    over.append(key)
                elif reply[1] is None:
                    over += [key] if key in made else []
                elif ends_ms(reply[1]) <= now:
                    over.append(key)
        # One that was never made never will be: the end leaves its mark.
        ending = Ending(Reason.EXPIRED, now, b"")
        for batch in _batches(over):
            await self._wire.durable([self._endings.command(key, ending) for key in batch])
        return over

    async def _displace(self, index: str, gone: Collection[Key]) -> None:
        """Finish what a server has begun that may have died since."""
        for key in gone:
            ending = Ending(Reason.DISPLACED, self._clock_ms(), key.encode()[:TOKEN_BYTES])
            await end_with_successors(self, key, ending)
            await self._wire.call("ZREM", index, key, f"+{key}", f"!{key}")


def _is_durable(delta: Delta, origin: Origin) -> bool:
    """Whether a delta makes a signed-in record, or a rotation's, which is as old as the first."""
    return origin.principal is not None or origin.created_ms != delta.now_ms


def _names(members: Iterable[bytes]) -> list[Key]:
    return [Key(member.decode()) for member in members if member.isascii()]


def _batches(keys: Sequence[Key], most: int = BATCH) -> list[Sequence[Key]]:
    return [keys[at : at + most] for at in range(0, len(keys), most)]


def clock_ms() -> int:
    """Now."""
    return time.time_ns() // 1_000_000


def open_loop(url: Url, count: Count = uncounted) -> Store:
    """Open for event loops."""
    target, scripts, endings = wiring(url, count)
    wire = LoopWire(target, scripts, endings, listener=nobody, count=count)
    return RedisStore(wire, prefix_of(url), clock_ms, endings)


def open_threads(url: Url, count: Count = uncounted) -> Store:
    """Open for threads."""
    target, scripts, endings = wiring(url, count)
    wire = ThreadWire(target, scripts, endings, count=count)
    return RedisStore(wire, prefix_of(url), clock_ms, endings)


def prefix_of(url: Url) -> str:
    """What every key of ours begins with."""
    return url.parameters.get("prefix", "samesession")


def wiring(url: Url, count: Count) -> tuple[Target, Sequence[str], Endings]:
    """Where to, the scripts that have to be there, and the endings that have to be known."""
    return Target.of(url), lua.ALL, Endings(f"{prefix_of(url)}:s:", boot_ms, count)
