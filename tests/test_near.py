"""The near cache step by step: a store and its news by hand, and a clock that waits."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
from msgspec.structs import replace

from samesession._bridge import ready
from samesession.errors import StoreUnavailableError
from samesession.record import (
    BEYOND,
    TOKEN_BYTES,
    Absent,
    Applied,
    Commit,
    Delta,
    Ended,
    Ending,
    Key,
    Lost,
    Mark,
    Outcome,
    Reason,
    Record,
    Version,
)
from samesession.store import Store, end_with_successors
from samesession.stores.memory import MemoryStore
from samesession.stores.near import HOLD_MS, STALE_MS, NearCache
from samesession.stores.near_copies import LEASE_MS, Copies, Witness
from samesession.testing import StoreContract, changed, created, ending, fresh_key, now_ms

Hook = Callable[[], object]


class Authority(MemoryStore):
    """A store that can be down, that counts what it is asked, and that can lose commits.

    ``held`` holds back the next answer: what happens meanwhile is the test's to say.
    """

    def __init__(self) -> None:
        super().__init__(now_ms)
        self.asked: Counter[str] = Counter()
        self.about: Callable[[Key], object] = lambda _key: None
        self.down = False
        self.held: Hook | None = None
        self.before: Hook | None = None

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        self._ask("load", key)
        found = await super().load(key, at_least=at_least)
        self._meanwhile()
        return found

    async def commit(self, delta: Delta) -> Outcome:
        self._ask("commit", delta.key)
        outcome = await super().commit(delta)
        self._meanwhile()
        # As Redis: the record is not sent back.
        return replace(outcome, record=None) if isinstance(outcome, Applied) else outcome

    async def end(self, key: Key, ending: Ending) -> Mark:
        self._ask("end", key)
        return await super().end(key, ending)

    async def repair(self, record: Record, lost_after: Commit) -> bool:
        self._ask("repair", record.key)
        there = self._stored.get(record.key)
        if not isinstance(there, Record) or there.commits[-1] != lost_after:
            return False
        self._stored[record.key] = record
        return True

    def lose(self, record: Record) -> None:
        """Go back to how a record was."""
        self._stored[record.key] = record

    def stands(self, key: Key) -> Record | Mark | None:
        return self._stored.get(key)

    def _ask(self, what: str, key: Key) -> None:
        if self.down:
            raise StoreUnavailableError("down")
        self.about(key)
        self.asked[what] += 1
        hook, self.before = self.before, None
        if hook is not None:
            hook()

    def _meanwhile(self) -> None:
        hook, self.held = self.held, None
        if hook is not None:
            hook()


class ScriptedFeed:
    """News that the test tells."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self.copies = Copies(limit)
        self.witness = Witness(listening=True)
        self.pauses: list[int] = []
        self.kept_up = 0

    def at_hand(self) -> Copies:
        return self.copies

    def here(self, key: Key) -> Copies:
        return self.copies

    def keep_up(self, witness: Witness) -> None:
        assert witness is self.witness
        self.kept_up += 1
        witness.beating = True

    def asked(self, key: Key) -> None:
        self.copies.asked(key, self.witness)

    def lost(self, *, listening: bool = False) -> None:
        """The connection broke; the next one listens, or may not."""
        self.copies.lost(self.witness)
        self.witness = Witness(listening=listening)

    async def pause(self, ms: int) -> None:
        self.pauses.append(ms)


class Near:
    """A near cache with everything around it in the test's hands."""

    def __init__(self, *, accept_stale: bool = False, limit: int = 1 << 20) -> None:
        self.authority = Authority()
        self.feed = ScriptedFeed(limit)
        self.authority.about = self.feed.asked
        self.copies = self.feed.copies
        self.boot = 1_000_000
        self.wall = now_ms()
        self.counts: Counter[str] = Counter()
        self.cache = NearCache(
            self.authority,
            self.feed,
            clock_ms=lambda: self.wall,
            boot_ms=lambda: self.boot,
            count=lambda name: self.counts.update([name]),
            accept_stale=accept_stale,
        )

    def load(self, key: Key, at_least: Version | None = None) -> Record | Mark | None:
        return ready(self.cache.load(key, at_least=at_least))

    def commit(self, delta: Delta) -> Outcome:
        return ready(self.cache.commit(delta))

    def elsewhere(self, delta: Delta) -> Record:
        """Another process commits; the news of it is not told yet."""
        assert isinstance(ready(MemoryStore.commit(self.authority, delta)), Applied)
        found = self.authority.stands(delta.key)
        assert isinstance(found, Record)
        return found

    def told(self, key: Key | None) -> None:
        self.copies.changed(key)

    def beat(self) -> None:
        """A heartbeat's answer is here."""
        self.feed.witness.heard(self.boot)

    def warm(self, principal: str | None = None, **values: bytes) -> Record:
        """A record that this process has in use."""
        key = fresh_key()
        self.elsewhere(created(key, principal, **(values or {"a": b"1"})))
        record = self.load(key)
        assert isinstance(record, Record)
        assert self.is_near(key)
        return record

    def is_near(self, key: Key) -> bool:
        """Whether a load asks nobody."""
        before = self.authority.asked["load"]
        self.load(key)
        return self.authority.asked["load"] == before


def change(record: Record, **sets: bytes) -> Delta:
    return replace(changed(record.key, **sets), at_least=record.version)


# --- what is served -------------------------------------------------------------------------------


def test_a_record_in_use_is_loaded_once() -> None:
    near = Near()
    record = near.warm()
    for _ in range(20):
        near.boot += LEASE_MS - 1
        near.beat()
        assert near.load(record.key) is record
    assert near.authority.asked["load"] == 1
    assert near.counts["near"] == 21
    assert near.feed.kept_up == 1  # somebody is asked to keep the lease
    assert near.feed.witness.used == record.key


def test_a_copy_that_does_not_cover_the_cookie_asks_the_authority() -> None:
    near = Near()
    record = near.warm()
    newer = near.elsewhere(change(record, a=b"2"))  # and its news is late
    assert near.load(record.key) is record
    assert near.load(record.key, newer.version) == newer
    assert near.load(record.key) == newer  # never back again


def test_what_others_change_is_asked_for_again() -> None:
    near = Near()
    record, other = near.warm(), near.warm()
    near.elsewhere(change(record, a=b"2"))
    near.told(record.key)
    assert near.is_near(other.key)
    found = near.load(record.key)
    assert isinstance(found, Record)
    assert found.values == {"a": b"2"}


def test_null_empties_it() -> None:
    near = Near()
    keys = [near.warm().key for _ in range(5)]
    near.told(None)
    assert len(near.copies) == 0
    assert near.copies.cost == 0
    assert not any(near.is_near(key) for key in keys)


def test_a_paused_process_serves_nothing_until_it_has_asked() -> None:
    near = Near()
    record = near.warm("ann")
    near.boot += LEASE_MS - 1
    assert near.is_near(record.key)
    near.boot += 1
    ready(MemoryStore.end(near.authority, record.key, ending()))  # and its news waits in a buffer
    assert isinstance(near.load(record.key), Mark)


def test_an_answer_extends_the_lease_from_when_it_was_asked_for() -> None:
    near = Near()
    record = near.warm()

    def slow() -> None:
        near.boot += LEASE_MS - 10

    near.authority.held = slow
    near.load(fresh_key())
    near.boot += 9
    assert near.is_near(record.key)
    near.boot += 1
    assert not near.is_near(record.key)


def test_the_answer_of_a_commit_or_an_end_does_not_extend_it() -> None:
    """It may have come on another connection than the news, which is late perhaps."""
    near = Near()
    record = near.warm("ann")
    ready(MemoryStore.end(near.authority, record.key, ending()))  # and its news is late
    near.boot += LEASE_MS - 1
    near.commit(created(fresh_key(), a=b"1"))
    ready(near.cache.end(fresh_key(), ending()))
    ready(near.cache.held_by("ann"))
    near.boot += 1
    assert isinstance(near.load(record.key), Mark)


def test_an_answer_to_something_old_does_not_shorten_it() -> None:
    near = Near()
    record = near.warm()
    near.feed.witness.heard(near.boot - 100)
    near.boot += LEASE_MS - 1
    assert near.is_near(record.key)


def test_an_ended_or_unknown_record_is_not_kept() -> None:
    near = Near()
    record = near.warm()
    near.told(record.key)
    ready(MemoryStore.end(near.authority, record.key, ending()))
    assert isinstance(near.load(record.key), Mark)
    assert near.load(unknown := fresh_key()) is None
    assert not near.is_near(record.key)
    assert not near.is_near(unknown)


def test_what_the_authority_said_is_over_is_not_shown_again_from_the_copy() -> None:
    for forgotten in (False, True):
        near = Near()
        record = near.warm("ann")
        if forgotten:
            del near.authority._stored[record.key]
        else:
            ready(MemoryStore.end(near.authority, record.key, ending()))  # its news is late
        newer = Version(record.version.number + 1, b"xx")
        assert not isinstance(near.load(record.key, newer), Record)
        assert not isinstance(near.load(record.key), Record)


def test_a_copy_whose_idle_deadline_has_passed_asks_the_authority() -> None:
    near = Near()
    record = near.warm()
    until = record.idle_until_ms + 5000
    touch = Delta(record.key, b"touch...", now_ms(), until)
    near.elsewhere(touch)
    near.wall = record.idle_until_ms
    found = near.load(record.key)
    assert isinstance(found, Record)
    assert found.idle_until_ms == until


# --- what is on its way ---------------------------------------------------------------------------


def test_a_load_during_whose_way_its_key_changed_is_not_kept() -> None:
    near = Near()
    key = fresh_key()
    near.elsewhere(created(key, a=b"1"))

    def meanwhile() -> None:
        near.elsewhere(changed(key, a=b"2"))
        near.told(key)

    near.authority.held = meanwhile
    old = near.load(key)
    assert isinstance(old, Record)
    assert old.values == {"a": b"1"}
    assert not near.is_near(key)


@pytest.mark.parametrize("news", ["null", "broken"])
def test_neither_is_one_during_which_everything_changed(news: str) -> None:
    near = Near()
    key = fresh_key()
    near.elsewhere(created(key, a=b"1"))
    near.authority.held = lambda: (
        near.told(None) if news == "null" else near.feed.lost(listening=True)
    )
    near.load(key)
    near.beat()
    assert not near.is_near(key)


def test_a_load_that_was_overtaken_by_an_own_commit_does_not_bring_the_old_back() -> None:
    near = Near()
    record = near.warm()
    near.told(record.key)

    def meanwhile() -> None:
        near.load(record.key)  # another request of this process
        near.commit(change(record, a=b"2"))

    near.authority.held = meanwhile
    near.load(record.key)
    found = near.load(record.key)
    assert isinstance(found, Record)
    assert found.values == {"a": b"2"}


def test_a_load_that_was_overtaken_by_an_own_end_does_not_bring_it_back() -> None:
    near = Near()
    record = near.warm("ann")
    near.told(record.key)
    near.authority.held = lambda: ready(near.cache.end(record.key, ending()))
    near.load(record.key)
    assert isinstance(near.load(record.key), Mark)


# --- a connection that breaks ---------------------------------------------------------------------


def test_a_lost_connection_makes_copies_unservable_until_asked_again() -> None:
    near = Near()
    record, other = near.warm(), near.warm()
    near.feed.lost()
    assert len(near.copies) == 2  # not gone
    assert not near.is_near(record.key)  # nobody listens: it is asked for each time
    assert not near.is_near(record.key)
    near.feed.witness.listening = True
    near.beat()
    assert not near.is_near(record.key)
    assert near.is_near(record.key)
    assert not near.is_near(other.key)


def test_a_connection_that_comes_back_by_itself_does_not_make_stale_copies_servable() -> None:
    near = Near()
    record = near.warm("ann")
    before = near.feed.witness
    near.feed.lost(listening=True)
    ready(MemoryStore.end(near.authority, record.key, ending()))  # told to nobody
    before.heard(near.boot)  # an answer of before
    near.beat()
    assert isinstance(near.load(record.key), Mark)


def test_a_server_that_refuses_to_tell_is_always_asked() -> None:
    assert not Witness().listening
    near = Near()
    near.feed.lost()  # connected anew, and not listening
    key = fresh_key()
    near.elsewhere(created(key, a=b"1"))
    for _ in range(3):
        assert not near.is_near(key)


# --- own commits ----------------------------------------------------------------------------------


def test_after_an_own_commit_the_copy_is_right_without_asking() -> None:
    near = Near()
    record = near.warm(a=b"1", b=b"1", gone=b"1")
    delta = replace(changed(record.key, "gone", a=b"2"), at_least=record.version)
    outcome = near.commit(delta)
    assert isinstance(outcome, Applied)
    assert near.is_near(record.key)
    assert near.load(record.key) == near.authority.stands(record.key) == outcome.record
    touch = Delta(record.key, b"touch...", now_ms(), record.idle_until_ms + 5000)
    assert isinstance(near.commit(touch), Applied)
    assert near.is_near(record.key)
    assert near.load(record.key) == near.authority.stands(record.key)
    assert near.authority.asked == Counter(load=1, commit=2)


def test_what_is_made_here_is_near_at_once() -> None:
    near = Near()
    near.beat()
    key = fresh_key()
    near.commit(created(key, "ann", a=b"1"))
    assert near.is_near(key)
    assert near.load(key) == near.authority.stands(key)


def test_a_commit_onto_what_another_one_changed_leaves_no_copy() -> None:
    near = Near()
    record = near.warm()
    near.elsewhere(changed(record.key, b=b"2"))  # its news is late
    near.commit(change(record, a=b"3"))
    assert not near.is_near(record.key)
    assert near.load(record.key) == near.authority.stands(record.key)


def test_a_commit_that_another_one_follows_leaves_no_copy() -> None:
    near = Near()
    record = near.warm()

    def meanwhile() -> None:
        near.elsewhere(changed(record.key, b=b"2"))
        near.told(record.key)

    near.authority.held = meanwhile
    near.commit(change(record, a=b"3"))
    assert not near.is_near(record.key)
    assert near.load(record.key) == near.authority.stands(record.key)


def test_two_own_commits_at_a_time_end_in_a_right_copy() -> None:
    near = Near()
    record = near.warm()
    near.authority.before = lambda: near.commit(changed(record.key, b=b"2"))
    near.commit(change(record, a=b"3"))
    assert near.is_near(record.key)
    assert near.load(record.key) == near.authority.stands(record.key)


def test_a_commit_whose_outcome_nobody_knows_leaves_a_doubt() -> None:
    for error in (StoreUnavailableError("late"), asyncio.CancelledError()):
        near = Near()
        record = near.warm()

        def late(error: BaseException = error) -> None:
            raise error

        near.authority.held = late
        with pytest.raises(type(error)):
            near.commit(change(record, a=b"2"))
        assert not near.is_near(record.key)
        assert near.load(record.key) == near.authority.stands(record.key)
        assert near.is_near(record.key)


def test_a_refused_commit_leaves_no_copy() -> None:
    near = Near()
    record = near.warm("ann")
    ready(MemoryStore.end(near.authority, record.key, ending()))
    assert isinstance(near.commit(change(record, a=b"2")), Ended)
    assert isinstance(near.load(record.key), Mark)
    assert near.commit(changed(fresh_key(), a=b"2")) == Absent()


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [Reason.LOGOUT, Reason.REVOKED, Reason.LOGIN, Reason.ROTATED])
def test_the_end_of_a_signed_in_record_is_answered_after_the_lease(reason: Reason) -> None:
    for known in (True, False):  # to this process
        near = Near()
        record = near.warm("ann")
        if not known:
            near.told(record.key)
        ready(near.cache.end(record.key, ending(reason)))
        assert near.feed.pauses == [HOLD_MS]
        assert HOLD_MS > LEASE_MS
        assert isinstance(near.load(record.key), Mark)


def test_the_end_of_an_anonymous_record_waits_for_nobody_but_a_login_does() -> None:
    for reason, waits in ((Reason.LOGOUT, 0), (Reason.ROTATED, 0), (Reason.LOGIN, 1)):
        near = Near()
        record = near.warm()
        near.feed.lost()  # whose it is never changes: an old copy knows
        ready(near.cache.end(record.key, ending(reason)))
        assert len(near.feed.pauses) == waits


def test_an_end_that_was_asked_for_before_waits_too() -> None:
    near = Near()
    record = near.warm("ann")
    ready(MemoryStore.end(near.authority, record.key, ending()))  # elsewhere, not yet answered
    ready(near.cache.end(record.key, ending()))
    assert near.feed.pauses == [HOLD_MS]


def test_a_chain_of_rotations_is_waited_for_once() -> None:
    near = Near()
    records = [near.warm("ann") for _ in range(4)]
    for old, new in pairwise(records):
        rotation = Ending(Reason.ROTATED, now_ms(), secrets.token_bytes(TOKEN_BYTES), new.key)
        ready(MemoryStore.end(near.authority, old.key, rotation))
    mark = ready(end_with_successors(near.cache, records[0].key, ending()))
    assert mark.reason is Reason.LOGOUT
    assert near.feed.pauses == [HOLD_MS]


def test_signing_out_everywhere_is_waited_for_once() -> None:
    near = Near()
    for _ in range(5):
        near.warm("ann")
    assert ready(near.cache.end_all("ann", ending())) == 5
    assert near.feed.pauses == [HOLD_MS]


# --- a store that is down -------------------------------------------------------------------------


def test_a_copy_with_a_lease_goes_on_while_the_store_is_down() -> None:
    near = Near()
    record = near.warm()
    near.authority.down = True
    near.boot += LEASE_MS - 1
    assert near.load(record.key) is record
    near.boot += 1
    with pytest.raises(StoreUnavailableError):
        near.load(record.key)
    assert near.counts["stale"] == 0


def test_stale_accept_goes_on_for_thirty_seconds_and_counts() -> None:
    near = Near(accept_stale=True)
    record = near.warm()
    near.boot += LEASE_MS - 1
    near.beat()
    near.authority.down = True
    near.feed.lost()
    near.boot += STALE_MS
    assert near.load(record.key) is record
    assert near.counts["stale"] == 1
    near.boot += 1
    with pytest.raises(StoreUnavailableError):
        near.load(record.key)


def test_stale_accept_serves_no_copy_that_is_known_to_be_older_or_over() -> None:
    near = Near(accept_stale=True)
    record = near.warm()
    near.authority.down = True
    near.feed.lost()
    assert near.load(record.key) is record
    with pytest.raises(StoreUnavailableError):
        near.load(record.key, Version(record.version.number + 1, b"xx"))
    near.wall = record.ends_ms
    with pytest.raises(StoreUnavailableError):
        near.load(record.key)
    assert near.counts["stale"] == 1


def test_stale_accept_lets_a_touch_wait_and_nothing_else() -> None:
    near = Near(accept_stale=True)
    record = near.warm("ann")
    near.authority.down = True
    near.feed.lost()
    touch = Delta(record.key, b"touch...", now_ms(), record.idle_until_ms + 5000)
    assert near.commit(touch) == Applied(record.commits, record.seen_ms, record.idle_until_ms)
    for refused in (change(record, a=b"2"), created(fresh_key(), a=b"1")):
        with pytest.raises(StoreUnavailableError):
            near.commit(refused)
    with pytest.raises(StoreUnavailableError):
        ready(near.cache.end(record.key, ending()))
    with pytest.raises(StoreUnavailableError):
        near.load(record.key)  # nobody knows whether it was ended


def test_a_commit_whose_outcome_nobody_knows_is_not_served_stale() -> None:
    near = Near(accept_stale=True)
    record = near.warm()
    near.authority.down = True
    with pytest.raises(StoreUnavailableError):
        near.commit(change(record, a=b"2"))
    near.boot += LEASE_MS
    with pytest.raises(StoreUnavailableError):
        near.load(record.key)


# --- several servers ------------------------------------------------------------------------------


def test_each_server_vouches_for_what_was_read_from_it() -> None:
    near = Near()
    record = near.warm()
    first, near.feed.witness = near.feed.witness, Witness(listening=True)
    other = near.warm()
    near.copies.lost(first)
    assert near.is_near(other.key)
    near.boot += LEASE_MS - 1
    near.beat()  # the other one's
    near.boot += 1
    assert near.is_near(other.key)
    assert not near.is_near(record.key)


def test_what_was_asked_of_two_servers_is_not_kept() -> None:
    """The first sent it on, and tells nothing of it; the second may not be asked next time."""
    near = Near()
    key = fresh_key()
    near.elsewhere(created(key, a=b"1"))
    other = Witness(listening=True)
    near.authority.before = lambda: near.copies.asked(key, other)
    near.load(key)
    for witness in (near.feed.witness, other):
        witness.heard(near.boot)
    assert near.copies.kept(key) is None
    assert not near.is_near(key)  # nor is it known to be anybody's
    assert near.is_near(key)


# --- a store that went back in time ---------------------------------------------------------------


def gone_back(near: Near, by: int) -> tuple[Record, Record]:
    """A copy, and what the authority has of it after losing its last commits."""
    states = [near.warm(n=b"0", gone=b"1")]
    for number in range(1, by + 1):
        removes = ("gone",) if number == by else ()
        delta = changed(states[0].key, *removes, n=b"%d" % number)
        near.commit(replace(delta, at_least=states[-1].version))
        found = near.load(states[0].key)
        assert isinstance(found, Record)
        states.append(found)
    near.feed.lost(listening=True)
    near.authority.lose(states[0])
    return states[-1], states[0]


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_proven_loss_is_repaired_from_the_copy(lost: int) -> None:
    near = Near()
    copy, _old = gone_back(near, lost)
    assert near.load(copy.key, copy.version) == copy
    assert near.authority.stands(copy.key) == copy
    assert near.counts["repaired"] == 1
    assert near.is_near(copy.key)


def test_a_loss_that_a_commit_meets_is_repaired_before_it() -> None:
    near = Near()
    copy, _old = gone_back(near, 2)
    outcome = near.commit(change(copy, n=b"9"))
    assert isinstance(outcome, Applied)
    assert outcome.commits[-1].number == copy.version.number + 1
    found = near.authority.stands(copy.key)
    assert isinstance(found, Record)
    assert found.values == {"n": b"9"}
    assert near.counts["repaired"] == 1


def test_a_loss_from_which_others_have_gone_on_is_not_rolled_back() -> None:
    near = Near()
    copy, _old = gone_back(near, 1)
    gone_on = near.elsewhere(changed(copy.key, other=b"1"))
    assert near.load(copy.key, copy.version) == gone_on
    assert near.counts["repaired"] == 0


def test_nor_when_they_go_on_at_the_last_moment() -> None:
    near = Near()
    copy, old = gone_back(near, 1)
    near.authority.held = lambda: near.elsewhere(changed(copy.key, other=b"1"))
    assert near.load(copy.key, copy.version) == old
    assert near.authority.asked["repair"] == 1
    assert near.counts["repaired"] == 0
    found = near.authority.stands(copy.key)
    assert isinstance(found, Record)
    assert found.values["other"] == b"1"


def test_a_loss_older_than_the_copy_remembers_is_served_as_it_is() -> None:
    near = Near()
    copy, old = gone_back(near, 4)
    assert near.load(copy.key, copy.version) == old
    assert near.counts["repaired"] == 0
    lost = near.commit(change(copy, n=b"9"))
    assert isinstance(lost, Lost)


def test_a_copy_that_does_not_have_it_repairs_nothing() -> None:
    near = Near()
    copy, old = gone_back(near, 1)
    assert near.load(copy.key, Version(copy.version.number + 1, b"xx")) == old
    assert near.counts["repaired"] == 0


def test_a_record_that_is_not_there_at_all_is_never_inserted() -> None:
    near = Near()
    copy, _old = gone_back(near, 1)
    del near.authority._stored[copy.key]
    assert near.load(copy.key, copy.version) is None
    assert near.authority.stands(copy.key) is None
    assert near.load(copy.key, copy.version) is None


def test_an_end_is_never_repaired_away() -> None:
    near = Near()
    copy, _old = gone_back(near, 1)
    near.authority.held = lambda: ready(MemoryStore.end(near.authority, copy.key, ending()))
    near.load(copy.key, copy.version)
    assert isinstance(near.authority.stands(copy.key), Mark)
    assert isinstance(near.load(copy.key, copy.version), Mark)


# --- how much -------------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first() -> None:
    near = Near(limit=20_000)
    first, second = near.warm(), near.warm()
    while len(near.copies) > 1 and near.copies.kept(second.key) is not None:
        assert near.is_near(first.key)
        near.warm()
    assert near.copies.kept(first.key) is not None
    assert near.copies.cost <= 20_000


def test_a_record_larger_than_the_whole_is_not_kept_and_drives_out_nobody() -> None:
    near = Near(limit=20_000)
    small = near.warm()
    key = fresh_key()
    near.elsewhere(created(key, a=b"x" * 20_000))
    assert not near.is_near(key)
    assert near.is_near(small.key)


# --- the contract ---------------------------------------------------------------------------------


class TestNearOverMemory(StoreContract):
    """Every step is told, so a copy is never behind; the contract sees no difference."""

    def open_loop(self) -> Store:
        feed = ScriptedFeed()

        class Telling(Authority):
            async def end_all(
                self, principal: str, ending: Ending, *, keep: Key | None = None
            ) -> int:
                feed.copies.changed(None)
                return await super().end_all(principal, ending, keep=keep)

        authority = Telling()
        authority.about = feed.asked
        return NearCache(
            authority, feed, clock_ms=now_ms, boot_ms=lambda: 0, count=lambda _name: None
        )


def test_nothing_stays_on_its_way_however_it_ends() -> None:
    """A process that runs for months keeps no note of what has come, failed or been cancelled."""

    def cancelled() -> None:
        raise asyncio.CancelledError

    near = Near()
    record = near.warm()
    near.authority.lose(record)
    for hook in (None, cancelled):
        near.told(None)
        near.authority.held = hook
        with contextlib.suppress(asyncio.CancelledError):
            near.load(record.key)
        near.authority.held = hook
        with contextlib.suppress(asyncio.CancelledError):
            near.commit(change(record, b=b"2"))
        near.authority.before = hook
        with contextlib.suppress(asyncio.CancelledError):
            near.load(record.key, BEYOND)
    near.authority.down = True
    for step in (partial(near.load, fresh_key()), partial(near.commit, created(fresh_key()))):
        with pytest.raises(StoreUnavailableError):
            step()
    assert near.copies._errands == {}
