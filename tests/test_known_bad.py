"""Each rule is needed, and the suites notice when it is missing.

A check that never failed proves nothing: here every build breaks one rule, and one named check of
the contract, of the races or of the token has to fail on it, and to pass on the true build.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import test_races
import test_token
from msgspec.structs import replace

import samesession.moves
import samesession.record
import samesession.stores.memory
from samesession.moves import Moves
from samesession.record import Absent, Delta, Ending, Key, Mark, Outcome, Record, made
from samesession.stores.memory import MemoryStore
from samesession.testing import StoreContract, now_ms
from samesession.token import Signer, Token

Check = Callable[[Callable[[], MemoryStore]], None]
Break = Callable[[pytest.MonkeyPatch], type[MemoryStore]]


# -- stores that break a rule ----------------------------------------------------------------------


class BlindSave(MemoryStore):
    """S2: stores what the sender has, whatever stands there."""

    async def commit(self, delta: Delta) -> Outcome:
        stored = self._stored.get(delta.key)
        if isinstance(stored, Record) and delta.sets:
            self._stored[delta.key] = replace(stored, values={})
        return await super().commit(delta)


class Upsert(MemoryStore):
    """S3: a commit to a missing record makes it."""

    async def commit(self, delta: Delta) -> Outcome:
        outcome = await super().commit(delta)
        if isinstance(outcome, Absent):
            origin = samesession.record.Origin(delta.now_ms, delta.now_ms + 1_000_000)
            self._stored[delta.key] = made(delta, origin)
        return outcome


class NoMark(MemoryStore):
    """S4: what ended is deleted and forgotten."""

    async def end(self, key: Key, ending: Ending) -> Mark:
        mark = await super().end(key, ending)
        del self._stored[key]
        return mark


class LookThenWrite(MemoryStore):
    """S3: reads, lets others have their turn, and then writes what it decided before."""

    async def commit(self, delta: Delta) -> Outcome:
        stored = self._stored.get(delta.key)
        if "late" in delta.sets:  # of the request that races
            await test_races._Turn()
        outcome, written = samesession.record.merge(stored, delta)
        if written is not None:
            self._stored[delta.key] = written
        return outcome


class BlindExchange(MemoryStore):
    """S2, S4: puts what the sender made in the place of whatever stands there."""

    def exchange(self, before: Record, after: Record, now_ms: int) -> bool:
        self._stored[before.key] = after
        return True


class LastEndStands(MemoryStore):
    """S4: a later end writes over the first one's mark."""

    async def end(self, key: Key, ending: Ending) -> Mark:
        self._stored.pop(key, None)
        return await super().end(key, ending)


def stored_by(kind: type[MemoryStore]) -> Break:
    return lambda _patch: kind


# -- the core without a rule -----------------------------------------------------------------------


def merging(change: Callable[[Any, Delta], tuple[Any, Delta]]) -> Break:
    """The pure function that decides, told something else than what is so."""

    def breaks(patch: pytest.MonkeyPatch) -> type[MemoryStore]:
        true = samesession.record.merge

        def merge(stored: Any, delta: Delta) -> Any:
            return true(*change(stored, delta))

        patch.setattr(samesession.stores.memory, "merge", merge)
        return MemoryStore

    return breaks


def forgets_tokens(stored: Any, delta: Delta) -> tuple[Any, Delta]:
    """S5: the commits that a record remembers have other tokens than they were sent with."""
    if isinstance(stored, Record):
        commits = tuple(replace(one, token=one.token[:2] + b"other!") for one in stored.commits)
        stored = replace(stored, commits=commits)
    return stored, delta


def patched(where: object, name: str, value: object) -> Break:
    def breaks(patch: pytest.MonkeyPatch) -> type[MemoryStore]:
        patch.setattr(where, name, value)
        return MemoryStore

    return breaks


async def _only_the_first(store: Any, key: Key, ending: Ending) -> Mark:
    mark: Mark = await store.end(key, ending)
    return mark


async def _carries_nothing(_self: Any, new: Record, *_args: Any) -> Record:
    return new


class _SignsTheIdOnly:
    def __init__(self, keyed: Any) -> None:
        self._keyed = keyed

    def copy(self) -> _SignsTheIdOnly:
        return _SignsTheIdOnly(self._keyed.copy())

    def update(self, body: bytes) -> None:
        self._keyed.update(body.partition(b".")[0])

    def hexdigest(self) -> str:
        return str(self._keyed.hexdigest())


def signs_the_id_only(patch: pytest.MonkeyPatch) -> type[MemoryStore]:
    signer, true = Signer((test_token.KEY,)), test_token.VALID.encode()
    token = test_token.SIGNER.loads(true, now_ms=test_token.NOW)
    assert isinstance(token, Token)
    signer._macs = [_SignsTheIdOnly(keyed) for keyed in signer._macs]  # type: ignore[misc]
    patch.setattr(test_token, "SIGNER", signer)
    patch.setattr(test_token, "VALID", signer.dumps(token))
    return MemoryStore


# -- the checks ------------------------------------------------------------------------------------


def contract(name: str) -> Check:
    def check(opens: Callable[[], MemoryStore]) -> None:
        class Suite(StoreContract):
            def open_loop(self) -> Any:
                return opens()

        getattr(Suite(), name)()

    return check


def races(name: str, *more: str) -> Check:
    return lambda opens: getattr(test_races, name)(opens(), *more)


def tampered(_opens: Callable[[], MemoryStore]) -> None:
    for at in range(22, 40):
        test_token.test_a_single_changed_character_is_refused(at)


OUTRUNS = "test_no_login_or_rotation_outruns_an_end"
BUILDS: dict[str, tuple[Break, Check]] = {
    "saves blindly": (
        stored_by(BlindSave),
        contract("test_deltas_to_different_keys_both_survive"),
    ),
    "exchanges blindly": (
        stored_by(BlindExchange),
        contract("test_an_exchange_is_refused_once_anybody_came_between"),
    ),
    "creates by a commit": (
        stored_by(Upsert),
        contract("test_an_unknown_key_is_none_and_cannot_be_changed"),
    ),
    "keeps no mark": (
        stored_by(NoMark),
        contract("test_a_commit_that_arrives_after_the_end_is_refused"),
    ),
    "forgets an end of what is not there yet": (
        stored_by(NoMark),
        contract("test_ending_an_absent_record_forbids_its_creation"),
    ),
    "lets the last end stand": (stored_by(LastEndStands), contract("test_the_first_end_stands")),
    "looks and then writes": (
        stored_by(LookThenWrite),
        races("test_a_logout_beats_every_late_write"),
    ),
    "forgets the tokens of its commits": (
        merging(forgets_tokens),
        contract("test_a_commit_sent_again_changes_nothing"),
    ),
    "believes any version": (
        merging(lambda stored, delta: (stored, replace(delta, at_least=None))),
        contract("test_a_record_that_lacks_what_the_delta_was_built_on_is_lost"),
    ),
    "counts from its own number": (
        merging(lambda stored, delta: (stored, replace(delta, floor=0))),
        contract("test_each_commit_raises_the_version_above_what_was_seen"),
    ),
    "judges no deadline": (
        merging(lambda stored, delta: (stored, replace(delta, now_ms=0))),
        contract("test_a_commit_to_an_expired_record_is_refused"),
    ),
    "keeps what is empty": (
        merging(lambda stored, delta: (stored, replace(delta, keep_empty=True))),
        contract("test_an_anonymous_record_without_a_key_ends"),
    ),
    "signs the id but not the version": (
        signs_the_id_only,
        tampered,
    ),
    "goes on whoever ended the old record": (
        patched(samesession.moves, "_may_go_on", lambda *_: True),
        races(OUTRUNS, "rotate", "logout"),
    ),
    "ends no successor": (
        patched(samesession.moves, "end_with_successors", _only_the_first),
        races(OUTRUNS, "rotate", "logout"),
    ),
    "drops what was written during a login": (
        patched(Moves, "_carry", _carries_nothing),
        races("test_no_write_is_lost_silently_in_a_move", "login"),
    ),
}


@pytest.mark.parametrize("name", BUILDS)
def test_the_suites_catch_a_build_that(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks, check = BUILDS[name]
    check(lambda: MemoryStore(now_ms))
    with monkeypatch.context() as patch:
        kind = breaks(patch)
        with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
            check(lambda: kind(now_ms))
