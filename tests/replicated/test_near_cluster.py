"""The near cache over a cluster: each node vouches for what it has, and for nothing else."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from scenarios.resp import Monitor
from test_near_redis import Here, near

from samesession.errors import StoreUnavailableError
from samesession.lab.engines import Engine, ask
from samesession.lab.replicated import Cluster
from samesession.record import Applied, Key, Mark, Record
from samesession.store import Store
from samesession.stores.near_copies import LEASE_MS
from samesession.stores.redis_near import near_threads
from samesession.stores.redis_topology import slot_of
from samesession.testing import StoreContract, changed, created, ending, fresh_key

PROVE = os.environ.get("SAMESESSION_PROVE") == "1"
ROUNDS = 100


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as several:
        yield several


prove = pytest.mark.skipif(not PROVE, reason="the others are enough: make prove")


@pytest.fixture(params=["loop", pytest.param("threads", marks=prove)])
def make(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Callable[[], Here]]:
    made: list[Here] = []

    def opened() -> Here:
        made.append(Here(f"{cluster.url}?near=4MB&deadline=3s", request.param))
        return made[-1]

    yield opened
    for one in made:
        one.close()


def key_of(cluster: Cluster, number: int) -> Key:
    """A fresh key of one of the three primaries' slots."""
    first, last = 16384 * number // 3, 16384 * (number + 1) // 3 - 1
    while True:
        key = fresh_key()
        if first <= slot_of(f"samesession:s:{key}") <= last:
            return key


def primary_of(cluster: Cluster, number: int) -> tuple[Engine, Engine]:
    """Who is primary of a third of the slots now, and the other one of the pair."""
    pair = cluster.nodes[number], cluster.nodes[3 + number]
    return pair if "role:master" in ask(pair[0].port, "INFO", "replication") else pair[::-1]


def name_of(node: Engine) -> str:
    return ask(node.port, "CLUSTER", "MYID").splitlines()[1]


def sees(one: Here, key: Key, what: Callable[[object], bool]) -> None:
    """Wait until a load brings it; while nobody has a slot it raises."""

    def now() -> bool:
        try:
            return what(one.load(key))
        except StoreUnavailableError:
            return False

    one.until(now)


def warm(one: Here, key: Key) -> None:
    def near() -> bool:
        try:
            return one.is_near(key)
        except StoreUnavailableError:
            return False

    one.until(near)


def has(number: int) -> Callable[[object], bool]:
    return lambda found: isinstance(found, Record) and found.values["a"] == b"%d" % number


@prove
class TestNearCluster(StoreContract):
    generated = 15

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _cluster(cls, cluster: Cluster) -> None:
        cls.url = f"{cluster.url}?deadline=3s"

    def open_loop(self) -> Store:
        return near(self.url)

    def open_threads(self) -> Store:
        return near(self.url, near_threads)


def test_a_read_with_a_copy_sends_nothing_but_heartbeats_to_any_node(
    cluster: Cluster, make: Callable[[], Here]
) -> None:
    one, other = make(), make()
    keys = [key_of(cluster, number) for number in range(3)]
    for key in keys:
        one.run(one.store.commit(created(key, "ann", a=b"0")))
        warm(one, key)
        warm(other, key)
    primaries = [primary_of(cluster, number)[0] for number in range(3)]
    with Monitor(primaries[0].port) as a, Monitor(primaries[1].port) as b:
        began, asked = time.monotonic(), 0
        while time.monotonic() - began < 2 * LEASE_MS / 1000:
            asked += sum(not one.is_near(key) for key in keys)
            one.listen(0.02)
    assert asked <= 6  # a crowded machine may hold this process up for longer than a lease
    for sent in (a.sent, b.sent):
        assert sent["HGETALL"] <= 6
        assert sent["EXISTS"] <= 10 * (time.monotonic() - began) + 2
    for key in keys:  # and each node tells of its own
        outcome = other.run(other.store.commit(changed(key, a=b"1")))
        assert isinstance(outcome, Applied)
        sees(one, key, has(1))
        other.run(other.store.end(key, ending()))
        assert isinstance(one.load(key), Mark)


def test_a_primary_that_became_a_replica_vouches_for_nothing(
    cluster: Cluster, make: Callable[[], Here]
) -> None:
    """It stays connected and answers, and hears of changes as late as it likes: here, never."""
    one, other = make(), make()
    key, elsewhere = key_of(cluster, 1), key_of(cluster, 2)
    one.run(one.store.commit(created(key, "ann", a=b"0")))
    one.run(one.store.commit(created(elsewhere, "bob", a=b"0")))
    warm(other, elsewhere)
    warm(other, key)
    former, replica = primary_of(cluster, 1)
    ask(former.port, "CONFIG", "SET", "masterauth", "wrong")
    assert ask(replica.port, "CLUSTER", "FAILOVER").startswith("+OK")
    one.until(lambda: "role:slave" in ask(former.port, "INFO", "replication"))
    for number in range(1, 4):
        sees(one, key, lambda found: isinstance(found, Record))
        assert isinstance(one.run(one.store.commit(changed(key, a=b"%d" % number))), Applied)
        began = time.monotonic()
        while time.monotonic() - began < LEASE_MS / 1000:  # in use all along
            other.load(key)
            other.listen(0.01)
        assert has(number)(other.load(key))
        warm(other, key)
    one.run(one.store.end(key, ending()))
    assert isinstance(other.load(key), Mark)
    warm(other, elsewhere)
    ask(former.port, "CONFIG", "SET", "masterauth", "")
    one.until(lambda: "master_link_status:up" in ask(former.port, "INFO", "replication"))


def test_a_slot_that_moves_takes_its_copies_along(
    cluster: Cluster, make: Callable[[], Here]
) -> None:
    """With ASK while it moves, MOVED afterwards; the first one goes on to vouch for the rest."""
    one, other = make(), make()
    key, stays = key_of(cluster, 0), key_of(cluster, 0)
    slot = str(slot_of(f"samesession:s:{key}"))
    for each in (key, stays):
        one.run(one.store.commit(created(each, "ann", a=b"0")))
        warm(other, each)
    first, second = (primary_of(cluster, number)[0] for number in (0, 1))
    ids = [name_of(node) for node in (first, second)]
    ask(second.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
    ask(first.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
    warm(other, key)
    name = f"samesession:s:{key}"
    moved = ask(first.port, "MIGRATE", "127.0.0.1", str(second.port), name, "0", "5000")
    assert moved == "+OK\r\n"
    for round_ in range(1, 4):  # who has it now tells nobody whom the other one has sent
        assert isinstance(one.run(one.store.commit(changed(key, a=b"%d" % round_))), Applied)
        sees(other, key, has(round_))
        assert not other.is_near(key)
        warm(other, stays)
    for node in cluster.nodes:
        ask(node.port, "CLUSTER", "SETSLOT", slot, "NODE", ids[1])
    one.run(one.store.commit(changed(key, a=b"4")))
    sees(other, key, has(4))
    warm(other, key)
    one.run(one.store.commit(changed(key, a=b"5")))
    sees(other, key, has(5))
    one.run(one.store.end(key, ending()))
    assert isinstance(other.load(key), Mark)


def test_slots_that_move_at_once_take_their_copies_along(
    cluster: Cluster, make: Callable[[], Here]
) -> None:
    """Valkey 9 hands over a range of slots at one moment, and has what was in them deleted."""
    one, other = make(), make()
    first, second = (primary_of(cluster, number)[0] for number in (0, 1))
    key, stays = key_of(cluster, 0), key_of(cluster, 0)
    slot = str(slot_of(f"samesession:s:{key}"))
    for each in (key, stays):
        one.run(one.store.commit(created(each, "ann", a=b"0")))
        warm(other, each)
    way = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name_of(second))
    assert ask(first.port, *way).startswith("+OK")

    def moved() -> bool:  # with its copies in use
        other.load(key)
        other.load(stays)
        return f":{slot}\r\n" not in ask(
            first.port, "CLUSTER", "SLOT-STATS", "SLOTSRANGE", slot, slot
        )

    one.until(moved)
    one.run(one.store.commit(changed(key, a=b"1")))
    one.run(one.store.end(key, ending()))
    assert isinstance(other.load(key), Mark)
    warm(other, stays)


@prove
def test_what_a_failover_lost_is_given_back_by_a_copy(
    cluster: Cluster, make: Callable[[], Here]
) -> None:
    """The copy was read from the node that died, and its successor is asked to take it."""
    one, key = make(), key_of(cluster, 1)
    one.run(one.store.commit(created(key, "ann", a=b"0")))
    warm(one, key)
    victim, heir = primary_of(cluster, 1)
    ask(heir.port, "CONFIG", "SET", "masterauth", "wrong")
    ask(victim.port, "CLIENT", "KILL", "TYPE", "replica")
    one.until(lambda: "master_link_status:down" in ask(heir.port, "INFO", "replication"))
    for number in (1, 2):
        one.run(one.store.commit(changed(key, a=b"%d" % number)))
    copy = one.load(key)
    assert isinstance(copy, Record)
    assert has(2)(copy)
    victim.kill()

    def repaired() -> bool:
        try:
            found = one.run(one.store.load(key, at_least=copy.version))
        except StoreUnavailableError:
            return False
        return found == copy and one.counts["repaired"] == 1

    one.until(repaired)
    ask(heir.port, "CONFIG", "SET", "masterauth", "")
    victim.restart()
    one.until(lambda: "master_link_status:up" in ask(victim.port, "INFO", "replication"))


@prove
@pytest.mark.timeout(300)
def test_nobody_who_is_logged_out_is_shown_while_a_primary_dies(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    """Probes of processes with warm copies, after logouts that another one was told of."""
    url = f"{cluster.url}?near=4MB&deadline=3s"
    one, *others = (Here(url, kind) for kind in ("loop", "loop", "threads"))
    victim, heir = primary_of(cluster, 2)
    shown = probes = served = 0

    async def all_ended(keys: Sequence[Key]) -> list[object]:
        ends = [one.store.end(key, ending()) for key in keys]
        return await asyncio.gather(*ends, return_exceptions=True)

    for turn in range(ROUNDS):
        keys = [key_of(cluster, number) for number in range(3) for _ in range(5)]
        for key in keys:
            sees(one, key, lambda found: found is None)
            one.run(one.store.commit(created(key, "ann", a=b"0")))
            for other in others:
                warm(other, key)
        if turn == 1:
            victim.kill()
        for key, ended in zip(keys, one.run(all_ended(keys)), strict=True):
            for other in others if isinstance(ended, Mark) else ():
                probes += 1
                try:
                    shown += isinstance(other.load(key), Record)
                    served += 1
                except StoreUnavailableError:
                    pass
    one.until(lambda: "role:master" in ask(heir.port, "INFO", "replication"))
    victim.restart()
    one.until(lambda: "master_link_status:up" in ask(victim.port, "INFO", "replication"))
    for each in (one, *others):
        each.close()
    record_property("figure", f"{probes} probes after a logout, {served} answered, {shown} shown")
    assert shown == 0
    assert served > 10 * ROUNDS
