"""What was read a moment ago is not taken apart again, and nothing else is ever answered."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from samesession._bridge import ready
from samesession.lab.engines import Engine, start
from samesession.record import Applied, Commit, Mark, Origin, Record
from samesession.settings import Url
from samesession.stores.redis import RedisStore, open_threads
from samesession.stores.redis_readings import Readings
from samesession.testing import changed, created, ending, fresh_key


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with start() as running:
        yield running


@pytest.fixture
def stores(engine: Engine) -> Iterator[tuple[RedisStore, RedisStore]]:
    """Two servers'."""
    opened = [open_threads(Url.parse(f"redis://127.0.0.1:{engine.port}/0")) for _ in range(2)]
    assert all(isinstance(store, RedisStore) for store in opened)
    yield opened[0], opened[1]  # type: ignore[misc]
    for store in opened:
        ready(store.close())


def test_the_same_bytes_are_the_same_record(stores: tuple[RedisStore, RedisStore]) -> None:
    here, _ = stores
    key = fresh_key()
    ready(here.commit(created(key, cart=b"\x01")))
    assert ready(here.load(key)) is ready(here.load(key))


def test_a_commit_of_our_own_is_known_when_it_is_read(
    stores: tuple[RedisStore, RedisStore],
) -> None:
    here, there = stores
    key = fresh_key()
    ready(here.commit(created(key, cart=b"\x01", name=b"\xa1a", gone=b"\x02")))
    ready(here.load(key))
    outcome = ready(here.commit(changed(key, "gone", cart=b"\x05")))
    assert isinstance(outcome, Applied)
    assert ready(here.load(key)) is outcome.record
    assert ready(there.load(key)) == outcome.record


def test_what_others_commit_is_read_at_once(stores: tuple[RedisStore, RedisStore]) -> None:
    here, there = stores
    key = fresh_key()
    ready(here.commit(created(key, cart=b"\x01")))
    for value in range(20):
        raw = bytes([value])
        ready(here.load(key))
        ready(there.load(key))
        ready(there.commit(changed(key, cart=raw)))
        ready(here.commit(changed(key, other=raw)))
        for store in (here, there):
            found = ready(store.load(key))
            assert isinstance(found, Record)
            assert found.values == {"cart": raw, "other": raw}


def test_of_what_ended_nothing_is_kept(stores: tuple[RedisStore, RedisStore]) -> None:
    here, there = stores
    key = fresh_key()
    ready(here.commit(created(key, cart=b"\x01")))
    for store in stores:
        assert isinstance(ready(store.load(key)), Record)
        assert len(store._read) == 1
    ready(there.end(key, ending()))
    for store in stores:
        assert isinstance(ready(store.load(key)), Mark)
        assert len(store._read) == 0
        assert store._read._cost == 0


def test_threads_keep_the_account_right() -> None:
    """A sum that drifts would let them grow for ever."""
    readings = Readings(limit_bytes=1 << 30)  # else clearing mends it
    keys = [fresh_key() for _ in range(2)]
    origin = Origin(0, 1)

    def work(number: int) -> None:
        for turn in range(3000):
            key = keys[(turn * 7 + number) % len(keys)]
            commits = (Commit(turn + 1, bytes(8)),)
            record = Record(key, origin, commits, 0, 0, {"a": bytes(turn % 300)})
            readings.keep({b"t": b"%d" % turn}, record)
            if turn % 5 == 0:
                readings.forget(key)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
    for key in keys:
        readings.forget(key)
    assert len(readings) == 0
    assert readings._cost == 0


def test_they_are_bounded(stores: tuple[RedisStore, RedisStore]) -> None:
    here, _ = stores
    here._read = Readings(limit_bytes=40_000)
    keys = [fresh_key() for _ in range(50)]
    most = 0
    for key in keys:
        ready(here.commit(created(key, cart=b"\x01")))
        assert isinstance(ready(here.load(key)), Record)
        most = max(most, len(here._read))
        assert here._read._cost <= 40_000
    assert 5 < most < 20
