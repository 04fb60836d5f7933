"""Frames: small, and whatever else arrives is refused and counted, never obeyed, never an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samesession.cluster.copies import Change, Item, Stamp, packed
from samesession.cluster.placement import shard_of
from samesession.cluster.replica import Now, Replica, Reply, Settings, Tell
from samesession.cluster.shelf import DictShelf
from samesession.cluster.transport import ALL
from samesession.cluster.wire import (
    LARGEST,
    PROTOCOL,
    Ack,
    Beat,
    Claim,
    Codec,
    CommitDelta,
    Echo,
    Farewell,
    Fill,
    Frame,
    Listing,
    Load,
    Message,
    Offer,
    Put,
    Refusal,
    pack,
    unpack_answer,
    unpack_request,
)
from samesession.record import Commit, Delta, Key, Mark, Origin, Reason, Record

CODEC = Codec("a-server-with-a-name.example", (1 << 56) - 1)
KEY = Key("0123456789abcdef" * 2)
RECORD = Record(
    KEY,
    Origin(0, 10**12, "ann", 0),
    (Commit(1, b"12345678"),),
    0,
    10**12,
    {"cart": b"\x91\x01"},
)
ITEM = Item(KEY, Stamp(1 << 30, 5), 10**12, RECORD, None, "ann", {"cart": Stamp(1 << 30, 5)})
PUT = Put(
    10**6,
    1023,
    1 << 40,
    Change(
        KEY,
        (1 << 64) - 1,
        Stamp(1 << 40, 10**6),
        Commit(1000, b"12345678"),
        1_800_000_000_000,
        1_800_000_000_000,
        {"cart": b"x" * 40},
        (),
    ),
)
MESSAGES = [
    PUT,
    Fill(1, 2, 3, (packed(ITEM),)),
    Beat(1, 2, 3, True, False, ("s2",), {"s2": Echo(1, 2, 3)}),
    Claim(1, (Offer(1, 2, 3),)),
    Farewell(),
]


def test_a_change_of_one_key_has_less_than_300_bytes() -> None:
    assert len(CODEC.dumps(PUT)) <= 200


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_sent_is_read(message: object) -> None:
    frame = CODEC.loads(CODEC.dumps(message))  # type: ignore[arg-type]
    assert isinstance(frame, Frame)
    assert frame.message == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_frame_cut_anywhere_is_refused(message: object) -> None:
    raw = CODEC.dumps(message)  # type: ignore[arg-type]
    for length in range(len(raw)):
        assert isinstance(CODEC.loads(raw[:length]), Refusal)


def test_other_protocols_are_told_from_rubbish() -> None:
    future = msgspec.msgpack.encode([PROTOCOL + 1, "s2", 1, [999, "what is this"]])
    known = msgspec.msgpack.encode([PROTOCOL + 1, "s2", 1, [14]])
    unknown = msgspec.msgpack.encode([PROTOCOL, "s2", 1, [999]])
    assert CODEC.loads(future) is Refusal.PROTOCOL
    assert CODEC.loads(known) is Refusal.PROTOCOL
    assert CODEC.loads(unknown) is Refusal.MALFORMED
    assert CODEC.loads(b"\x00" * (LARGEST + 1)) is Refusal.OVERSIZED
    assert CODEC.loads(b"\x91" * 100_000) is Refusal.MALFORMED


SAID_IN_1 = json.loads(Path(__file__).with_name("protocol_1.json").read_text())
"""A frame of each kind, as the build before this one wrote it."""


@pytest.mark.parametrize("kind", SAID_IN_1)
def test_the_build_before_this_one_is_understood_and_understands(kind: str) -> None:
    theirs = bytes.fromhex(SAID_IN_1[kind])
    frame = CODEC.loads(theirs)
    assert isinstance(frame, Frame)
    assert (frame.protocol, type(frame.message).__name__) == (1, kind)
    ours = msgspec.msgpack.decode(CODEC.dumps(frame.message, 1))
    assert begins_with(ours, msgspec.msgpack.decode(theirs))


def begins_with(ours: object, theirs: object) -> bool:
    """Whether one says all that the other says; what was added stands at an end."""
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) >= len(theirs) and all(map(begins_with, ours, theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(map(begins_with, ours.values(), theirs.values()))
    return ours == theirs


def test_every_kind_is_kept_as_the_build_before_wrote_it() -> None:
    added = {"Forget", "Displaced"}
    assert {kind.__name__ for kind in get_args(Message)} - added == set(SAID_IN_1)


def test_a_peer_is_spoken_to_in_what_it_speaks() -> None:
    made, _ = replica()
    said = []
    for at, (boot, speaks) in enumerate([(5, 1), (6, PROTOCOL), (7, PROTOCOL + 5), (8, 1)]):
        beat = Beat(1, 10**9, 0, True, False, (), {}, 0, speaks)
        made.heard(Now(2000 + at, 10**9), Codec("s2", boot).dumps(beat, 1))
        missed = Codec("s2", boot).dumps(Listing(1, (0,)), min(speaks, PROTOCOL))
        outputs = made.asked(Now(2000 + at, 10**9), 1, missed)
        outputs += made.tick(Now(2600 + 600 * at, 10**9))
        spoken = {
            type(output).__name__: msgspec.msgpack.decode(output.frame)[0]
            for output in outputs
            if isinstance(output, Tell | Reply) and getattr(output, "topic", "") != ALL
        }
        said.append(spoken)
    assert [each["Reply"] for each in said] == [1, PROTOCOL, PROTOCOL, 1]
    assert [each["Tell"] for each in said] == [1, PROTOCOL, PROTOCOL, 1]


def test_a_later_build_may_add_fields_at_an_end() -> None:
    more = msgspec.msgpack.encode([PROTOCOL, "s2", 1, [14, "added later"], "added later"])
    frame = CODEC.loads(more)
    assert isinstance(frame, Frame)
    assert frame.message == Farewell()


def test_what_workers_say_is_read_and_nothing_else() -> None:
    commit = CommitDelta(Delta(KEY, b"12345678", 5, sets={"a": b"1"}))
    assert unpack_request(pack(commit)) == commit
    assert unpack_request(pack(Load(KEY))) == Load(KEY)
    assert isinstance(unpack_request(pack(PUT)), Refusal)
    assert isinstance(unpack_answer(pack(Load(KEY))), Refusal)
    assert isinstance(unpack_request(b""), Refusal)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(raw: bytes) -> None:
    assert isinstance(CODEC.loads(raw), Refusal) or msgspec.msgpack.decode(raw)
    assert unpack_request(raw) is not None
    assert unpack_answer(raw) is not None


def replica() -> tuple[Replica, DictShelf]:
    shelf = DictShelf()
    made = Replica(Settings("s1", 7, shards=8, settle_ms=100), shelf)
    made.start(Now(1000, 10**9))
    for at in range(1000, 2000, 50):
        made.tick(Now(at, 10**9))
    return made, shelf


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8))
def test_altered_frames_never_raise(changes: list[tuple[int, int]]) -> None:
    made, _ = replica()
    for message in MESSAGES:
        raw = bytearray(CODEC.dumps(message))  # type: ignore[arg-type]
        for at, byte in changes:
            raw[at % len(raw)] = byte
        made.heard(Now(2000, 10**9), bytes(raw))
        made.asked(Now(2000, 10**9), 1, bytes(raw))
        made.replied(Now(2000, 10**9), 1, bytes(raw))


def test_rubbish_changes_nothing_and_is_counted() -> None:
    made, shelf = replica()
    before = dict(shelf.copies)
    now = Now(2000, 10**9)
    made.heard(now, b"\xc1")
    made.heard(now, CODEC.dumps(Listing(1, (1,))))
    made.asked(now, 1, CODEC.dumps(PUT))
    made.heard(now, Codec("s1", 9).dumps(Farewell()))
    made.heard(now, msgspec.msgpack.encode([PROTOCOL + 1, "s2", 1, [14]]))
    counts = made.counts
    assert counts["malformed"] == 1
    assert counts["misplaced"] == 2
    assert counts["own_name"] == 1
    assert counts["wrong_protocol"] == 1
    assert shelf.copies == before


def test_shards_that_do_not_exist_are_refused() -> None:
    made, shelf = replica()
    now = Now(2000, 10**9)
    mark = Item(KEY, Stamp(1, 1), 10**12, None, Mark(Reason.LOGOUT, 1, b"12345678"), None)
    for message in (Fill(1, 9000, 1 << 60, (mark,)), Claim(1, (Offer(9000, 1 << 60, 0),))):
        made.heard(now, CODEC.dumps(message))
    made.asked(now, 1, CODEC.dumps(Listing(9000, (0,))))
    assert 9000 not in shelf.shards()
    assert KEY not in shelf.copies


def test_a_full_map_takes_over_no_record_and_says_so_by_saying_nothing() -> None:
    made, shelf = replica()
    now = Now(2000, 10**9)
    made.heard(now, CODEC.dumps(Beat(1, 10**9, 0, True, False, (), {})))  # its clock is known
    shard = shard_of(KEY, 8)
    mark = Item(Key("e" * 32), Stamp(1, 1), 10**12, None, Mark(Reason.LOGOUT, 1, b"12345678"), None)
    shelf.crammed = True
    said = made.heard(now, CODEC.dumps(Fill(1, shard, 1 << 60, (ITEM,))))
    assert KEY not in shelf.copies
    assert not any(map(acknowledges, said))
    ended = Fill(2, shard_of(mark.key, 8), 1 << 61, (mark,))
    assert any(map(acknowledges, made.heard(now, CODEC.dumps(ended))))
    assert mark.key in shelf.copies  # what ended is kept whatever happens
    shelf.crammed = False
    assert any(map(acknowledges, made.heard(now, CODEC.dumps(Fill(3, shard, 1 << 62, (ITEM,))))))
    assert KEY in shelf.copies
    assert made.counts["no_room"] == 1


def acknowledges(output: object) -> bool:
    frame = Codec("s2", 1).loads(output.frame) if isinstance(output, Tell) else None
    return isinstance(frame, Frame) and isinstance(frame.message, Ack)


def test_one_item_that_is_none_costs_a_page_only_itself() -> None:
    made, shelf = replica()
    shard = shard_of(KEY, 8)
    odd = msgspec.Raw(msgspec.msgpack.encode(["no", "item"]))
    said = made.heard(Now(2000, 10**9), CODEC.dumps(Fill(1, shard, 1 << 60, (odd, packed(ITEM)))))
    assert shelf.copies[KEY].item == ITEM
    assert made.counts["unsound"] == 1
    assert any(map(acknowledges, said))


def test_items_that_are_none_are_counted_and_not_kept() -> None:
    made, shelf = replica()
    nothing = Item(KEY, Stamp(1, 1), 10**12, None, None, "ann")
    both = Item(KEY, Stamp(1, 1), 10**12, RECORD, Mark(Reason.LOGOUT, 1, b"12345678"), "ann")
    bare = Record(KEY, RECORD.origin, (), 0, 10**12, {})
    without = Item(KEY, Stamp(1, 1), 10**12, bare, None, "ann")
    other = Item(Key("other"), Stamp(1, 1), 10**12, RECORD, None, "ann")
    shards = range(8)
    for shard in shards:
        fill = Fill(1, shard, 1 << 60, (nothing, both, without, other))
        made.heard(Now(2000, 10**9), CODEC.dumps(fill))
    assert made.counts["unsound"] == 4 * len(shards)
    assert not shelf.copies
