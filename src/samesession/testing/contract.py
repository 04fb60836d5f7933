"""The contract that every store keeps.

    class TestMyStore(StoreContract):
        def open_loop(self):
            return MyStore(...)

A store that also serves threads overrides ``open_threads``. Each check runs on both. Needs the
extra ``samesession[testing]``.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from samesession._bridge import ready
from samesession.record import (
    COMMITS_KEPT,
    TOKEN_BYTES,
    Absent,
    Applied,
    Delta,
    Ended,
    Ending,
    Key,
    Lost,
    Mark,
    Origin,
    Reason,
    Record,
    Taken,
    Version,
    finish,
    merge,
    with_changes,
)
from samesession.settings import Quota
from samesession.store import Exchanging, Store, end_with_successors
from samesession.token import key_of

HOUR_MS = 3_600_000
Check = Callable[[Store], Awaitable[None]]


def now_ms() -> int:
    """Now."""
    return time.time_ns() // 1_000_000


def fresh_key() -> Key:
    """A key that nobody has used."""
    return key_of(secrets.token_urlsafe(16))


def created(key: Key, principal: str | None = None, /, **values: bytes) -> Delta:
    """A delta that makes a record, an hour long."""
    now = now_ms()
    authenticated = None if principal is None else now
    return Delta(
        key=key,
        token=secrets.token_bytes(TOKEN_BYTES),
        now_ms=now,
        idle_until_ms=now + HOUR_MS // 2,
        sets=values,
        origin=Origin(now, now + HOUR_MS, principal, authenticated),
    )


def changed(key: Key, /, *removes: str, **sets: bytes) -> Delta:
    """A delta that changes a record's keys."""
    token = secrets.token_bytes(TOKEN_BYTES)
    return Delta(key=key, token=token, now_ms=now_ms(), sets=sets, removes=removes)


def ending(reason: Reason = Reason.LOGOUT, successor: Key | None = None) -> Ending:
    """An end, now."""
    return Ending(reason, now_ms(), secrets.token_bytes(TOKEN_BYTES), successor)


async def values_of(store: Store, key: Key) -> dict[str, bytes] | None:
    """What a live record holds."""
    record = await store.load(key)
    return dict(record.values) if isinstance(record, Record) else None


class StoreContract:
    """What every store keeps, as named cases and against a model; subclass it."""

    generated: ClassVar[int] = 40
    """Histories that Hypothesis makes up, for each of the two ways."""

    def open_loop(self) -> Store:
        """Return the store for event loops."""
        raise NotImplementedError

    def open_threads(self) -> Store | None:
        """Return the store for threads; None when the one for loops never suspends."""
        return None

    def run(self, check: Check) -> None:
        """Run a check on the store for loops, and on the one for threads."""

        async def on_a_loop() -> None:
            store = self.open_loop()
            try:
                await check(store)
            finally:
                await store.close()

        asyncio.run(on_a_loop())
        store = self.open_threads() or self.open_loop()
        if not store.suspends:
            ready(_stepped(check, store))
            ready(store.close())

    # -- create and update ---------------------------------------------------------------------

    def test_what_is_created_is_loaded(self) -> None:
        """Every field comes back as it went in."""

        async def check(store: Store) -> None:
            key = fresh_key()
            origin = Origin(now_ms(), now_ms() + HOUR_MS, "ann", 17, "a browser", "10.0.0.0/24")
            delta = Delta(
                key=key,
                token=b"12345678",
                now_ms=now_ms(),
                idle_until_ms=now_ms() + 1000,
                sets={"a": b"\x00\xff", "ключ": b"", "": b"empty name"},
                origin=origin,
            )
            applied = await store.commit(delta)
            assert isinstance(applied, Applied)
            record = await store.load(key)
            assert isinstance(record, Record)
            assert (record.key, record.origin, dict(record.values)) == (key, origin, delta.sets)
            assert record.version == Version(1, b"12") == applied.commits[-1].version
            assert (record.seen_ms, record.idle_until_ms) == (delta.now_ms, delta.idle_until_ms)

        self.run(check)

    def test_an_unknown_key_is_none_and_cannot_be_changed(self) -> None:
        """There is no upsert."""

        async def check(store: Store) -> None:
            key = fresh_key()
            assert await store.load(key) is None
            assert await store.commit(changed(key, a=b"1")) == Absent()
            touch = Delta(
                key=key, token=b"touch...", now_ms=now_ms(), idle_until_ms=now_ms() + 1000
            )
            assert await store.commit(touch) == Absent()
            assert await store.load(key) is None

        self.run(check)

    def test_a_taken_key_is_not_created_again(self) -> None:
        """Creating inserts only."""

        async def check(store: Store) -> None:
            key = fresh_key()
            await store.commit(created(key, a=b"1"))
            assert await store.commit(created(key, a=b"2")) == Taken()
            assert await values_of(store, key) == {"a": b"1"}

        self.run(check)

    def test_deltas_to_different_keys_both_survive(self) -> None:
        """The measured fault of all sixteen libraries."""

        async def check(store: Store) -> None:
            key = fresh_key()
            await store.commit(created(key, a=b"0", b=b"0", gone=b"0"))
            await store.commit(changed(key, a=b"1"))
            await store.commit(changed(key, "gone", b=b"2"))
            assert await values_of(store, key) == {"a": b"1", "b": b"2"}

        self.run(check)

    def test_of_two_writes_to_one_key_the_later_wins(self) -> None:
        """In the authority's order."""

        async def check(store: Store) -> None:
            key = fresh_key()
            await store.commit(created(key, a=b"0"))
            await store.commit(changed(key, a=b"1"))
            await store.commit(changed(key, a=b"2"))
            assert await values_of(store, key) == {"a": b"2"}

        self.run(check)

    def test_a_session_may_have_thousands_of_keys(self) -> None:
        """No engine's argument limit shows."""

        async def check(store: Store) -> None:
            key, many = fresh_key(), {f"key{n}": b"1" for n in range(5000)}
            assert isinstance(await store.commit(created(key, **many)), Applied)
            assert isinstance(await store.commit(changed(key, *list(many)[:4500])), Applied)
            assert len(await values_of(store, key) or {}) == 500

        self.run(check)

    # -- versions --------------------------------------------------------------------------------

    def test_each_commit_raises_the_version_above_what_was_seen(self) -> None:
        """max(stored, seen) + 1, and the tag is the commit's own."""

        async def check(store: Store) -> None:
            key = fresh_key()
            await store.commit(created(key, a=b"0"))
            delta = Delta(key=key, token=b"AB345678", now_ms=now_ms(), sets={"a": b"1"}, floor=41)
            applied = await store.commit(delta)
            assert isinstance(applied, Applied)
            assert applied.commits[-1].version == Version(42, b"AB")
            record = await store.load(key)
            assert isinstance(record, Record)
            assert record.version == Version(42, b"AB")

        self.run(check)

    def test_a_commit_sent_again_changes_nothing(self) -> None:
        """Also when others have committed since: the last four tokens are remembered."""

        async def check(store: Store) -> None:
            key = fresh_key()
            first = created(key, n=b"0")
            await store.commit(first)
            delta = changed(key, n=b"1")
            await store.commit(delta)
            for value in range(COMMITS_KEPT - 1):
                await store.commit(changed(key, n=b"other%d" % value))
                before = await store.load(key)
                assert isinstance(await store.commit(delta), Applied)
                assert await store.load(key) == before

        self.run(check)

    def test_a_creation_sent_again_changes_nothing(self) -> None:
        """Its answer may have been lost."""

        async def check(store: Store) -> None:
            key = fresh_key()
            delta = created(key, a=b"1")
            assert isinstance(await store.commit(delta), Applied)
            assert isinstance(await store.commit(delta), Applied)
            await store.commit(changed(key, a=b"2"))
            assert isinstance(await store.commit(delta), Applied)
            assert await values_of(store, key) == {"a": b"2"}

        self.run(check)

    def test_a_record_that_lacks_what_the_delta_was_built_on_is_lost(self) -> None:
        """Whether its number is lower, or has been passed by somebody else's commit."""

        async def check(store: Store) -> None:
            key = fresh_key()
            await store.commit(created(key, a=b"0"))
            applied = await store.commit(changed(key, a=b"1"))
            assert isinstance(applied, Applied)
            for missing in (Version(3, b"xx"), Version(2, b"xx")):
                delta = Delta(
                    key=key, token=b"lost....", now_ms=now_ms(), sets={"a": b"9"}, at_least=missing
                )
                assert await store.commit(delta) == Lost(applied.commits)
            assert await values_of(store, key) == {"a": b"1"}
            known = applied.commits[-1].version
            good = Delta(
                key=key, token=b"good....", now_ms=now_ms(), sets={"a": b"2"}, at_least=known
            )
            assert isinstance(await store.commit(good), Applied)

        self.run(check)

    # -- time --------------------------------------------------------------------------------------

    def test_a_touch_moves_the_idle_deadline_forward_only(self) -> None:
        """And raises no version."""

        async def check(store: Store) -> None:
            key = fresh_key()
            await store.commit(created(key, a=b"1"))
            record = await store.load(key)
            assert isinstance(record, Record)
            until = record.idle_until_ms
            for wanted, expected in ((until + 500, until + 500), (until + 100, until + 500)):
                touch = Delta(
                    key=key, token=secrets.token_bytes(8), now_ms=now_ms(), idle_until_ms=wanted
                )
                assert isinstance(await store.commit(touch), Applied)
                record = await store.load(key)
                assert isinstance(record, Record)
                assert record.idle_until_ms == expected
                assert record.version.number == 1

        self.run(check)

    def test_a_commit_to_an_expired_record_is_refused(self) -> None:
        """Idle or absolute, whichever came first; judged by the sender's clock."""

        async def check(store: Store) -> None:
            key = fresh_key()
            await store.commit(created(key, a=b"1"))
            late = Delta(key=key, token=b"late....", now_ms=now_ms() + HOUR_MS, sets={"a": b"2"})
            outcome = await store.commit(late)
            assert isinstance(outcome, Ended)
            assert outcome.mark.reason is Reason.EXPIRED

        self.run(check)

    # -- ended wins ------------------------------------------------------------------------------

    def test_a_commit_that_arrives_after_the_end_is_refused(self) -> None:
        """Change, touch and creation alike; the record does not come back."""

        async def check(store: Store) -> None:
            key = fresh_key()
            await store.commit(created(key, a=b"1"))
            end = ending()
            mark = await store.end(key, end)
            assert (mark.reason, mark.token, mark.final) == (Reason.LOGOUT, end.token, None)
            touch = Delta(
                key=key, token=b"touch...", now_ms=now_ms(), idle_until_ms=now_ms() + 9999
            )
            for delta in (changed(key, a=b"2"), touch, created(key, a=b"3")):
                assert await store.commit(delta) == Ended(mark)
            assert await store.load(key) == mark

        self.run(check)

    def test_the_first_end_stands(self) -> None:
        """Whoever asks again, with the same token or another."""

        async def check(store: Store) -> None:
            key = fresh_key()
            await store.commit(created(key, a=b"1"))
            first = ending()
            mark = await store.end(key, first)
            assert await store.end(key, first) == mark
            assert await store.end(key, ending(Reason.REVOKED)) == mark

        self.run(check)

    def test_ending_an_absent_record_forbids_its_creation(self) -> None:
        """Sign-out everywhere finds records in the index that are only about to be made."""

        async def check(store: Store) -> None:
            key = fresh_key()
            mark = await store.end(key, ending(Reason.REVOKED))
            assert await store.commit(created(key, "ann")) == Ended(mark)

        self.run(check)

    def test_the_mark_of_a_move_keeps_the_final_contents_for_a_retry(self) -> None:
        """And names its successor."""

        async def check(store: Store) -> None:
            for reason in (Reason.LOGIN, Reason.ROTATED):
                key, successor = fresh_key(), fresh_key()
                await store.commit(created(key, "ann", a=b"1"))
                await store.commit(changed(key, b=b"2"))
                end = ending(reason, successor)
                for _ in range(2):
                    mark = await store.end(key, end)
                    assert mark.successor == successor
                    assert mark.final is not None
                    assert dict(mark.final.values) == {"a": b"1", "b": b"2"}
                assert isinstance(await store.load(key), Mark)

        self.run(check)

    def test_a_move_of_an_absent_record_keeps_nothing(self) -> None:
        """So a rotation notices that its record had gone."""

        async def check(store: Store) -> None:
            mark = await store.end(fresh_key(), ending(Reason.ROTATED, fresh_key()))
            assert mark.final is None

        self.run(check)

    def test_an_exchange_is_refused_once_anybody_came_between(self) -> None:
        """The short way of stores that have one; `commit` decides then."""

        async def check(store: Store) -> None:
            if not isinstance(store, Exchanging):
                return
            for between in (
                lambda key: store.commit(changed(key, b=b"1")),
                lambda key: store.end(key, ending()),
                lambda key: store.commit(
                    Delta(
                        key=key,
                        token=b"touch...",
                        now_ms=now_ms(),
                        idle_until_ms=now_ms() + HOUR_MS,
                    )
                ),
            ):
                key = fresh_key()
                await store.commit(created(key, a=b"0"))
                delta = changed(key, a=b"1")
                assert _exchanged(store, await store.load(key), delta)
                assert await values_of(store, key) == {"a": b"1"}
                before = await store.load(key)
                assert isinstance(before, Record)
                assert before.has(delta.token)
                await between(key)
                found = await store.load(key)
                assert not _exchanged(store, before, changed(key, a=b"2"))
                assert _same(await store.load(key), found)

        self.run(check)

    def test_an_end_follows_successors(self) -> None:
        """A rotation does not outrun a logout."""

        async def check(store: Store) -> None:
            keys = [fresh_key() for _ in range(4)]
            for key, successor in pairwise(keys):
                await store.commit(created(key, a=b"1"))
                await store.end(key, ending(Reason.ROTATED, successor))
            await store.commit(created(keys[-1], a=b"1"))
            end = ending()
            mark = await end_with_successors(store, keys[0], end)
            assert mark.token == end.token
            assert isinstance(await store.load(keys[-1]), Mark)

        self.run(check)

    def test_an_anonymous_record_without_a_key_ends(self) -> None:
        """Judged on the merged record: another request's key keeps it alive."""

        async def check(store: Store) -> None:
            key = fresh_key()
            await store.commit(created(key, a=b"1"))
            await store.commit(changed(key, b=b"2"))
            assert isinstance(await store.commit(changed(key, "a")), Applied)
            last = changed(key, "b")
            for _ in range(2):
                outcome = await store.commit(last)
                assert isinstance(outcome, Ended)
                assert (outcome.mark.reason, outcome.mark.token) == (Reason.EMPTIED, last.token)
            signed_in = fresh_key()
            await store.commit(created(signed_in, "ann", a=b"1"))
            assert isinstance(await store.commit(changed(signed_in, "a")), Applied)

        self.run(check)

    # -- principals ------------------------------------------------------------------------------

    def test_a_principal_holds_its_live_records(self) -> None:
        """Oldest first, each verified: what ended is gone, whatever the index says."""

        async def check(store: Store) -> None:
            ann, bob = f"ann-{secrets.token_hex(4)}", f"bob-{secrets.token_hex(4)}"
            keys = [fresh_key() for _ in range(3)]
            for key, principal in zip(keys, (ann, ann, bob), strict=True):
                delta = created(key, principal, a=b"1")
                assert delta.origin is not None
                await store.admit(principal, key, delta.origin.absolute_ms)
                await store.commit(delta)
            await store.admit(ann, fresh_key(), now_ms() + HOUR_MS)  # its login died half-way
            assert {record.key for record in await store.held_by(ann)} == set(keys[:2])
            await store.end(keys[0], ending())
            assert [record.key for record in await store.held_by(ann)] == [keys[1]]
            await store.dismiss(ann, keys[0])
            assert [record.key for record in await store.held_by(bob)] == [keys[2]]
            assert await store.held_by("nobody") == []

        self.run(check)

    def test_sign_out_everywhere_ends_all_but_the_kept(self) -> None:
        """And nobody else's."""

        async def check(store: Store) -> None:
            ann, bob = f"ann-{secrets.token_hex(4)}", f"bob-{secrets.token_hex(4)}"
            keys = [fresh_key() for _ in range(5)]
            for key, principal in zip(keys, (ann, ann, ann, ann, bob), strict=True):
                await store.admit(principal, key, now_ms() + HOUR_MS)
                await store.commit(created(key, principal))
            await store.end(keys[0], ending(Reason.ROTATED, keys[1]))
            end = ending(Reason.REVOKED)
            assert await store.end_all(ann, end, keep=keys[3]) == 2
            assert [isinstance(await store.load(key), Mark) for key in keys] == [True] * 3 + [
                False
            ] * 2
            assert [record.key for record in await store.held_by(ann)] == [keys[3]]
            assert await store.end_all("nobody", end) == 0

        self.run(check)

    # -- a quota ---------------------------------------------------------------------------------

    def test_a_quota_ends_the_oldest_or_refuses(self) -> None:
        """Before the next record is made; and what ended, or never came, has no place."""

        async def check(store: Store) -> None:
            if not store.limits:
                return
            for evicts in (True, False):
                ann, quota = f"ann-{secrets.token_hex(4)}", Quota(2, evicts)
                keys = [fresh_key() for _ in range(5)]
                for at, key in enumerate(keys[:2]):
                    assert await _signed_in(store, ann, key, quota, at) == ()
                going = await _signed_in(store, ann, keys[2], quota, 2)
                if evicts:
                    assert going == (keys[0],)
                    mark = await store.load(keys[0])
                    assert isinstance(mark, Mark)
                    assert mark.reason is Reason.DISPLACED
                    live = keys[1:3]
                else:
                    assert going is None
                    assert await store.load(keys[2]) is None
                    live = keys[:2]
                assert [record.key for record in await store.held_by(ann)] == live
                await store.end(live[0], ending())
                assert await _signed_in(store, ann, keys[3], quota, 3) == ()
                assert [r.key for r in await store.held_by(ann)] == [live[1], keys[3]]
                lowered = await _signed_in(store, ann, keys[4], Quota(1, evicts), 4)
                assert (set(lowered) if lowered else lowered) == (
                    {live[1], keys[3]} if evicts else None
                )

        self.run(check)

    def test_a_quota_counts_who_is_being_made_and_a_move_once(self) -> None:
        """A login that was displaced before its record was made can never make it."""

        async def check(store: Store) -> None:
            if not store.limits:
                return
            ann, quota, until = f"ann-{secrets.token_hex(4)}", Quota(1), now_ms() + HOUR_MS
            first, second, third = fresh_key(), fresh_key(), fresh_key()
            assert await store.admit(ann, first, until, quota=quota) == ()
            assert await store.admit(ann, first, until, quota=quota) == ()  # sent again
            assert await store.admit(ann, second, until + 1, quota=Quota(1, False)) is None
            assert await store.admit(ann, second, until + 1, quota=quota) == (first,)
            outcome = await store.commit(created(first, ann))
            assert isinstance(outcome, Ended)
            assert outcome.mark.reason is Reason.DISPLACED
            await store.commit(created(second, ann))
            # A rotation: both live for a moment, and count once.
            refusing = Quota(1, False)
            assert await store.admit(ann, third, until, replaces=second, quota=refusing) == ()
            await store.commit(created(third, ann))
            assert {record.key for record in await store.held_by(ann)} == {second, third}
            roomy = Quota(2, False)
            assert await store.admit(ann, fresh_key(), until + 2, quota=roomy) == ()
            assert await store.admit(ann, fresh_key(), until + 3, quota=roomy) is None
            last = fresh_key()
            going = await store.admit(ann, last, until + 4, quota=quota)
            assert {second, third} <= set(going or ())
            assert await store.held_by(ann) == []

        self.run(check)

    def test_logins_at_once_never_pass_the_quota(self) -> None:
        """Whatever order their steps come in."""

        async def check(store: Store) -> None:
            if not (store.limits and store.suspends):
                return
            for evicts in (True, False):
                ann, quota = f"ann-{secrets.token_hex(4)}", Quota(2, evicts)
                keys = [fresh_key() for _ in range(6)]
                logins = (_signed_in(store, ann, key, quota, at) for at, key in enumerate(keys))
                answers = await asyncio.gather(*logins)
                assert len(await store.held_by(ann)) == 2
                assert sum(answer is None for answer in answers) == (0 if evicts else 4)

        self.run(check)

    # -- against a model ---------------------------------------------------------------------------

    def test_any_history_matches_the_model(self) -> None:
        """The model: a dict of records and marks, with the pure functions `merge` and `finish`."""

        @settings(
            max_examples=self.generated,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(history=_histories)
        def runs(history: list[_Step]) -> None:
            self.run(lambda store: _follows_the_model(store, history))

        runs()

    @pytest.mark.parametrize(
        "name", ["load", "commit", "end", "admit", "dismiss", "held_by", "end_all"]
    )
    def test_it_has_every_verb(self, name: str) -> None:
        """So that no store can forget one."""
        assert callable(getattr(self.open_loop(), name))


async def _signed_in(
    store: Store, principal: str, key: Key, quota: Quota, later: int
) -> tuple[Key, ...] | None:
    """A login within a quota; ``later``: than the first, so that it is not the oldest."""
    delta = created(key, principal, a=b"1")
    assert delta.origin is not None
    absolute, created_ms = delta.origin.absolute_ms + later, delta.origin.created_ms + later
    origin = replace(delta.origin, absolute_ms=absolute, created_ms=created_ms)
    delta = replace(delta, origin=origin)
    going = await store.admit(principal, key, absolute, quota=quota)
    if going is not None:
        await store.commit(delta)
    return going


_Step = tuple[str, int, dict[str, bytes], tuple[str, ...], int]
_KINDS = ("create", "sign in", "change", "exchange", "again", "touch", "end", "move")
_names = st.sampled_from(["a", "b", "c"])
_histories = st.lists(
    st.tuples(
        st.sampled_from([*_KINDS, "change", "exchange"]),
        st.integers(0, 2),
        st.dictionaries(_names, st.binary(max_size=3), max_size=2),
        st.lists(_names, max_size=2, unique=True).map(tuple),
        st.integers(-2000, 2 * HOUR_MS),
    ),
    max_size=24,
)


async def _follows_the_model(store: Store, history: list[_Step]) -> None:
    keys = [fresh_key() for _ in range(3)]
    model: dict[Key, Record | Mark] = {}
    last: dict[Key, Delta] = {}
    loaded: dict[Key, list[tuple[Any, Any]]] = {key: [(None, None)] for key in keys}
    for kind, which, sets, removes, number in history:
        key = keys[which]
        if kind in {"end", "move"}:
            moves = kind == "move"
            another = keys[which - 1] if moves else None  # nothing goes on as itself
            end = ending(Reason.ROTATED if moves else Reason.LOGOUT, another)
            expected = model[key] = finish(model.get(key), end)
            assert _same(await store.end(key, end), expected)
            continue
        delta = _delta(kind, key, sets, removes, number, last)
        last[key] = delta
        if kind == "exchange":
            before, known = loaded[key][-(number % 3) :][0]
            if _exchanged(store, before, delta):  # to commit it is to send it again
                assert known is model.get(key), "somebody came between"
        outcome, written = merge(model.get(key), delta)
        if written is not None:
            model[key] = written
        found: Any = await store.commit(delta)
        assert _same(found, outcome), (delta, found, outcome)
        stored = await store.load(key)
        assert _same(stored, model.get(key))
        loaded[key].append((stored, model.get(key)))


def _exchanged(store: Store, before: object, delta: Delta) -> bool:
    """Whether a store that has a short way took it."""
    if not isinstance(store, Exchanging) or not isinstance(before, Record) or not delta.changes:
        return False
    after = with_changes(before, delta.sets, delta.removes, delta.token, delta.floor)
    return bool(after.values) and store.exchange(before, after, delta.now_ms)


def _delta(
    kind: str,
    key: Key,
    sets: dict[str, bytes],
    removes: tuple[str, ...],
    number: int,
    last: dict[Key, Delta],
) -> Delta:
    if kind == "again" and key in last:
        return last[key]
    if kind in {"create", "sign in"}:
        return created(key, "ann" if kind == "sign in" else None, **sets)
    now, token = now_ms(), secrets.token_bytes(TOKEN_BYTES)
    if kind == "touch":
        return Delta(key=key, token=token, now_ms=now, idle_until_ms=max(0, now + number))
    keeps = tuple(name for name in removes if name not in sets)
    floor = abs(number) % 7
    return Delta(key=key, token=token, now_ms=now, sets=sets, removes=keeps, floor=floor)


def _same(found: Any, expected: Any) -> bool:
    if isinstance(found, Ended) and isinstance(expected, Ended):
        found, expected = found.mark, expected.mark
        # Why it was refused matters; the contents are the end's business alone.
        return (found.reason, found.token) == (expected.reason, expected.token)
    if isinstance(found, Record) and isinstance(expected, Record):
        same_values = dict(found.values) == dict(expected.values)
        return same_values and (found.commits, found.ends_ms) == (
            expected.commits,
            expected.ends_ms,
        )
    if isinstance(found, Mark) and isinstance(expected, Mark):
        contents = (found.final is None) == (expected.final is None)
        return contents and (found.reason, found.token) == (expected.reason, expected.token)
    if isinstance(found, Applied) and isinstance(expected, Applied):
        if found.record is not None and not _same(found.record, expected.record):
            return False
        found, expected = replace(found, record=None), replace(expected, record=None)
    return bool(found == expected)


async def _stepped(check: Check, store: Store) -> None:
    await check(store)
