"""A thousand requests at once: nobody is refused, who came first is served first, in time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from samesession._bridge import ready
from samesession.errors import StoreUnavailableError
from samesession.lab import engines
from samesession.record import Record
from samesession.settings import Url
from samesession.store import Store
from samesession.stores.redis_client import RedisError
from samesession.stores.redis_pool import Pool
from samesession.stores.redis_target import Target
from samesession.stores.redis_threads import Server
from samesession.strategies import strategy_of
from samesession.testing import created, fresh_key

CROWD = 1000


@pytest.fixture(scope="module")
def engine() -> Iterator[engines.Engine]:
    with engines.start() as engine:
        yield engine


def test_a_thousand_requests_of_a_loop_share_one_connection(
    engine: engines.Engine, record_property: Callable[[str, object], None]
) -> None:
    async def crowd() -> None:
        store = strategy_of(f"{engine.url}?deadline=10s").open_loop()
        key = fresh_key()
        await store.commit(created(key, a=b"1"))
        began = time.monotonic()
        served: list[int] = []

        async def asks(number: int) -> None:
            assert isinstance(await store.load(key), Record)
            served.append(number)

        await asyncio.gather(*(asks(number) for number in range(CROWD)))
        assert served == sorted(served)
        took_ms = (time.monotonic() - began) * 1000
        record_property("figure", f"D {CROWD} loads of a loop at once: {took_ms:.0f} ms, 0 refused")
        await store.close()

    asyncio.run(crowd())


def test_a_thousand_threads_wait_for_a_pool_of_fifty(
    engine: engines.Engine, record_property: Callable[[str, object], None]
) -> None:
    store = strategy_of(f"{engine.url}?deadline=30s&pool=50").open_threads()
    key = fresh_key()
    ready(store.commit(created(key, a=b"1")))
    together = threading.Barrier(CROWD)

    def asks(_: int) -> bool:
        together.wait(60)
        return isinstance(ready(store.load(key)), Record)

    with ThreadPoolExecutor(CROWD) as threads:
        began = time.monotonic()
        assert all(threads.map(asks, range(CROWD)))
    took_ms = (time.monotonic() - began) * 1000
    connections = engines.ask(engine.port, "INFO", "clients").partition("connected_clients:")[2]
    assert int(connections.split()[0]) <= 50 + 2
    record_property(
        "figure", f"D {CROWD} threads at a pool of 50: {took_ms:.0f} ms with them, 0 refused"
    )
    ready(store.close())


def test_whoever_waits_too_long_is_told_so_in_time_and_the_server_is_not_blamed(
    engine: engines.Engine,
) -> None:
    store = strategy_of(f"{engine.url}?deadline=2s&pool=2").open_threads()
    ready(store.load(fresh_key()))  # connected
    engine.freeze()
    try:
        with ThreadPoolExecutor(20) as threads:
            began = time.monotonic()
            told = list(threads.map(lambda _: _why(store), range(20)))
            took_s = time.monotonic() - began
    finally:
        engine.thaw()
    assert all(told)
    assert any("raise the URL's pool=" in why for why in told)
    assert took_s < 3.8  # the wait and the command share one deadline
    ready(store.close())


def test_who_is_served_late_greets_the_server_in_what_is_left_of_the_deadline(
    engine: engines.Engine,
) -> None:
    """Known-bad: redis-py's greeting had a whole deadline of its own, after the wait for a turn."""
    target = Target.of(Url.parse(f"{engine.url}?deadline=20s"))
    server = Server(target.nodes[0], target, (), only_primary=False, endings=None)
    engine.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(RedisError):
            server.exchange([("PING",)], began + 0.3)
        assert time.monotonic() - began < 10
    finally:
        engine.thaw()
    server.close()


def _why(store: Store) -> str:
    try:
        ready(store.load(fresh_key()))
    except StoreUnavailableError as error:
        return str(error)
    return ""


# -- the pool itself -------------------------------------------------------------------------------


class Connection:
    def __init__(self) -> None:
        self.closed = False

    def disconnect(self) -> None:
        self.closed = True


def test_a_pool_serves_whoever_waits_longest() -> None:
    pool = Pool(Connection, 1)
    held = pool.borrow(0)
    assert held is not None
    served: list[int] = []
    threads = []
    for number in range(20):
        threads.append(threading.Thread(target=_borrow, args=(pool, served, number)))
        threads[-1].start()
        while len(pool._queue) <= number:
            time.sleep(0.001)
    pool.give_back(held)
    for thread in threads:
        thread.join(20)
    assert served == list(range(20))


def _borrow(pool: Pool[Connection], served: list[int], number: int) -> None:
    connection = pool.borrow(time.monotonic() + 20)
    assert connection is not None
    served.append(number)
    pool.give_back(connection)


def test_a_full_pool_gives_nothing_after_the_deadline_and_loses_no_connection() -> None:
    pool = Pool(Connection, 2)
    lent = [pool.borrow(0), pool.borrow(0)]
    assert len({id(one) for one in lent}) == 2
    began = time.monotonic()
    assert pool.borrow(began + 0.05) is None
    assert time.monotonic() - began >= 0.05
    assert pool.borrow(0) is None
    for connection in lent:
        assert connection is not None
        pool.give_back(connection)
    again = {id(pool.borrow(0)), id(pool.borrow(0))}
    assert again == {id(one) for one in lent}


def test_a_pool_that_is_closed_disconnects_whoever_is_idle() -> None:
    pool = Pool(Connection, 2)
    idle, lent = pool.borrow(0), pool.borrow(0)
    assert idle is not None
    assert lent is not None
    pool.give_back(idle)
    pool.close()
    assert idle.closed
    assert not lent.closed
