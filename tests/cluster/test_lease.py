"""When a copy may answer by itself."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from samesession.cluster.copies import Item, Stamp
from samesession.cluster.lease import answer
from samesession.cluster.shelf import Copy, Lease
from samesession.record import Commit, Key, Mark, Origin, Reason, Record, Version

RECORD = Record(Key("k"), Origin(0, 9000, "ann", 0), (Commit(3, b"AB......"),), 0, 5000, {})
ITEM = Item(Key("k"), Stamp(1, 1), 9000, RECORD, None, "ann")
MARK = Mark(Reason.LOGOUT, 5, b"12345678")
ENDED = replace(ITEM, record=None, mark=MARK)
HELD, CACHED = Copy(0, ITEM), Copy(7, ITEM)
LEASE = Lease(1000, 7)


def asked(
    copy: Copy | None,
    *,
    shard_era: int = 7,
    lease: Lease = LEASE,
    now_ms: int = 999,
    wall_ms: int = 100,
    at_least: Version | None = None,
) -> Record | Mark | None:
    return answer(copy, shard_era, lease, now_ms=now_ms, wall_ms=wall_ms, at_least=at_least)


@pytest.mark.parametrize("copy", [HELD, CACHED])
def test_a_copy_answers_until_the_lease_is_over_and_not_a_millisecond_longer(copy: Copy) -> None:
    assert asked(copy) is RECORD
    assert asked(copy, now_ms=1000) is None


def test_a_copy_of_another_era_does_not_answer() -> None:
    assert asked(HELD, shard_era=6) is None
    assert asked(CACHED, shard_era=0) is RECORD
    assert asked(CACHED, lease=Lease(1000, 8)) is None


def test_a_copy_that_lacks_what_the_cookie_has_seen_does_not_answer() -> None:
    assert asked(HELD, at_least=Version(3, b"AB")) is RECORD
    assert asked(HELD, at_least=Version(3, b"XX")) is None
    assert asked(HELD, at_least=Version(4, b"AB")) is None


def test_a_copy_whose_idle_deadline_has_passed_asks_since_it_may_have_been_touched() -> None:
    assert asked(HELD, wall_ms=4999) is RECORD
    assert asked(HELD, wall_ms=5000) is None


def test_a_mark_answers_always() -> None:
    assert asked(Copy(0, ENDED), lease=Lease(0, 99), now_ms=10**9) is MARK


def test_nothing_answers_nothing() -> None:
    assert asked(None) is None
