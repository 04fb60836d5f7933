"""The Memcached store over a real server: conflicts, deadlines, eviction."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from samesession._bridge import ready
from samesession.errors import ConfigError, StoreCorruptError, StoreUnavailableError
from samesession.lab.databases import Memcached
from samesession.record import Absent, Applied, Key, Mark, Record
from samesession.store import Store
from samesession.stores.memcached import MemcachedStore
from samesession.strategies import strategy_of
from samesession.testing import changed, created, ending, fresh_key, values_of

DEADLINE_S = 0.25
SLACK_S = 0.5  # other people work on this machine


@pytest.fixture
def server() -> Iterator[Memcached]:
    with Memcached() as server:
        yield server


def threads(server: Memcached, parameters: str = "deadline=10s") -> Store:
    return strategy_of(f"{server.url}?{parameters}").open_threads()


def loop(server: Memcached, parameters: str = "deadline=10s") -> Store:
    return strategy_of(f"{server.url}?{parameters}").open_loop()


def test_parallel_writes_of_threads_all_survive(server: Memcached) -> None:
    store, key = threads(server), fresh_key()
    ready(store.commit(created(key, seed=b"0")))

    def write(writer: int) -> None:
        for number in range(20):
            delta = changed(key, **{f"{writer}-{number}": b"1"})
            assert isinstance(ready(store.commit(delta)), Applied)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    record = ready(store.load(key))
    assert isinstance(record, Record)
    assert record.version.number == len(record.values) == 161
    ready(store.close())


def test_parallel_writes_of_tasks_all_survive_and_a_thousand_reads_wait(server: Memcached) -> None:
    async def run() -> None:
        store, key = loop(server, "deadline=20s&pool=10"), fresh_key()
        await store.commit(created(key, seed=b"0"))
        deltas = [changed(key, **{f"k{number}": b"1"}) for number in range(40)]
        outcomes = await asyncio.gather(*map(store.commit, deltas))
        assert all(isinstance(outcome, Applied) for outcome in outcomes)
        assert len(await values_of(store, key) or ()) == 41
        found = await asyncio.gather(*(store.load(key) for _ in range(1000)))
        assert all(isinstance(record, Record) for record in found)
        await store.close()

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_a_server_that_is_gone_is_given_up_within_the_deadline_by_threads(
    server: Memcached, fault: str
) -> None:
    store, key = threads(server, "deadline=250ms"), fresh_key()
    ready(store.commit(created(key, n=b"1")))
    getattr(server, fault)()
    for _ in range(6):
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            ready(store.commit(changed(key, n=b"2")))
        assert time.monotonic() - began < DEADLINE_S + SLACK_S
    server.thaw() if fault == "freeze" else server.restart()
    deadline = time.monotonic() + 5
    while True:
        try:
            found = ready(store.load(key))
            break
        except StoreUnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert (found is None) == (fault == "kill")  # its sessions went with it
    ready(store.close())


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_a_server_that_is_gone_is_given_up_within_the_deadline_by_tasks(
    server: Memcached, fault: str
) -> None:
    async def run() -> None:
        store, key = loop(server, "deadline=250ms"), fresh_key()
        await store.commit(created(key, n=b"1"))
        await asyncio.gather(*(store.load(key) for _ in range(8)))
        getattr(server, fault)()
        for _ in range(6):
            began = time.monotonic()
            asked = [store.commit(changed(key, n=b"2")) for _ in range(8)]
            for answer in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(answer, StoreUnavailableError)
            assert time.monotonic() - began < DEADLINE_S + SLACK_S
        server.thaw() if fault == "freeze" else server.restart()
        deadline = time.monotonic() + 5
        while True:
            try:
                found = await store.load(key)
                break
            except StoreUnavailableError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        assert (found is None) == (fault == "kill")
        await store.close()

    asyncio.run(run())


def test_a_restart_between_two_requests_is_not_noticed(server: Memcached) -> None:
    store = threads(server)
    assert ready(store.load(fresh_key())) is None
    server.restart()
    assert ready(store.load(fresh_key())) is None
    ready(store.close())

    async def run() -> None:
        store = loop(server)
        await asyncio.gather(*(store.load(fresh_key()) for _ in range(5)))
        await asyncio.to_thread(server.restart)
        await asyncio.gather(*(store.load(fresh_key()) for _ in range(5)))
        await store.close()

    asyncio.run(run())


def test_a_cancelled_request_leaves_nobody_anothers_answer(server: Memcached) -> None:
    async def run() -> None:
        store, chance = loop(server, "deadline=10s&pool=4"), random.Random(1)
        keys = [fresh_key() for _ in range(6)]
        for key in keys:
            await store.commit(created(key, mine=key.encode()))

        async def look(key: Key) -> None:
            record = await store.load(key)
            assert isinstance(record, Record)
            assert record.key == key

        for _ in range(60):
            tasks = [asyncio.create_task(look(chance.choice(keys))) for _ in range(8)]
            await asyncio.sleep(chance.random() * 0.002)
            for task in chance.sample(tasks, 4):
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError)
        await store.close()

    asyncio.run(run())


def test_an_evicted_session_is_absent_and_does_not_come_back() -> None:
    """Honest: Memcached drops what was used least, and nobody is told."""
    with Memcached("-m", "2") as server:
        store, keys = threads(server), [fresh_key() for _ in range(300)]
        for key in keys:
            ready(store.commit(created(key, n=b"x" * 20_000)))
        found = [ready(store.load(key)) for key in keys]
        gone = keys[found.index(None)]
        assert ready(store.commit(changed(gone, n=b"1"))) == Absent()
        assert ready(store.load(gone)) is None
        assert isinstance(ready(store.load(keys[-1])), Record)
        ready(store.close())


def test_something_else_under_our_key_is_no_session_and_can_be_ended(server: Memcached) -> None:
    store, key = threads(server), fresh_key()
    assert isinstance(store, MemcachedStore)
    assert ready(store._wire.add(f"samesession:s:{key}", b"\x80\x04K\x01.", 100))
    with pytest.raises(StoreCorruptError):
        ready(store.load(key))
    with pytest.raises(StoreCorruptError):
        ready(store.commit(changed(key, n=b"1")))
    assert isinstance(ready(store.end(key, ending())), Mark)
    assert isinstance(ready(store.load(key)), Mark)
    ready(store.close())


def test_a_session_beyond_a_megabyte_is_refused_with_the_servers_words(server: Memcached) -> None:
    store = threads(server)
    with pytest.raises(StoreUnavailableError, match="too large"):
        ready(store.commit(created(fresh_key(), n=b"x" * (2 << 20))))
    ready(store.close())


def test_a_wrong_url_is_said_in_one_line() -> None:
    wrong = {
        "memcached://ann@127.0.0.1": "takes no user",
        "memcached://127.0.0.1/0": "no path",
        "memcached://127.0.0.1?prefix=a%20b": "no spaces",
        "memcached://127.0.0.1?prefx=a": "did you mean 'prefix'",
    }
    for url, said in wrong.items():
        with pytest.raises(ConfigError, match=said):
            strategy_of(url).open_threads()
