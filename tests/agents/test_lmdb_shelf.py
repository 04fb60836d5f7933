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

from samesession.cluster.copies import Item, Stamp
from samesession.cluster.digest import Digest
from samesession.cluster.lmdb_shelf import LmdbShelf, map_of, read
from samesession.cluster.shelf import Copy, DictShelf, Lease, Self, ShardState
from samesession.errors import StoreUnavailableError
from samesession.record import Commit, Key, Mark, Origin, Reason, Record
from samesession.stores.lmdb_map import Map

MB = 1 << 20


def item(
    key: str, *, until: int = 10_000, idle: int = 5_000, principal: str | None = None, size: int = 3
) -> Item:
    name = Key(key)
    origin = Origin(1, until, principal)
    record = Record(name, origin, (Commit(1, b"12345678"),), 1, idle, {"a": b"v" * size})
    return Item(name, Stamp(1, 1), until, record, None, principal, {"a": Stamp(1, 1)})


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
    with shelf.writing():
        for shard in range(2):
            assert sorted(shelf.keys(shard)) == sorted(model.keys(shard))
        for name in ("ann", "bob"):
            assert sorted(shelf.held_by(name)) == sorted(model.held_by(name))
        for wall in (0, 3_000, 20_000):
            assert sorted(shelf.over(wall, 100)) == sorted(model.over(wall, 100))
    map_.close()


def _both(shelf: LmdbShelf, model: DictShelf, step: tuple[object, ...]) -> None:
    kind, what = step[0], step[1]
    shard = {"k1": 0, "k2": 1, "k3": 1, "ключ": 0}.get(str(what), 0)
    for one in (shelf, model):
        if kind == "put":
            _, key, era, principal, idle = step
            made = item(str(key), principal=principal, idle=idle)  # type: ignore[arg-type]
            one.put(shard, Copy(int(str(era)), made))
        elif kind == "end":
            found = one.get(Key(str(what)))
            if found is not None:
                one.put(shard, Copy(found.era, ended(found.item, step[2])))  # type: ignore[arg-type]
        elif kind == "drop":
            one.drop(shard, Key(str(what)))
        else:
            one.over(int(str(what)), 2)  # also what it tidies changes nothing


def test_what_is_over_is_told_in_portions_and_until_it_is_dropped(tmp_path: Path) -> None:
    shelf = LmdbShelf(map_of(tmp_path, MB))
    with shelf.writing():
        for number in range(5):
            shelf.put(0, Copy(0, item(f"k{number}", idle=100 + number)))
        shelf.put(0, Copy(0, item("touched", idle=50)))
        shelf.put(0, Copy(0, item("touched", idle=9_000)))
    with shelf.writing():
        assert shelf.over(102, 2) == ["k0", "k1"]
        assert shelf.over(102, 9) == ["k0", "k1", "k2"]
        shelf.drop(0, Key("k0"))
        assert shelf.over(102, 9) == ["k1", "k2"]
        assert "touched" in shelf.over(9_000, 9)


def test_a_new_agent_finds_what_the_last_one_left(tmp_path: Path) -> None:
    state = ShardState(7, "s1", 9, 3, 4, ("s1", "s2"), Digest().exchanged([(None, item("k"))]))
    shelf = LmdbShelf(map_of(tmp_path, MB))
    with shelf.writing():
        shelf.put(3, Copy(0, item("k", principal="ann")))
        shelf.put_shard(3, state)
        shelf.remember(Self(5, ("s1", "s2")))
    shelf._map.close()
    again = LmdbShelf(map_of(tmp_path, MB))
    with again.writing():
        assert again.shards() == {3: state}
        assert again.remembered() == Self(5, ("s1", "s2"))
        assert [*again.keys(3)] == [*again.held_by("ann")] == ["k"]


def test_what_an_input_wrote_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    shelf = LmdbShelf(map_of(tmp_path, MB))

    def fail() -> None:
        with shelf.writing():
            shelf.put(0, Copy(0, item("k")))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with shelf.writing():
        assert shelf.get(Key("k")) is None


def test_a_worker_reads_copy_era_and_lease_of_one_moment(tmp_path: Path) -> None:
    map_ = map_of(tmp_path, MB)
    shelf = LmdbShelf(map_)
    with shelf.writing():
        shelf.put(3, Copy(2, item("k")))
        shelf.put_shard(3, ShardState(era=4))
        shelf.put_lease(Lease(99, 4))
        assert read(map_, Key("k"), 3)[0] is None, "nothing is seen before it is committed"
    assert read(map_, Key("k"), 3) == (Copy(2, item("k")), 4, Lease(99, 4))
    assert read(map_, Key("other"), 3)[0] is None


def _reading(map_: Map | Path, answers: multiprocessing.SimpleQueue[object]) -> None:
    if isinstance(map_, Path):
        map_ = map_of(map_, MB)
    copy, era, lease = read(map_, Key("k"), 3)
    answers.put((copy is not None, era, lease.until_ms))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_are_other_processes_forked_or_not(tmp_path: Path, method: str) -> None:
    map_ = map_of(tmp_path, MB)
    shelf = LmdbShelf(map_)  # open here, as after --preload
    with shelf.writing():
        shelf.put(3, Copy(0, item("k")))
        shelf.put_shard(3, ShardState(era=4))
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
        shelf.put(0, Copy(0, item("k")))
        shelf.put(0, Copy(0, item("twin")))
        txn.put(b"sk", damage)
        txn.put(b"sother", bytes(txn.get(b"stwin")))  # another record's
        txn.put(b"g0", damage)
        txn.put(b"i", damage)
    assert read(map_, Key("k"), 0)[0] is None
    assert read(map_, Key("other"), 0)[0] is None
    with shelf.writing():
        assert shelf.get(Key("k")) is None
        assert shelf.get(Key("other")) is None
        assert shelf.remembered() == Self()
        shelf.put(0, Copy(0, item("k")))
        assert shelf.get(Key("k")) == Copy(0, item("k"))


def test_room_is_kept_for_those_who_sign_in_and_for_endings(tmp_path: Path) -> None:
    shelf = LmdbShelf(map_of(tmp_path, 2 * MB))
    numbers = count()

    def fill(while_: Callable[[], bool]) -> int:
        made = 0
        while while_():
            with shelf.writing():
                shelf.put(0, Copy(0, item(f"key{next(numbers):08d}", size=1000)))
            made += 1
        return made

    assert fill(lambda: shelf.room(anonymous=True)) > 100
    assert fill(lambda: shelf.room(anonymous=False)) > 10
    for number in range(next(numbers)):  # every one of them can be ended
        with shelf.writing():
            copy = shelf.get(Key(f"key{number:08d}"))
            if copy is not None:
                shelf.put(0, Copy(0, ended(copy.item, Reason.LOGOUT)))
    assert shelf.room(anonymous=True)


def test_a_full_map_is_told_and_keeps_what_it_had(tmp_path: Path) -> None:
    shelf = LmdbShelf(map_of(tmp_path, MB))

    def fill() -> None:
        for number in count():
            with shelf.writing():
                shelf.put(0, Copy(0, item(f"key{number:08d}", size=5000)))

    with pytest.raises(StoreUnavailableError, match=r"(?i)full"):
        fill()
    with shelf.writing():
        assert shelf.get(Key("key00000000")) is not None
