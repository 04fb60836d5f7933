"""The connections of SQL and Memcached: cut, held, slow, and wanted by a thousand at once."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from scenarios.conftest import Figure
from scenarios.site import PROVE, eventually
from tables import started

from faults.proxy import Proxy
from samesession._bridge import ready
from samesession.errors import StoreUnavailableError
from samesession.record import Applied, Delta, Key, Record
from samesession.store import Store
from samesession.strategies import strategy_of
from samesession.testing import changed, created, fresh_key

STEP = 5 if PROVE else 40
DEADLINE_S, SLACK_S = 0.25, 1.0  # other people work on this machine
CROWD = 1000


@dataclass
class Wired:
    """A database or cache behind a wire that can be hurt."""

    kind: str
    proxy: Proxy
    url: str

    def open(self, way: str, **parameters: object) -> Store:
        given = "&".join(f"{name}={value}" for name, value in parameters.items())
        strategy = strategy_of(f"{self.url}?{given}")
        return strategy.open_loop() if way == "loop" else strategy.open_threads()


@pytest.fixture(scope="module", params=["postgresql", "mariadb", "memcached"])
def wired(request: pytest.FixtureRequest) -> Iterator[Wired]:
    with started(request.param) as (url, _):
        port = urlsplit(url).port or 0
        with Proxy(port) as proxy:
            yield Wired(request.param, proxy, url.replace(f":{port}", f":{proxy.port}"))


@pytest.fixture(params=["loop", "threads"])
def run(request: pytest.FixtureRequest, wired: Wired) -> Callable[..., None]:
    """Run a check over a store for loops, and over one for threads."""

    def running(check: Callable[[Store], Awaitable[None]], **parameters: object) -> None:
        store = wired.open(request.param, **parameters)

        async def checking() -> None:
            try:
                await check(store)
            finally:
                wired.proxy.let_go()
                wired.proxy.delay_s = 0.0
                await store.close()

        if store.suspends:
            asyncio.run(checking())
        else:
            ready(checking())

    return running


async def recovered(store: Store, key: Key) -> Record:
    """What is stored, once the breaker has closed again."""
    until = time.monotonic() + 10
    while True:
        try:
            found = await store.load(key)
        except StoreUnavailableError:
            assert time.monotonic() < until
            time.sleep(0.05)
        else:
            assert isinstance(found, Record)
            return found


def test_a_connection_cut_anywhere_in_an_answer_loses_and_repeats_nothing(
    wired: Wired, run: Callable[..., None], figure: Figure
) -> None:
    counted = {"kept": 0, "unknown": 0}

    async def check(store: Store) -> None:
        key = fresh_key()
        await recovered_commit(store, created(key, "ann", n=b"0"))
        kept: dict[str, int] = {}
        for size in range(0, 800, STEP):
            wired.proxy.cut_after(size)
            delta = changed(key, **{f"k{size}": b"1"})
            try:
                outcome = await store.commit(delta)
            except StoreUnavailableError:
                counted["unknown"] += 1
                again = await recovered_commit(store, delta)  # sent twice: harmless
                kept[f"k{size}"] = again.commits[-1].number
            else:
                assert isinstance(outcome, Applied)
                kept[f"k{size}"] = outcome.commits[-1].number
        wired.proxy.let_go()
        record = await recovered(store, key)
        assert kept.keys() <= record.values.keys()
        assert len(set(kept.values())) == len(kept)  # each was applied once: no number twice
        assert record.version.number == len(kept) + 1
        counted["kept"] += len(kept)

    run(check, deadline="500ms")
    figure(
        f"D {counted['kept']} commits cut in mid-answer: 0 lost, 0 twice, "
        f"{counted['unknown']} unknown at first"
    )


async def recovered_commit(store: Store, delta: Delta) -> Applied:
    until = time.monotonic() + 10
    while True:
        try:
            outcome = await store.commit(delta)
        except StoreUnavailableError:
            assert time.monotonic() < until
            time.sleep(0.05)
        else:
            assert isinstance(outcome, Applied)
            return outcome


def test_a_half_answer_is_given_up_within_the_deadline_and_never_taken_for_anothers(
    wired: Wired, run: Callable[..., None]
) -> None:
    async def check(store: Store) -> None:
        ann, bob = fresh_key(), fresh_key()
        await recovered_commit(store, created(ann, "ann", who=b"ann" * 50))
        await recovered_commit(store, created(bob, "bob", who=b"bob" * 50))
        for size in (0, 1, 5, 40, 150):
            wired.proxy.hold_after(size)
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                await store.load(ann)
            assert time.monotonic() - began < DEADLINE_S + SLACK_S
            wired.proxy.let_go()
            assert (await recovered(store, bob)).values["who"] == b"bob" * 50
            assert (await recovered(store, ann)).values["who"] == b"ann" * 50

    run(check)


def test_a_slow_wire_is_waited_for_within_the_deadline_and_not_beyond(
    wired: Wired, run: Callable[..., None]
) -> None:
    async def check(store: Store) -> None:
        key = fresh_key()
        await recovered_commit(store, created(key, "ann", n=b"0"))
        await store.load(key)
        wired.proxy.delay_s = 0.1
        assert isinstance(await store.load(key), Record)
        wired.proxy.delay_s = 3.0
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            await store.load(key)
        assert time.monotonic() - began < 1.0 + SLACK_S
        wired.proxy.delay_s = 0.0
        await recovered(store, key)

    run(check, deadline="1s")


def test_afterwards_connections_tasks_and_threads_are_back_to_base(wired: Wired) -> None:
    threads, before = threading.active_count(), wired.proxy.open

    async def faults() -> None:
        store = wired.open("loop", pool=4)
        key = fresh_key()
        await recovered_commit(store, created(key, "ann", n=b"0"))
        for _ in range(3):
            wired.proxy.hold_after(0)
            loads = [store.load(key) for _ in range(20)]
            answers = await asyncio.gather(*loads, return_exceptions=True)
            assert all(isinstance(one, StoreUnavailableError) for one in answers)
            wired.proxy.let_go()
            await recovered(store, key)
        await store.close()
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        until = time.monotonic() + 10
        while left and time.monotonic() < until:
            await asyncio.wait(left, timeout=0.1)
            left = [task for task in left if not task.done()]
        assert left == []

    asyncio.run(faults())
    eventually(lambda: wired.proxy.open <= before)
    # The proxy's own are two a connection.
    eventually(lambda: threading.active_count() <= threads + 2)


def test_a_thousand_at_once_wait_their_turn_for_fifty_connections(
    wired: Wired, figure: Figure
) -> None:
    """Nothing raised, nobody overtaken by many, no more connections than the pool says."""
    known = wired.proxy.connections
    done: list[int] = []

    async def crowd() -> float:
        store = wired.open("loop", pool=50, deadline="30s")
        key = fresh_key()
        await store.commit(created(key, "ann", n=b"0"))

        async def one(number: int) -> None:
            assert isinstance(await store.load(key), Record)
            done.append(number)

        began = time.monotonic()
        await asyncio.gather(*(one(number) for number in range(CROWD)))
        took = time.monotonic() - began
        await store.close()
        return took

    took = asyncio.run(crowd())
    used = wired.proxy.connections - known
    assert len(done) == CROWD
    assert used <= 51
    # Who came first is served first, but for those who have a connection already.
    overtaken = max(number - place for place, number in enumerate(done))
    assert overtaken <= 150, overtaken
    figure(
        f"D {CROWD} at once over a pool of 50: nothing raised, {used} connections, nobody "
        f"overtaken by more than {overtaken}, {took:.2f} s"
    )


def test_threads_wait_their_turn_too(wired: Wired) -> None:
    known = wired.proxy.connections
    store, key = wired.open("threads", pool=10, deadline="30s"), fresh_key()
    ready(store.commit(created(key, "ann", n=b"0")))
    with ThreadPoolExecutor(100) as pool:
        found = list(pool.map(lambda _: ready(store.load(key)), range(CROWD // 2)))
    ready(store.close())
    assert all(isinstance(record, Record) for record in found)
    assert wired.proxy.connections - known <= 11


def test_a_crowd_before_a_silent_engine_is_told_within_the_deadline(wired: Wired) -> None:
    async def crowd() -> None:
        store = wired.open("loop", pool=5)
        key = Key(secrets.token_hex(16))
        await recovered_commit(store, created(key, "ann", n=b"0"))
        wired.proxy.hold_after(0)
        began = time.monotonic()
        loads = [store.load(key) for _ in range(CROWD)]
        answers = await asyncio.gather(*loads, return_exceptions=True)
        took = time.monotonic() - began
        wired.proxy.let_go()
        assert {type(answer) for answer in answers} == {StoreUnavailableError}
        assert took < DEADLINE_S + 2 * SLACK_S
        await recovered(store, key)
        await store.close()

    asyncio.run(crowd())
