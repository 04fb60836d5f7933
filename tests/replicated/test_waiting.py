"""Logins, rotations and ends wait for a replica, if there is one, and hold up nobody else."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from samesession._bridge import ready
from samesession.lab import engines
from samesession.lab.engines import ask
from samesession.lab.ports import LOOPBACK
from samesession.lab.relay import Relay
from samesession.lab.replicated import Cluster, eventually
from samesession.record import Applied, Delta, Key, Origin, Reason, Record
from samesession.store import Store
from samesession.stores.redis_client import ResponseError
from samesession.stores.redis_replicas import Replicas
from samesession.strategies import strategy_of
from samesession.testing import changed, created, ending, fresh_key, now_ms

LAG_MS = 60
AT_ONCE = {"repl-diskless-sync-delay": "0"}


# -- when to ask, and for how long -----------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


ROLE = [b"master", 1, [[b"127.0.0.1", b"1", b"1"]]]
ALONE = [b"master", 1, []]


def test_a_server_without_replicas_is_asked_once_a_second() -> None:
    clock = Clock()
    replicas = Replicas(0.5, clock)
    assert replicas.question() == ("ROLE",)
    assert replicas.answered(("ROLE",), ALONE) is False
    assert replicas.question() is None
    clock.now += 1
    assert replicas.question() == ("ROLE",)


def test_a_server_with_a_replica_is_waited_for_at_once() -> None:
    replicas = Replicas(0.5, Clock())
    assert replicas.answered(("ROLE",), ROLE) is None
    question = replicas.question()
    assert question == ("WAIT", 1, 500)
    assert replicas.answered(question, 1) is True
    assert replicas.question() is question


@pytest.mark.parametrize("reply", [0, ResponseError("NOPERM no permission for 'wait'")])
def test_what_was_waited_for_in_vain_is_not_waited_for_again_at_once(reply: object) -> None:
    clock = Clock()
    replicas = Replicas(0.5, clock)
    replicas.answered(("ROLE",), ROLE)
    question = replicas.question()
    assert question is not None
    assert replicas.answered(question, reply) is False
    assert replicas.question() is None
    clock.now += 1
    assert replicas.question() == ("ROLE",)


def test_who_may_not_ask_for_replicas_goes_on_without() -> None:
    replicas = Replicas(0.5, Clock())
    assert replicas.answered(("ROLE",), ResponseError("NOPERM")) is False
    assert replicas.question() is None


# -- with a replica that is far away ---------------------------------------------------------------


@pytest.fixture(scope="module")
def far() -> Iterator[engines.Engine]:
    """A primary whose replica is `LAG_MS` away, on both ways."""
    with (
        engines.start(settings=AT_ONCE) as primary,
        Relay(primary.port, lag_ms=LAG_MS) as relay,
        engines.start(settings={"replicaof": f"{LOOPBACK} {relay.port}"}) as replica,
    ):
        eventually(
            lambda: "master_link_status:up" in ask(replica.port, "INFO", "replication"),
            "the replica does not follow",
        )
        yield primary


Work = Callable[[Store, Counter[str]], Awaitable[None]]


async def once(store: Store, work: Work, counted: Counter[str]) -> None:
    try:
        await work(store, counted)
    finally:
        await store.close()


def on_both_ways(url: str, work: Work) -> None:
    """Do the work with a store for loops, and with one for threads; each with what it counts."""
    strategy = strategy_of(url)
    counted: Counter[str] = Counter()
    asyncio.run(once(strategy.open_loop(lambda name: counted.update([name])), work, counted))
    counted.clear()
    ready(once(strategy.open_threads(lambda name: counted.update([name])), work, counted))


async def timed(awaitable: Awaitable[object]) -> float:
    began = time.monotonic()
    await awaitable
    return (time.monotonic() - began) * 1000


def rotated(key: Key) -> Delta:
    """What makes a rotation's record: as old as the first one."""
    delta = created(key, a=b"1")
    assert delta.origin is not None
    return replace(delta, origin=Origin(delta.now_ms - 5000, delta.origin.absolute_ms))


def test_logins_rotations_and_ends_wait_and_page_writes_do_not(far: engines.Engine) -> None:
    async def work(store: Store, weak: Counter[str]) -> None:
        await store.load(fresh_key())  # connected
        ann, bob = fresh_key(), fresh_key()
        await store.commit(created(fresh_key(), "warm"))
        assert await timed(store.commit(created(ann, "ann", a=b"1"))) >= LAG_MS
        assert await timed(store.commit(rotated(bob))) >= LAG_MS
        assert await timed(store.end(ann, ending(Reason.ROTATED))) >= LAG_MS
        assert await timed(store.end(ann, ending())) >= LAG_MS  # a retry waits, too
        quick = [await timed(store.commit(created(fresh_key(), a=b"1"))) for _ in range(9)]
        quick += [await timed(store.commit(changed(bob, b=b"2"))) for _ in range(9)]
        quick += [await timed(store.load(bob)) for _ in range(9)]
        assert sorted(quick)[13] < LAG_MS / 2
        assert weak == {}

    on_both_ways(f"{far.url}?deadline=10s&wait=10s", work)


def test_a_sign_out_everywhere_waits_once(far: engines.Engine) -> None:
    async def work(store: Store, weak: Counter[str]) -> None:
        keys = [fresh_key() for _ in range(20)]
        for key in keys:
            await store.admit("many", key, now_ms() + 60_000)
        if store.suspends:  # all of them in one batch, and so in one WAIT or two
            made = asyncio.gather(*(store.commit(created(key, "many")) for key in keys))
            assert await timed(made) < 10 * LAG_MS
        else:
            for key in keys:
                await store.commit(created(key, "many"))
        took = await timed(store.end_all("many", ending()))
        assert LAG_MS <= took < 10 * LAG_MS
        assert weak == {}

    on_both_ways(f"{far.url}?deadline=10s&wait=10s", work)


def test_nobody_else_is_held_up(far: engines.Engine) -> None:
    """Loads while logins wait: on a loop they share a connection, but not with the logins."""

    async def work() -> None:
        store = strategy_of(f"{far.url}?deadline=10s&wait=10s").open_loop()
        key = fresh_key()
        await store.commit(created(key, a=b"1"))
        login = asyncio.create_task(store.commit(created(fresh_key(), "ann")))
        loads = 0
        while not login.done():
            await store.load(key)
            loads += 1
        await login
        assert loads > 10
        await store.close()

    asyncio.run(work())


def test_a_replica_that_hangs_costs_one_wait_a_second_and_is_counted() -> None:
    with (
        engines.start(settings=AT_ONCE) as primary,
        engines.start(settings={"replicaof": f"{LOOPBACK} {primary.port}"}) as replica,
    ):
        eventually(
            lambda: "master_link_status:up" in ask(replica.port, "INFO", "replication"),
            "the replica does not follow",
        )
        replica.freeze()

        async def work(store: Store, weak: Counter[str]) -> None:
            began = time.monotonic()
            for _ in range(200):
                assert isinstance(await store.commit(created(fresh_key(), "ann")), Applied)
            took_s = time.monotonic() - began
            assert weak["weak"] == 200
            assert took_s < 20  # and not 200 times 300 ms

        on_both_ways(f"{primary.url}?deadline=10s&wait=300ms", work)


def test_without_a_replica_nothing_waits_and_it_is_counted() -> None:
    async def work(store: Store, weak: Counter[str]) -> None:
        key = fresh_key()
        await store.commit(created(key, "ann"))
        await store.end(key, ending())
        assert weak == {"weak": 2}

    with engines.start() as primary:
        on_both_ways(f"{primary.url}?deadline=10s", work)


def test_it_is_the_same_in_a_cluster() -> None:
    """Each step of a login and a logout finds a replica, on whichever server."""

    async def work(store: Store, weak: Counter[str]) -> None:
        for number in range(20):
            principal, key = f"ann{number}", fresh_key()
            await store.admit(principal, key, now_ms() + 60_000)
            await store.commit(created(key, principal))
            assert await store.end_all(principal, ending()) == 1
        assert weak == {}

    with Cluster() as several:
        on_both_ways(f"{several.url}?deadline=10s&wait=10s", work)


def test_a_near_copy_of_what_a_login_made_hears_of_changes(far: engines.Engine) -> None:
    """It is made on the connection that waits, and copies are told on another one."""

    async def work(store: Store, counted: Counter[str]) -> None:
        key = fresh_key()
        other = strategy_of(far.url)
        there = other.open_loop() if store.suspends else other.open_threads()
        await store.load(fresh_key())
        for number in range(5):
            if number == 0:
                await store.commit(created(key, "ann", n=b"0"))
            assert isinstance(await store.load(key), Record)
            await there.commit(changed(key, n=b"%d" % number))
            await there.load(key)
            began = time.monotonic()
            while (found := await store.load(key)) and found.values["n"] != b"%d" % number:
                assert time.monotonic() - began < 20
                await asyncio.sleep(0) if store.suspends else None
        assert counted["near"] >= 4
        await there.close()

    on_both_ways(f"{far.url}?deadline=10s&wait=10s&near=1MB", work)


def test_a_thousand_threads_log_in_at_once(far: engines.Engine) -> None:
    """They wait for their turn at 50 connections, each of which is held for `LAG_MS`."""
    store = strategy_of(f"{far.url}?deadline=30s&wait=10s").open_threads()
    with ThreadPoolExecutor(100) as threads:
        outcomes = list(
            threads.map(lambda _: ready(store.commit(created(fresh_key(), "ann"))), range(1000))
        )
    assert all(isinstance(outcome, Applied) for outcome in outcomes)
    ready(store.close())
