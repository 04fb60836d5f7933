"""The shelf on LMDB does what the one in memory does, and workers read it from other processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from samesession.cluster.copies import Item, Stamp, packed
from samesession.cluster.digest import Digest
from samesession.cluster.lmdb_shelf import LmdbShelf, map_of, read
from samesession.cluster.placement import shard_of
from samesession.cluster.shelf import Copy, DictShelf, Lease, Self, ShardState
from samesession.errors import StoreUnavailableError
from samesession.record import Commit, Key, Mark, Origin, Reason, Record
from samesession.stores.lmdb_map import Map

MB = 1 << 20
K = shard_of("k")


def item(
    key: str, *, until: int = 10_000, idle: int = 5_000, principal: str | None = None, size: int = 3
) -> Item:
    name = Key(key)
    origin = Origin(1, until, principal)
    record = Record(name, origin, (Commit(1, b"12345678"),), 1, idle, {"a": b"v" * size})
    return Item(name, Stamp(1, 1), until, record, None, principal, {"a": Stamp(1, 1)})


def put(shelf: LmdbShelf, one: Item, era: int = 0) -> None:
    shelf.put(shard_of(one.key), Copy(era, one))


def place(key: str) -> bytes:
    """A copy's name in the map."""
    return b"r" + shard_of(key).to_bytes(2, "big") + key.encode()


def ended(one: Item, reason: Reason) -> Item:
    return replace(one, record=None, mark=Mark(reason, 7, b"abcdefgh"), stamps={})


_keys = st.sampled_from(["k1", "k2", "k3", "ключ"])
_step = st.one_of(
    st.tuples(
        st.just("put"),
        _keys,
        st.integers(0, 2),
        st.sampled_from([None, "ann", "bob"]),
        st.integers(1, 9_000),
    ),
    st.tuples(st.just("end"), _keys, st.sampled_from([Reason.LOGOUT, Reason.ROTATED])),
    st.tuples(st.just("add"), _keys, st.sampled_from([None, "ann", "bob"]), st.integers(1, 9_000)),
    st.tuples(st.just("drop"), _keys),
    st.tuples(st.just("over"), st.integers(0, 12_000)),
)


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(_step, max_size=30), each=st.booleans())
def test_any_history_matches_the_shelf_in_memory(
    steps: list[tuple[object, ...]], each: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    map_ = map_of(tmp_path_factory.mktemp("shelf"), MB)
    shelf, model = LmdbShelf(map_), DictShelf()
    runs = [steps[at : at + 1] for at in range(len(steps))] if each else [steps]
    for run in runs:  # a transaction each, or one for all of them
        with shelf.writing():
            for step in run:
                _both(shelf, model, step)
            for key in ("k1", "k2", "k3", "ключ"):
                assert shelf.get(Key(key)) == model.get(Key(key))
                assert shelf.packed(Key(key)) == model.packed(Key(key))
                assert shelf.known(shard_of(key), [Key(key)]) == {Key(key)} & model.copies.keys()
    with shelf.writing():
        for shard in map(shard_of, ("k1", "k2", "k3", "ключ")):
            assert sorted(shelf.keys(shard)) == sorted(model.keys(shard))
        for name in ("ann", "bob"):
            assert sorted(shelf.held_by(name)) == sorted(model.held_by(name))
        for wall in (0, 3_000, 20_000):
            assert sorted(shelf.over(wall, 100)) == sorted(model.over(wall, 100))
    map_.close()


def _both(shelf: LmdbShelf, model: DictShelf, step: tuple[object, ...]) -> None:
    kind, what = step[0], step[1]
    shard = shard_of(str(what))
    for one in (shelf, model):
        if kind == "put":
            _, key, era, principal, idle = step
            made = item(str(key), principal=principal, idle=idle)  # type: ignore[arg-type]
            one.put(shard, Copy(int(str(era)), made))
        elif kind == "end":
            found = one.get(Key(str(what)))
            if found is not None:
                one.put(shard, Copy(found.era, ended(found.item, step[2])))  # type: ignore[arg-type]
        elif kind == "add":
            _, key, principal, idle = step
            made = item(str(key), principal=principal, idle=idle)  # type: ignore[arg-type]
            if not one.known(shard, [made.key]):
                one.add(shard, [(made, packed(made))])
        elif kind == "drop":
            one.drop(shard, Key(str(what)))
        else:
            one.over(int(str(what)), 2)  # also what it tidies changes nothing


def test_what_is_over_is_told_in_portions_and_until_it_is_dropped(tmp_path: Path) -> None:
    shelf = LmdbShelf(map_of(tmp_path, MB))
    with shelf.writing():
        for number in range(5):
            put(shelf, item(f"k{number}", idle=100 + number))
        put(shelf, item("touched", idle=50))
        put(shelf, item("touched", idle=9_000))
    with shelf.writing():
        assert shelf.over(102, 2) == ["k0", "k1"]
        assert shelf.over(102, 9) == ["k0", "k1", "k2"]
        shelf.drop(shard_of("k0"), Key("k0"))
        assert shelf.over(102, 9) == ["k1", "k2"]
        assert "touched" in shelf.over(9_000, 9)


def test_a_new_agent_finds_what_the_last_one_left(tmp_path: Path) -> None:
    state = ShardState(7, "s1", 9, 3, 4, ("s1", "s2"), Digest().exchanged([(None, item("k"))]))
    shelf = LmdbShelf(map_of(tmp_path, MB))
    with shelf.writing():
        put(shelf, item("k", principal="ann"))
        shelf.put_shard(K, state)
        shelf.remember(Self(5, ("s1", "s2")))
    shelf._map.close()
    again = LmdbShelf(map_of(tmp_path, MB))
    with again.writing():
        assert again.shards() == {K: state}
        assert again.remembered() == Self(5, ("s1", "s2"))
        assert [*again.keys(K)] == [*again.held_by("ann")] == ["k"]


def test_a_map_of_another_layout_is_begun_anew(tmp_path: Path) -> None:
    shelf = LmdbShelf(map_of(tmp_path, MB))
    with shelf.writing() as txn:
        put(shelf, item("k"))
        shelf.put_shard(K, ShardState(7, "s1", 9, digest=Digest().added([item("k")])))
        txn.put(b"v", b"1")
    shelf._map.close()
    again = LmdbShelf(map_of(tmp_path, MB))
    with again.writing():
        assert again.get(Key("k")) is None
        assert again.shards() == {}
        put(again, item("k"))
    shelf._map.close()
    with (third := LmdbShelf(map_of(tmp_path, MB))).writing():
        assert third.get(Key("k")) is not None


def test_what_an_input_wrote_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    shelf = LmdbShelf(map_of(tmp_path, MB))

    def fail() -> None:
        with shelf.writing():
            put(shelf, item("k"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with shelf.writing():
        assert shelf.get(Key("k")) is None


def test_a_worker_reads_copy_era_and_lease_of_one_moment(tmp_path: Path) -> None:
    map_ = map_of(tmp_path, MB)
    shelf = LmdbShelf(map_)
    with shelf.writing():
        put(shelf, item("k"), era=2)
        shelf.put_shard(K, ShardState(era=4))
        shelf.put_lease(Lease(99, 4))
        assert read(map_, Key("k"), K)[0] is None, "nothing is seen before it is committed"
    assert read(map_, Key("k"), K) == (Copy(2, item("k")), 4, Lease(99, 4))
    assert read(map_, Key("other"), K)[0] is None


def _reading(map_: Map | Path, answers: multiprocessing.SimpleQueue[object]) -> None:
    if isinstance(map_, Path):
        map_ = map_of(map_, MB)
    copy, era, lease = read(map_, Key("k"), K)
    answers.put((copy is not None, era, lease.until_ms))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_are_other_processes_forked_or_not(tmp_path: Path, method: str) -> None:
    map_ = map_of(tmp_path, MB)
    shelf = LmdbShelf(map_)  # open here, as after --preload
    with shelf.writing():
        put(shelf, item("k"))
        shelf.put_shard(K, ShardState(era=4))
        shelf.put_lease(Lease(99, 4))
    context = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    given = map_ if method == "fork" else tmp_path
    worker = context.Process(target=_reading, args=(given, answers))
    worker.start()
    assert answers.get() == (True, 4, 99)
    worker.join(10)


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"rubbish", bytes(range(40))])
def test_what_cannot_be_read_is_as_good_as_absent(tmp_path: Path, damage: bytes) -> None:
    map_ = map_of(tmp_path, MB)
    shelf = LmdbShelf(map_)
    with shelf.writing() as txn:
        put(shelf, item("k"))
        put(shelf, item("twin"))
        txn.put(place("k"), damage)
        txn.put(place("other"), bytes(txn.get(place("twin"))))  # another record's
        txn.put(b"g0", damage)
        txn.put(b"i", damage)
    assert read(map_, Key("k"), shard_of("k"))[0] is None
    assert read(map_, Key("other"), shard_of("other"))[0] is None
    with shelf.writing():
        assert shelf.get(Key("k")) is None
        assert shelf.get(Key("other")) is None
        assert shelf.remembered() == Self()
        put(shelf, item("k"))
        assert shelf.get(Key("k")) == Copy(0, item("k"))


def test_room_is_kept_for_those_who_sign_in_and_for_endings(tmp_path: Path) -> None:
    shelf = LmdbShelf(map_of(tmp_path, 2 * MB))
    numbers = count()

    def fill(while_: Callable[[], bool]) -> int:
        made = 0
        while while_():
            with shelf.writing():
                put(shelf, item(f"key{next(numbers):08d}", size=1000))
            made += 1
        return made

    assert fill(lambda: shelf.room(anonymous=True)) > 100
    assert fill(lambda: shelf.room(anonymous=False)) > 10
    for number in range(next(numbers)):  # every one of them can be ended
        with shelf.writing():
            copy = shelf.get(Key(f"key{number:08d}"))
            if copy is not None:
                put(shelf, ended(copy.item, Reason.LOGOUT))
    assert shelf.room(anonymous=True)


def test_a_full_map_is_told_and_keeps_what_it_had(tmp_path: Path) -> None:
    shelf = LmdbShelf(map_of(tmp_path, MB))

    def fill() -> None:
        for number in count():
            with shelf.writing():
                put(shelf, item(f"key{number:08d}", size=5000))

    with pytest.raises(StoreUnavailableError, match=r"(?i)full"):
        fill()
    with shelf.writing():
        assert shelf.get(Key("key00000000")) is not None
