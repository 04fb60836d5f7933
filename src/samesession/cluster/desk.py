"""What an authority decides: loads, commits, ends; and when each may be answered.

1. `samesession.record` decides what a delta or an end does; here it is stamped, kept, and owed to
   the other owners.
2. Nothing is answered before as many other owners as the delta wants have the record as it is now
   (fewer, if fewer are there: *weak*, and counted). That holds for a retry that changes nothing,
   and for a load, too: what somebody was told cannot be lost with one server. Where the asker is
   an owner and one copy is wanted, it is that copy: the answer carries what it is to keep first.
3. The end of a record that had a principal, or went on in a login, is answered when it is known
   everywhere, as is every end of a record that is not there.
4. The end of a record that a login or rotation moved is answered with what it held, which only its
   owners know: an authority that heard of that end in the news asks them.
5. An authority without a lease, or fenced, answers nothing: the asker looks further. What would
   contradict the asker's cookie it says only when the other owners still obey it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from samesession.cluster.claims import Claims
from samesession.cluster.comparing import Comparing
from samesession.cluster.copies import Item, Stamp, change_of
from samesession.cluster.digest import sum_of
from samesession.cluster.news import Newsroom, Saying
from samesession.cluster.roles import Role
from samesession.cluster.state import State
from samesession.cluster.wire import (
    Admissions,
    Admit,
    Admitted,
    CommitDelta,
    Committed,
    Done,
    End,
    EndedMany,
    EndMany,
    Fill,
    Held,
    Holders,
    Load,
    Loaded,
    Marked,
    Message,
    NotMine,
    Put,
    Unavailable,
)
from samesession.record import (
    Absent,
    Delta,
    Ended,
    Ending,
    Key,
    Lost,
    Mark,
    Outcome,
    Reason,
    Record,
    finish,
    merge,
)

ADMITTED_MS = 60_000
"""How long a login may take from its admission to its record."""

LISTED_BYTES = 1 << 20
"""A list of records with more than this in their values comes without the values."""

Do = Callable[[Message], None]
Asked = Load | CommitDelta | End | Admit | Admissions | Holders | EndMany


@dataclass(slots=True)
class _Wait:
    """An answer that is held back until enough servers have what it says.

    Attributes:
        everywhere: what was said to everybody, and must be known before.
    """

    keys: tuple[Key, ...]
    shard: int
    copies: int
    everywhere: tuple[Saying, ...]
    answer: Callable[[bool], None]
    refuse: Callable[[], None]
    token: bytes = b""
    outcome: Outcome | None = None


class Desk:
    """The authority's side of every request."""

    def __init__(self, state: State, claims: Claims, comparing: Comparing, news: Newsroom) -> None:
        """Decide for the shards that ``claims`` serves."""
        self._state = state
        self._claims = claims
        self._comparing = comparing
        self._news = news
        self._waits: dict[int, list[_Wait]] = {}
        self._admitted: dict[str, dict[Key, int]] = {}
        self._admissions: deque[tuple[int, str, Key]] = deque()
        self.quotas: Callable[[Admit, Do], None]
        """Decides admissions within a quota; see `samesession.cluster.quotas`."""

    def serve(self, asked: Asked, done: Do, asker: str | None = None) -> None:
        """Do what was asked; ``done`` is called with the answer, at once or later.

        Args:
            asked: by a worker of this server, or by another server.
            done: takes the answer.
            asker: the other server, if an answer may carry what it is to keep.
        """
        if isinstance(asked, Holders):
            self._holders(asked, done)
            return
        shard = self.shard_of(asked)
        role = self._claims.serving(shard)
        if role is None:
            done(NotMine(self._state.fence(shard)))
            return
        match asked:
            case Load():
                self._load(shard, role, asked, done)
            case CommitDelta():
                self._commit(shard, role, asked.delta, done, asker)
            case End():
                self._end(shard, role, asked, done)
            case EndMany():
                self._end_many(shard, role, asked, done)
            case Admit():
                self._admit(asked, done)
            case Admissions():
                self._expire_admissions()
                done(Admitted(tuple(self._admitted.get(asked.principal, ()))))

    def shard_of(self, asked: Asked) -> int:
        """The shard whose authority decides."""
        match asked:
            case Load() | End():
                return self._state.shard_of(asked.key)
            case CommitDelta():
                return self._state.shard_of(asked.delta.key)
            case EndMany():
                return asked.shard
            case Admit() | Admissions() | Holders():
                return self._state.shard_of("principal/" + asked.principal)

    # -- one record --------------------------------------------------------------------------------

    def _load(
        self, shard: int, role: Role, asked: Load, done: Do, *, confirmed: bool = False
    ) -> None:
        item, seen = self._state.held(asked.key), asked.at_least
        known = item is not None and (
            item.record is None or seen is None or item.record.covers(seen)
        )
        if not known and not confirmed:
            self._if_obeyed(
                shard, role, done, lambda: self._load(shard, role, asked, done, confirmed=True)
            )
            return
        if item is None:
            done(Loaded(None, None))
            return
        record, mark = item.record, item.mark
        self._when_held((item.key,), shard, 1, done, lambda _weak: done(Loaded(record, mark)))

    def _if_obeyed(self, shard: int, role: Role, done: Do, do: Callable[[], None]) -> None:
        """Do something unless another server has become the authority."""
        self._state.counts["confirmed"] += 1
        self._claims.confirm(shard, role, self._unless_lost(shard, role, done, do))

    def _unless_lost(
        self, shard: int, role: Role, done: Do, do: Callable[[], None]
    ) -> Callable[..., None]:
        """What to call once the others were asked; they may have said whether they still obey."""

        def told(obeyed: bool = True) -> None:
            if obeyed and self._claims.serving(shard) is role:
                do()
            else:
                done(NotMine(self._state.fence(shard)))

        return told

    def _commit(
        self,
        shard: int,
        role: Role,
        delta: Delta,
        done: Do,
        asker: str | None = None,
        *,
        confirmed: bool = False,
    ) -> None:
        before = self._state.held(delta.key)
        stored = None if before is None else before.value
        anonymous = delta.origin is not None and delta.origin.principal is None
        if stored is None and delta.origin and not self._state.shelf.room(anonymous=anonymous):
            self._state.counts["full"] += 1
            done(Unavailable("the local store is full: new anonymous sessions wait"))
            return
        outcome = self._promised(shard, delta)
        if outcome is None:
            outcome, written = merge(stored, delta)
            if isinstance(written, Mark):  # of the moment in which it is decided, as every end
                written = replace(written, at_ms=self._state.now.wall_ms)
                outcome = Ended(written)
            if written is not None:
                carrier = asker if delta.ack == 1 else None
                carries = self._write(shard, role, delta, before, written, carrier)
                if carries is not None:
                    done(Committed.of(outcome, carries=carries))
                    return
            elif isinstance(outcome, Absent | Lost) and not confirmed:
                self._if_obeyed(
                    shard,
                    role,
                    done,
                    lambda: self._commit(shard, role, delta, done, asker, confirmed=True),
                )
                return
        decided = outcome

        def answer(weak: bool) -> None:
            done(Committed.of(decided, weak=weak))

        self._when_held((delta.key,), shard, delta.ack, done, answer, commit=(delta.token, decided))

    def _promised(self, shard: int, delta: Delta) -> Outcome | None:
        """What the same delta was answered, if that answer still waits for its copies.

        Asked again meanwhile, it must not hear of an end that came after it was applied.
        """
        for wait in self._waits.get(shard, ()):
            if delta.key in wait.keys and wait.token == delta.token:
                return wait.outcome
        return None

    def _write(
        self,
        shard: int,
        role: Role,
        delta: Delta,
        before: Item | None,
        written: Record | Mark,
        asker: str | None,
    ) -> Put | Fill | None:
        stamp = Stamp(role.epoch, self._state.shard(shard).seq + 1)
        if isinstance(written, Mark):
            self._news.say((self._ended(shard, role, delta.key, before, written),))
            return None
        if before is None:
            stamps = dict.fromkeys(written.values, stamp)
            origin = written.origin
            item = Item(
                delta.key, stamp, origin.absolute_ms, written, None, origin.principal, stamps
            )
            return self._claims.write(shard, role, item, None, asker)
        change = change_of(before, sum_of(before), delta, written, stamp)
        stamps = {**before.stamps, **dict.fromkeys((*change.removes, *change.sets), stamp)}
        item = Item(delta.key, stamp, before.until_ms, written, None, before.principal, stamps)
        return self._claims.write(shard, role, item, change, asker)

    def _end(self, shard: int, role: Role, asked: End, done: Do, *, sought: bool = False) -> None:
        before = self._state.held(asked.key)
        if not sought and self._lacks_contents(before, asked.ending):
            self._state.counts["sought"] += 1
            go_on = self._unless_lost(
                shard, role, done, lambda: self._end(shard, role, asked, done, sought=True)
            )
            self._comparing.seek(shard, role, asked.key, go_on)
            return
        mark, told = self._finish(shard, role, asked.key, asked.ending)
        if told is not None:
            self._news.say((told,))
        said = self._news.said(asked.key)
        everywhere = (said,) if said is not None and self._must_be_known(before, mark) else ()
        self._when_held(
            (asked.key,),
            shard,
            1,
            done,
            lambda weak: done(Marked(mark, weak)),
            everywhere=everywhere,
        )

    @staticmethod
    def _lacks_contents(before: Item | None, ending: Ending) -> bool:
        """Whether a move is asked for again whose end this server knows from the news only.

        Another authority ended the old record and could not say so: a shard that changes hands
        fences what is under way. The move goes on with what the record held at its end.
        """
        mark = None if before is None else before.mark
        return (
            mark is not None
            and mark.token == ending.token
            and mark.successor is not None
            and mark.final is None
        )

    def _finish(self, shard: int, role: Role, key: Key, ending: Ending) -> tuple[Mark, Item | None]:
        """End a record; returns the mark, and what is to be told to everybody."""
        before = self._state.held(key)
        mark = finish(None if before is None else before.value, self._decided(ending))
        if before is None or before.mark is not mark:
            return mark, self._ended(shard, role, key, before, mark)
        return mark, self._not_told(key, before)

    def _decided(self, ending: Ending) -> Ending:
        """An end, of the moment in which it is decided (`samesession.cluster.clocks`)."""
        return replace(ending, at_ms=self._state.now.wall_ms)

    def _not_told(self, key: Key, before: Item) -> Item | None:
        """An end that stood before, if everybody is to hear of it once more."""
        reason = None if before.mark is None else before.mark.reason
        if (before.principal or reason is Reason.LOGIN) and not self._news.said(key):
            # Another authority ended it, and may have died before everybody heard.
            return before
        return None

    def _must_be_known(self, before: Item | None, mark: Mark) -> bool:
        """Whether an end is answered only when everybody has heard of it (rule 3)."""
        # At a login the earlier cookie shows nothing on any server, though it was nobody's (L2).
        anonymous = before is not None and before.principal is None
        return not anonymous or mark.reason is Reason.LOGIN

    def _ended(self, shard: int, role: Role, key: Key, before: Item | None, mark: Mark) -> Item:
        item = self._over(key, before, mark, Stamp(role.epoch, self._state.shard(shard).seq + 1))
        self._claims.write(shard, role, item)
        return item

    def _over(self, key: Key, before: Item | None, mark: Mark, stamp: Stamp) -> Item:
        until = mark.at_ms + self._state.settings.lifetime_ms if before is None else before.until_ms
        return Item(key, stamp, until, None, mark, None if before is None else before.principal)

    # -- a principal -------------------------------------------------------------------------------

    def decides(self, asked: Asked) -> bool:
        """Whether this server is the authority for it."""
        return self._claims.serving(self.shard_of(asked)) is not None

    def not_mine(self, asked: Asked) -> NotMine:
        """Who is, as far as this server knows."""
        return NotMine(self._state.fence(self.shard_of(asked)))

    def _admit(self, asked: Admit, done: Do) -> None:
        if asked.most:
            self.quotas(asked, done)
        else:
            self.admitted(asked)
            done(Done())

    def admitted(self, asked: Admit) -> None:
        """Remember for a sign-out everywhere who is about to make a record."""
        self._expire_admissions()
        now = self._state.now.mono_ms
        self._admitted.setdefault(asked.principal, {})[asked.key] = now
        self._admissions.append((now + ADMITTED_MS, asked.principal, asked.key))

    def _expire_admissions(self) -> None:
        while self._admissions and self._admissions[0][0] <= self._state.now.mono_ms:
            _, principal, key = self._admissions.popleft()
            keys = self._admitted.get(principal, {})
            keys.pop(key, None)
            if not keys:
                self._admitted.pop(principal, None)

    def _holders(self, asked: Holders, done: Do) -> None:
        shards = bytearray(-(-self._state.settings.shards // 8))
        for shard in self._claims.roles:
            if self._claims.serving(shard) is not None:
                shards[shard >> 3] |= 1 << (shard & 7)
        records, keys, size = [], [], 0
        for key in self._state.shelf.held_by(asked.principal):
            shard = self._state.shard_of(key)
            if not shards[shard >> 3] >> (shard & 7) & 1:
                continue
            item = self._state.held(key)
            if item is None:
                continue
            if item.mark is not None:
                if item.mark.successor is not None:
                    keys.append(item.mark.successor)
                said = self._news.said(key)
                if said is not None and not self._news.known_everywhere(said):
                    keys.append(key)  # somebody may show it yet: its end is waited for
            elif asked.only_keys:
                keys.append(key)
            elif item.record is not None:
                size += sum(map(len, item.record.values.values()))
                records.append(item.record)
        if size > LISTED_BYTES:
            records = [replace(record, values={}) for record in records]
        done(Held(bytes(shards), tuple(records), tuple(keys)))

    def _end_many(self, shard: int, role: Role, asked: EndMany, done: Do) -> None:
        keys = [*dict.fromkeys(k for k in asked.keys if self._state.shard_of(k) == shard)]
        marks, over, news, alive = [], list[Item](), list[Item](), 0
        seq, ending = self._state.shard(shard).seq, self._decided(asked.ending)
        for key in keys:
            before = self._state.held(key)
            mark = finish(None if before is None else before.value, ending)
            if before is None or before.mark is not mark:
                stamp = Stamp(role.epoch, seq + len(over) + 1)
                over.append(self._over(key, before, mark, stamp))
            elif (told := self._not_told(key, before)) is not None:
                news.append(told)
            was = None if before is None else before.record
            ended = mark.token == ending.token
            alive += ended and (was is None or was.ends_ms > ending.at_ms)
            marks.append(Mark(mark.reason, mark.at_ms, mark.token, mark.successor))
        if over:
            self._claims.write_page(shard, role, over)
        if news or over:
            self._news.say((*news, *over))
        said = [saying for key in keys if (saying := self._news.said(key)) is not None]
        self._when_held(
            tuple(keys),
            shard,
            1,
            done,
            lambda _weak: done(EndedMany(tuple(marks), alive)),
            everywhere=tuple({number: (number, readers) for number, readers in said}.values()),
        )

    # -- waiting -----------------------------------------------------------------------------------

    def _when_held(
        self,
        keys: tuple[Key, ...],
        shard: int,
        copies: int,
        done: Do,
        answer: Callable[[bool], None],
        *,
        everywhere: tuple[Saying, ...] = (),
        commit: tuple[bytes, Outcome | None] = (b"", None),
    ) -> None:
        fence = self._state.fence(shard)
        wait = _Wait(keys, shard, copies, everywhere, answer, lambda: done(NotMine(fence)), *commit)
        if not self._answered(wait):
            self._waits.setdefault(shard, []).append(wait)

    def _answered(self, wait: _Wait) -> bool:
        if not all(map(self._news.known_everywhere, wait.everywhere)):
            return False
        followers = self._claims.following(wait.shard)
        owed = self._claims.followers
        have = sum(not owed.lacks(name, wait.shard, wait.keys) for name in followers)
        if have < min(wait.copies, len(followers)):
            return False
        weak = len(followers) < wait.copies
        if weak:
            self._state.counts["weak"] += 1
        wait.answer(weak)
        return True

    def look(self) -> None:
        """Answer what may be answered by now."""
        for shard in [*self._waits]:
            self.look_at(shard)

    def look_at(self, shard: int) -> None:
        """Answer what may be answered by now, of one shard."""
        if self._claims.serving(shard) is None:
            return
        waits = self._waits.pop(shard, None)
        if waits:
            left = [wait for wait in waits if not self._answered(wait)]
            if left:
                self._waits[shard] = left + self._waits.get(shard, [])

    def lost(self, shard: int) -> None:
        """Somebody else is the authority: the askers will find out who."""
        for wait in self._waits.pop(shard, ()):
            wait.refuse()
