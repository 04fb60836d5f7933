"""Copies of a record that were written apart become one, whoever merges them in whichever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from samesession.cluster.copies import Item, Stamp, change_of, changed, contains, healed
from samesession.cluster.digest import Digest, sum_of
from samesession.record import (
    Commit,
    Delta,
    Key,
    Mark,
    Origin,
    Reason,
    Record,
    Version,
    merge,
)

KEY = Key("a" * 32)
ORIGIN = Origin(0, 1_000_000, "ann", 0)


def made(**values: bytes) -> Item:
    stamp = Stamp(1, 1)
    record = Record(KEY, ORIGIN, (Commit(1, b"made...."),), 0, 1000, values)
    return Item(KEY, stamp, 1_000_000, record, None, "ann", dict.fromkeys(values, stamp))


def written(item: Item, stamp: Stamp, token: bytes, **sets: bytes) -> Item:
    delta = Delta(
        KEY, token, 10, sets={k: v for k, v in sets.items() if v}, idle_until_ms=stamp.seq
    )
    delta = replace(delta, removes=tuple(k for k, v in sets.items() if not v))
    assert item.record is not None
    _, after = merge(item.record, delta)
    assert isinstance(after, Record)
    return changed(item, change_of(item, sum_of(item), delta, after, stamp))


def ended(item: Item, stamp: Stamp, reason: Reason, token: bytes = b"ended...") -> Item:
    return Item(KEY, stamp, item.until_ms, None, Mark(reason, 5, token), "ann")


writes = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([b"1", b"2", b""])), max_size=4
)


@st.composite
def histories(draw: st.DrawFn) -> list[Item]:
    """Copies of one record after several authorities wrote to it apart."""
    base = made(a=b"0", b=b"0")
    copies = []
    for epoch in (2, 3, 4):
        item = base
        for seq, (name, value) in enumerate(draw(writes), 1):
            token = b"%d.%d....." % (epoch, seq)
            item = written(item, Stamp(epoch, seq), token[:8], **{name: value})
        if draw(st.integers(0, 5)) == 0:
            reason = draw(st.sampled_from([Reason.LOGOUT, Reason.ROTATED]))
            item = ended(item, Stamp(epoch, 9), reason, b"end%d...." % epoch)
        copies.append(item)
    return copies


def content(item: Item) -> object:
    if item.record is None:
        return item.mark
    return dict(item.record.values), dict(item.stamps), item.record.idle_until_ms


@given(histories())
def test_merging_is_commutative_associative_and_idempotent(copies: list[Item]) -> None:
    one, two, three = copies
    assert content(healed(one, two)) == content(healed(two, one))
    assert sum_of(healed(one, two)) == sum_of(healed(two, one))
    left, right = healed(healed(one, two), three), healed(one, healed(two, three))
    assert content(left) == content(right)
    both = healed(one, two)
    assert healed(both, both) is both
    assert content(healed(both, one)) == content(both)


@given(histories())
def test_an_end_wins(copies: list[Item]) -> None:
    result = healed(healed(copies[0], copies[1]), copies[2])
    assert (result.mark is not None) == any(item.mark is not None for item in copies)


@given(histories())
def test_the_merged_version_is_above_both_and_covers_what_either_wrote(copies: list[Item]) -> None:
    one, two = copies[:2]
    both = healed(one, two)
    for item in (one, two):
        if both.record is not None and item.record is not None:
            assert both.record.version.number >= item.record.version.number
            if both not in (one, two):
                assert not contains(one, two)


def test_keys_written_apart_both_survive() -> None:
    base = made(a=b"0", b=b"0")
    one = written(base, Stamp(2, 1), b"left....", a=b"1")
    two = written(base, Stamp(3, 1), b"right...", b=b"2")
    both = healed(one, two)
    assert both.record is not None
    assert both.record.values == {"a": b"1", "b": b"2"}
    assert both.record.version.number == 3


def test_both_cookies_of_one_number_are_covered_by_what_was_merged() -> None:
    """Each side of a partition gave the same number to another commit."""
    base = made(a=b"0", b=b"0")
    one = written(base, Stamp(2, 1), b"left....", a=b"1")
    two = written(base, Stamp(3, 1), b"right...", b=b"2")
    both = healed(one, two)
    assert one.record is not None
    assert two.record is not None
    assert both.record is not None
    assert both.record.covers(one.record.version)
    assert both.record.covers(two.record.version)
    assert not both.record.covers(Version(2, b"xx"))
    assert not one.record.covers(two.record.version)


def test_a_removed_key_does_not_come_back_with_an_older_copy() -> None:
    base = made(a=b"0", b=b"0")
    gone = written(base, Stamp(2, 1), b"removed.", a=b"")
    touched = written(base, Stamp(1, 2), b"earlier.", b=b"3")
    both = healed(gone, touched)
    assert both.record is not None
    assert both.record.values == {"b": b"3"}


def test_a_copy_that_lags_is_replaced_without_a_new_version() -> None:
    base = made(a=b"0")
    newer = written(
        written(base, Stamp(1, 2), b"second..", a=b"1"), Stamp(1, 3), b"third...", a=b"2"
    )
    assert healed(base, newer) is newer
    assert healed(newer, base) is newer


def test_of_two_ends_the_wanted_one_stands() -> None:
    item = made(a=b"0")
    moved = ended(item, Stamp(9, 9), Reason.ROTATED, b"moved...")
    over = ended(item, Stamp(1, 1), Reason.LOGOUT, b"logout..")
    assert healed(moved, over) is over
    assert healed(over, moved) is over


@given(st.lists(st.integers(0, 30), max_size=60))
def test_a_digest_kept_step_by_step_is_the_digest_of_what_is_there(steps: list[int]) -> None:
    digest, there = Digest(), dict[int, Item]()
    for seq, step in enumerate(steps):
        key = Key(f"{step:032x}")
        before = there.pop(step, None)
        after = None
        if before is None or seq % 3:
            record = Record(key, ORIGIN, (Commit(1, b"%08d" % seq),), 0, seq, {})
            after = there[step] = Item(key, Stamp(1, seq), 0, record, None, "ann")
        digest = digest.exchanged([(before, after)])
    anew = Digest()
    for item in there.values():
        anew = anew.exchanged([(None, item)])
    assert digest == anew
    assert (digest == Digest()) == (not there)
