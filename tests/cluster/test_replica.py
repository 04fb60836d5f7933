"""What a cluster costs and how fast it goes on, measured in simulated time and counted messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from samesession.cluster import news
from samesession.cluster.placement import EVERYBODY, shard_of
from samesession.cluster.replica import Ask, Tell
from samesession.cluster.wire import (
    PROTOCOL,
    Admit,
    Beat,
    ClaimOf,
    Codec,
    CommitDelta,
    Frame,
    Hand,
    News,
    Unavailable,
)
from samesession.errors import StoreUnavailableError
from samesession.record import (
    Applied,
    Delta,
    Ended,
    Ending,
    Key,
    Mark,
    Origin,
    Reason,
    Record,
    Taken,
)
from samesession.token import key_of
from tests.cluster.simulator import WALL_MS, Host, WorkerStore, World, reads, spawn

HOUR_MS = 3_600_000
CODEC = Codec("reader", 1)


def cluster(size: int, seed: int = 1, **settings: Any) -> World:
    world = World(seed, [f"s{n + 1}" for n in range(size)], **settings)
    for host in world.hosts.values():
        host.skew_ms = 0
        host.start()
    assert world.run(20_000, world.calm)
    world.run(world.now + 1000)  # what came late is handed to who is first in line
    assert world.calm()
    return world


def outcome(world: World, coroutine: Any, within_ms: int = 6000) -> Any:
    """Run one request to its end; raises what it raised."""
    ended: list[tuple[Any, BaseException | None]] = []
    spawn(coroutine, lambda value, fault: ended.append((value, fault)))
    assert world.run(world.now + within_ms, lambda: bool(ended)) or ended
    value, fault = ended[0]
    if fault is not None:
        raise fault
    return value


def created(world: World, key: Key, principal: str | None = None, **values: bytes) -> Delta:
    now = WALL_MS + world.now
    origin = Origin(now, now + 2 * HOUR_MS, principal, None if principal is None else now)
    token = world.rng.randbytes(8)
    return Delta(key, token, now, now + HOUR_MS, sets=values or {"a": b"1"}, origin=origin)


def changed(world: World, key: Key, **values: bytes) -> Delta:
    return Delta(key, world.rng.randbytes(8), WALL_MS + world.now, sets=values)


def ending(world: World, reason: Reason = Reason.LOGOUT) -> Ending:
    return Ending(reason, WALL_MS + world.now, world.rng.randbytes(8))


def authority_of(world: World, key: Key) -> Host:
    for host in world.hosts.values():
        agent = host.agent
        if agent is not None and agent._claims.serving(agent._state.shard_of(key)):
            return host
    raise AssertionError("nobody is")


def other_than(world: World, *hosts: Host) -> Host:
    return next(host for host in world.hosts.values() if host not in hosts)


def counting(world: World, during: Callable[[], Any]) -> tuple[Counter[str], Counter[str]]:
    """Messages and bytes by kind, beats apart, while something is done."""
    messages: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    send, do = world.send, Host.do

    def doing(self: Host, outputs: list[Any]) -> None:
        for output in outputs:
            raw = getattr(output, "frame", None)
            frame = None if raw is None else CODEC.loads(raw)
            if isinstance(frame, Frame) and not isinstance(frame.message, Beat):
                kind = type(frame.message).__name__
                to_all = isinstance(output, Tell) and output.topic == "all"
                messages[kind] += len(world.hosts) - 1 if to_all else 1
                sizes[kind] += len(raw)
        do(self, outputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Host, "do", doing)
        during()
    assert world.send == send
    return messages, sizes


@pytest.mark.parametrize("size", [3, 5, 8, 12])
def test_a_commit_costs_as_many_messages_whatever_the_number_of_servers(size: int) -> None:
    world, key = cluster(size), key_of("x")
    asker = other_than(world, authority_of(world, key))
    store = WorkerStore(asker)
    outcome(world, store.commit(created(world, key, large=b"x" * 5000)))
    world.run(world.now + 20)

    def commit() -> None:
        assert isinstance(outcome(world, store.commit(changed(world, key, cart=b"12345"))), Applied)
        world.run(world.now + 20)

    messages, sizes = counting(world, commit)
    # An owner that asks gets its change with the answer, and acknowledges it with its next one.
    puts = 2 - (asker.name in authority_of(world, key).agent._claims.owners(shard_of(key, 8)))
    assert puts <= messages.pop("Ack") <= 2
    assert messages == {"CommitDelta": 1, "Put": puts, "Committed": 1}
    assert sizes["Put"] <= puts * 200
    assert sizes["Committed"] <= 200 * (3 - puts)  # whatever the size of the session


@pytest.mark.parametrize("size", [2, 3])
def test_an_authority_that_was_paused_calls_nothing_lost_that_its_successor_was_told(
    size: int,
) -> None:
    """Its lease still runs when it wakes, and it has not heard of the other one (seed 17179)."""
    world, key = cluster(size), key_of("x")
    paused = authority_of(world, key)
    other = other_than(world, paused)
    outcome(world, WorkerStore(other).commit(created(world, key)))
    world.run(world.now + 20)
    paused.pause(2300, workers=False)
    woken_at = world.now + 2300
    world.after(2000, lambda: world.paused_for_long(paused.name))
    world.run(world.now + 1800)
    world.cut = {
        (host.name, paused.name) for host in world.hosts.values()
    }  # and nothing reaches it
    world.run(world.now + 300)
    applied = outcome(world, WorkerStore(other).commit(changed(world, key, b=b"2")), 150)
    assert isinstance(applied, Applied)
    world.run(woken_at - 1)
    world.after(2, world.cut.clear)
    seen = applied.commits[-1].version
    found = outcome(world, WorkerStore(paused).load(key, at_least=seen))
    assert isinstance(found, Record)
    assert found.values["b"] == b"2"
    assert paused.agent is not None
    assert paused.agent.counts["confirmed"] == 1


def test_a_rotation_while_its_shard_changes_hands_keeps_what_the_session_held() -> None:
    """The new authority heard of the end in the news, and fences what the old one sent it."""
    sought = 0
    for seed in range(60):
        world, key = cluster(3, seed), key_of("x")
        first = authority_of(world, key)
        heir = other_than(world, first)
        asker = (heir, other_than(world, first, heir))[seed % 2]
        outcome(world, WorkerStore(asker).commit(created(world, key, "ann")))
        world.run(world.now + 200)
        assert first.agent is not None
        hand = Hand((ClaimOf(shard_of(key, 8), first.agent._claims.roles[shard_of(key, 8)].epoch),))
        frame = Codec(first.name, first.agent._settings.boot).dumps(hand, PROTOCOL)
        world.after(
            world.rng.randrange(8),
            lambda frame=frame, heir=heir: heir.receive(lambda agent: agent.heard(heir.now, frame)),
        )
        moved = Ending(
            Reason.ROTATED, WALL_MS + world.now, world.rng.randbytes(8), key_of("successor")
        )
        mark = outcome(world, WorkerStore(asker, within_ms=3000).end(key, moved))
        assert (mark.token, mark.successor) == (moved.token, moved.successor)
        assert mark.final is not None
        assert mark.final.values == {"a": b"1"}
        assert heir.agent is not None
        sought += heir.agent.counts.get("sought", 0)
    assert sought >= 10  # it was exercised


def reading(
    receive: Callable[..., None], event: Callable[[Any], Any], wanted: Callable[[bytes, Any], bool]
) -> None:
    """Let an agent take something in, of whose frames it reads only those that are wanted."""

    def hearing(agent: Any) -> Any:
        loads = agent._loads

        def read(raw: bytes) -> Any:
            frame = loads(raw)
            return (
                frame if wanted(raw, frame.message if isinstance(frame, Frame) else None) else None
            )

        agent._loads = read
        try:
            return event(agent)
        finally:
            agent._loads = loads

    receive(hearing)


def holding_news_back(world: World, to: Host, key: Key, taken: list[int] | None = None) -> Any:
    """News of a record's end come to a server 100 ms late; or, with ``taken``, never."""
    receive = to.receive

    def late(event: Callable[[Any], Any]) -> None:
        outputs: list[Any] = []

        def wanted(raw: bytes, message: Any) -> bool:
            if isinstance(message, News) and key in [item.key for item in message.endings]:
                outputs.append(raw)
                return False
            return True

        reading(receive, event, wanted)
        for raw in outputs:
            if taken is None:
                world.after(100, lambda raw=raw: receive(lambda agent: agent.heard(to.now, raw)))
            else:
                taken.append(world.now)

    return late


def used_by_who_owns_nothing(seed: int) -> tuple[World, Key, Host, Host, Host]:
    """A world, ann's record, its authority, and two servers that only use it."""
    world, key = cluster(5, seed, copies=2), key_of("x")
    first = authority_of(world, key)
    owners = first.agent._claims.owners(shard_of(key, 8))
    one, two = [host for host in world.hosts.values() if host.name not in owners][:2]
    outcome(world, WorkerStore(one).commit(created(world, key, "ann")))
    assert isinstance(outcome(world, WorkerStore(two).load(key)), Record)
    return world, key, first, one, two


def test_a_sign_out_everywhere_waits_for_ends_that_others_began() -> None:
    """A rotation under way has ended the old record, and not everybody has heard of it."""
    for seed in range(20):
        world, key, first, one, two = used_by_who_owns_nothing(seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(two, "receive", holding_news_back(world, two, key))
            names = map(str, range(99))
            successor = next(k for k in map(key_of, names) if authority_of(world, k) is not first)
            moved = Ending(Reason.ROTATED, WALL_MS + world.now, world.rng.randbytes(8), successor)
            spawn(WorkerStore(one).end(key, moved), lambda _value, _fault: None)
            world.run(world.now + 15)
            assert isinstance(reads(two, key), Record)
            outcome(world, WorkerStore(one).end_all("ann", ending(world)))
            assert not isinstance(reads(two, key), Record)


def test_an_end_that_its_authority_died_over_is_told_by_the_next_one() -> None:
    """A server that only used the record has heard nothing; it is in no comparison."""
    for seed in range(20):
        world, key, first, one, two = used_by_who_owns_nothing(seed)
        never: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(two, "receive", holding_news_back(world, two, key, never))
            spawn(WorkerStore(one).end(key, ending(world)), lambda _value, _fault: None)
            assert world.run(world.now + 50, lambda never=never: bool(never))
            world.run(world.now + 5)  # the other owner has it by now
            first.stop(disk=False)
            one.stop()  # nor does anybody ask again
        world.run(world.now + 5000)
        assert not isinstance(reads(two, key), Record)


def test_an_operator_gives_up_who_is_gone_for_good() -> None:
    """All five stop; three never come back: what the others hold waits for a word."""
    world = cluster(5, copies=3)
    keys = [key_of(f"x{number}") for number in range(40)]
    for key in keys:
        outcome(world, WorkerStore(world.hosts["s1"]).commit(created(world, key)))
    world.run(world.now + 200)
    for host in world.hosts.values():
        host.stop()
    left, gone = [world.hosts[name] for name in ("s1", "s2")], ["s3", "s4", "s5"]
    held = {key for host in left for key, copy in host.shelf.copies.items() if copy.held}
    for host in left:
        host.start()
    world.run(world.now + 12_000)
    waiting = {name for host in left for name in host.agent.status(host.now)["waits_for"]}
    assert waiting
    assert waiting <= set(gone)
    agents = [host.agent for host in left]
    unserved = [key for key in keys if not any(a._claims.serving(shard_of(key, 8)) for a in agents)]
    assert unserved
    with pytest.raises(StoreUnavailableError):
        outcome(world, WorkerStore(left[0]).load(unserved[0]))
    left[0].do(left[0].agent.forget(left[0].now, gone))
    world.run(world.now + 3000)
    found = [outcome(world, WorkerStore(left[1]).load(key)) for key in keys]
    assert [record is not None for record in found] == [key in held for key in keys]
    assert [host.agent.status(host.now)["waits_for"] for host in left] == [[], []]
    left[0].agent.forget(left[0].now, ["s2"])  # is here: nobody gives it up
    assert "s2" in left[0].agent._state.members
    world.hosts["s3"].start()  # and who was given up may come all the same
    assert world.run(world.now + 20_000, world.calm)
    assert left[0].agent._state.forgotten == {"s4", "s5"}


@pytest.mark.parametrize("evicts", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_logins_at_once_never_pass_a_quota_whatever_becomes_of_frames(
    seed: int, evicts: bool
) -> None:
    world = cluster(3, seed=seed)
    world.loss, world.doubled, world.slow = 0.05, 0.1, 0.2
    hosts, admitted, refused = [*world.hosts.values()] * 2, list[Key](), list[Key]()

    async def login(host: Host, key: Key) -> None:
        store, delta = WorkerStore(host, within_ms=4000), created(world, key, "ann")
        assert delta.origin is not None
        until = delta.origin.absolute_ms
        said = await store._ask(Admit("ann", key, until, None, 2, evicts))
        (refused if said.refused else admitted).append(key)
        if not said.refused:
            await store.commit(delta)

    pending = len(hosts)

    def done(_value: Any, fault: BaseException | None) -> None:
        nonlocal pending
        pending -= 1
        assert fault is None

    for number, host in enumerate(hosts):
        key = key_of(f"login {number}")
        world.after(number % 3, lambda host=host, key=key: spawn(login(host, key), done))
    world.run(world.now + 12_000, lambda: not pending)
    assert not pending
    world.loss = world.doubled = world.slow = 0
    world.run(world.now + 1000)
    for host in world.hosts.values():
        assert len(outcome(world, WorkerStore(host).held_by("ann"))) == 2
    assert len(refused) == (0 if evicts else 4)


def test_all_to_all_costs_more_with_every_server() -> None:
    world, key = cluster(8, copies=EVERYBODY), key_of("x")
    store = WorkerStore(authority_of(world, key))
    outcome(world, store.commit(created(world, key)))
    world.run(world.now + 20)
    messages, _ = counting(
        world, lambda: outcome(world, store.commit(changed(world, key, cart=b"1")))
    )
    assert messages["Put"] == 7


def test_an_unchanged_session_is_read_without_a_message() -> None:
    """By its owners, and by any other server once it was used there."""
    world, key = cluster(5), key_of("x")
    delta = created(world, key)
    outcome(world, WorkerStore(authority_of(world, key)).commit(delta))
    for host in world.hosts.values():
        assert isinstance(outcome(world, WorkerStore(host).load(key)), Record)

    def read() -> None:
        for host in world.hosts.values():
            record = reads(host, key)
            assert isinstance(record, Record)
            assert record.values == delta.sets

    messages, _ = counting(world, read)
    assert not messages


def test_writes_go_on_within_a_fifth_of_a_second_after_the_authority_was_killed() -> None:
    for seed in range(20):
        world, key = cluster(3, seed), key_of("x")
        first = authority_of(world, key)
        store = WorkerStore(other_than(world, first))
        outcome(world, store.commit(created(world, key)))
        killed = world.now
        first.stop(disk=False)
        assert isinstance(outcome(world, store.commit(changed(world, key, b=b"2"))), Applied)
        assert world.now - killed <= 200
        record = outcome(world, store.load(key))
        assert record.values == {"a": b"1", "b": b"2"}


def test_writes_go_on_within_three_seconds_after_a_host_died_silently() -> None:
    for seed in range(10):
        world, key = cluster(3, seed), key_of("x")
        first = authority_of(world, key)
        store = WorkerStore(other_than(world, first), within_ms=3000)
        outcome(world, store.commit(created(world, key)))
        died = world.now
        first.stop(disk=False, silently=True)
        assert isinstance(outcome(world, store.commit(changed(world, key, b=b"2"))), Applied)
        assert world.now - died <= 3000


def test_a_logout_takes_a_round_trip_with_all_servers_there() -> None:
    world, key = cluster(5), key_of("x")
    store = WorkerStore(other_than(world, authority_of(world, key)))
    outcome(world, store.commit(created(world, key, "ann")))
    world.run(world.now + 50)
    began = world.now
    outcome(world, store.end(key, ending(world)))
    assert world.now - began <= 20  # simulated messages take 1 to 3 ms
    assert all(isinstance(reads(host, key), Mark | None) for host in world.hosts.values())


@pytest.mark.parametrize("fault", ["pause", "kill agent", "silence"])
def test_a_logout_waits_for_a_server_that_says_nothing_and_never_longer_than_its_lease(
    fault: str,
) -> None:
    """Its workers read on from its shelf: until the acknowledgement, not after it."""
    for seed in range(8):
        world, key = cluster(3, seed), key_of("x")
        first = authority_of(world, key)
        bad = other_than(world, first)
        store = WorkerStore(other_than(world, first, bad))
        outcome(world, store.commit(created(world, key, "ann")))
        outcome(world, WorkerStore(bad).load(key))
        world.run(world.now + world.rng.randrange(50, 900))
        if fault == "pause":
            bad.pause(20_000, workers=False)
        else:
            bad.stop(workers=False, silently=fault == "silence")
        world.run(world.now + world.rng.randrange(1, 500))
        assert isinstance(reads(bad, key), Record)
        began = world.now
        outcome(world, store.end(key, ending(world)))
        assert world.now - began <= 3000 + 50
        assert not isinstance(reads(bad, key), Record)


def test_a_commit_alone_is_weak_and_counted() -> None:
    world, key = cluster(1), key_of("x")
    host = world.hosts["s1"]
    store = WorkerStore(host)
    assert isinstance(outcome(world, store.commit(created(world, key))), Applied)
    assert store.weak
    assert host.agent is not None
    assert host.agent.counts["weak"] == 1


def test_who_did_not_show_its_copies_in_time_is_waited_for_all_the_same() -> None:
    """It obeys, and what it was sent last may be all that outlives its authority."""
    world, key = cluster(2), key_of("x")
    first = authority_of(world, key)
    other = other_than(world, first)
    outcome(world, WorkerStore(first).commit(created(world, key)))
    world.run(world.now + 200)
    assert first.agent is not None
    assert other.agent is not None
    shard = shard_of(key, 8)
    copy = other.agent._state.held(key)
    assert copy is not None
    assert copy.record is not None
    sooner = replace(copy.record, idle_until_ms=copy.record.idle_until_ms - HOUR_MS // 2)
    other.agent._state.hold(shard, replace(copy, record=sooner))  # so the next round asks for it
    sides = first.agent._claims.roles[shard].sides
    assert world.run(world.now + 4000, lambda: not sides[other.name].merged)
    world.cut = {(first.name, other.name), (other.name, first.name)}
    world.run(world.now + 700)  # it was asked for half a second, and its beats are not missed yet
    delta = changed(world, key, b=b"2")
    with pytest.raises(StoreUnavailableError):
        outcome(world, WorkerStore(first).commit(delta))
    assert "weak" not in first.agent.counts
    world.cut.clear()
    assert isinstance(outcome(world, WorkerStore(first).commit(delta)), Applied)
    copy = other.agent._state.held(key)
    assert copy is not None
    assert copy.record is not None
    assert copy.record.values["b"] == b"2"


def test_nobody_there_means_unknown_and_never_failed() -> None:
    """The write may be there: sent again, it is applied once."""
    world, key = cluster(3), key_of("x")
    first = authority_of(world, key)
    store = WorkerStore(other_than(world, first))
    delta = created(world, key)
    first.pause(1000, workers=False)
    with pytest.raises(StoreUnavailableError):
        outcome(world, store.commit(delta))
    world.run(world.now + 2000)
    assert isinstance(outcome(world, store.commit(delta)), Applied)
    record = outcome(world, store.load(key))
    assert record.version.number == 1


def test_the_store_contract_in_short_across_servers() -> None:
    world, key = cluster(3), key_of("x")
    one, two, three = (WorkerStore(host) for host in world.hosts.values())
    made = created(world, key, "ann")
    assert isinstance(outcome(world, one.commit(made)), Applied)
    assert isinstance(outcome(world, two.commit(made)), Applied)
    assert isinstance(outcome(world, three.commit(created(world, key))), Taken)
    held = outcome(world, three.held_by("ann"))
    assert [record.key for record in held] == [key]
    assert outcome(world, two.end_all("ann", ending(world))) == 1
    assert isinstance(outcome(world, one.commit(changed(world, key, a=b"2"))), Ended)
    assert outcome(world, one.held_by("ann")) == []


def test_a_login_under_way_does_not_survive_a_sign_out_everywhere() -> None:
    """It was admitted before; its record comes after, and finds a mark."""
    world, key = cluster(3), key_of("x")
    one, two, _ = (WorkerStore(host) for host in world.hosts.values())
    outcome(world, one.admit("ann", key, 0))
    assert outcome(world, two.end_all("ann", ending(world))) == 1
    assert isinstance(outcome(world, one.commit(created(world, key, "ann"))), Ended)


def test_a_full_store_refuses_anonymous_sessions_and_nobody_else() -> None:
    world = cluster(3)
    for host in world.hosts.values():
        host.shelf.full = True
    store = WorkerStore(world.hosts["s1"])
    with pytest.raises(StoreUnavailableError):
        outcome(world, store.commit(created(world, key_of("x"))))
    assert isinstance(outcome(world, store.commit(created(world, key_of("y"), "ann"))), Applied)
    assert isinstance(outcome(world, store.commit(changed(world, key_of("y"), a=b"2"))), Applied)


def test_a_joiner_is_level_and_gets_its_share_within_two_seconds() -> None:
    world = cluster(4)
    host = world.hosts["s4"]
    host.stop(disk=False)
    world.run(world.now + 50)
    store = WorkerStore(world.hosts["s1"], within_ms=2000)
    for n in range(300):
        outcome(world, store.commit(created(world, key_of(str(n)))))
    began = world.now
    host.start()
    assert world.run(began + 2500, world.calm)
    agent = host.agent
    assert agent is not None
    assert agent.ready
    assert world.run(began + 4000, lambda: bool(agent.status(host.now)["authority_of"]))


def test_a_server_that_leaves_has_handed_everything_over() -> None:
    world, keys = cluster(4), [key_of(str(n)) for n in range(50)]
    store = WorkerStore(world.hosts["s1"])
    for key in keys:
        outcome(world, store.commit(created(world, key)))
    host = world.hosts["s2"]
    assert host.agent is not None
    host.do(host.agent.leave(host.now))
    assert world.run(world.now + 10_000, lambda: host.agent is None)
    assert not any(copy.held for copy in host.shelf.copies.values())
    for key in keys:
        assert isinstance(outcome(world, store.load(key)), Record)


def test_who_becomes_an_owner_since_another_went_has_its_copies_before_the_next_round() -> None:
    """A server that leaves waits for that; after a death there are too few copies until then."""
    world = cluster(5, round_ms=60_000)
    keys = [key_of(str(n)) for n in range(50)]
    store = WorkerStore(world.hosts["s1"])
    for key in keys:
        outcome(world, store.commit(created(world, key)))
    host = world.hosts["s5"]
    assert host.agent is not None
    host.do(host.agent.leave(host.now))
    assert world.run(world.now + 3000, lambda: host.agent is None)
    assert world.run(world.now + 1000, world.calm)
    world.hosts["s4"].stop()
    world.run(world.now + 20)  # for the others to notice
    assert world.run(world.now + 1000, world.calm)
    for key in keys:
        assert isinstance(outcome(world, store.load(key)), Record)


def test_what_is_over_is_swept_on_every_server() -> None:
    world, key = cluster(3), key_of("x")
    now = WALL_MS + world.now
    origin = Origin(now, now + 5000)
    delta = Delta(key, b"12345678", now, now + 5000, sets={"a": b"1"}, origin=origin)
    outcome(world, WorkerStore(world.hosts["s1"]).commit(delta))
    world.run(world.now + 68_000)
    for host in world.hosts.values():
        assert host.shelf.get(key) is None
        assert host.agent is not None
        assert not host.agent._claims.holds_any()


def test_with_stale_accept_a_copy_answers_when_nobody_else_does() -> None:
    world, key = cluster(3, accept_stale=True), key_of("x")
    hosts = list(world.hosts.values())
    outcome(world, WorkerStore(hosts[0]).commit(created(world, key)))
    world.run(world.now + 100)
    for host in hosts[1:]:
        host.pause(30_000, workers=False)
    world.run(world.now + 4000)
    assert isinstance(outcome(world, WorkerStore(hosts[0]).load(key)), Record)
    assert hosts[0].agent is not None


def test_endings_are_the_only_news_beside_claims() -> None:
    world, key = cluster(3), key_of("x")
    store = WorkerStore(world.hosts["s1"])
    messages, _ = counting(world, lambda: outcome(world, store.commit(created(world, key))))
    assert News.__name__ not in messages
    messages, _ = counting(world, lambda: outcome(world, store.end(key, ending(world))))
    assert messages[News.__name__] == 2


def test_comparing_copies_costs_no_more_with_more_servers() -> None:
    """With who holds nothing it would grow with their number: 290 KB a round with 12 servers."""

    def offered(size: int) -> int:
        world = cluster(size, shards=128, copies=3)
        before = [host.agent._state.sent["Claim"][1] for host in world.hosts.values() if host.agent]
        world.run(world.now + 5 * 2000)
        after = [host.agent._state.sent["Claim"][1] for host in world.hosts.values() if host.agent]
        return sum(after) - sum(before)

    assert offered(9) < 2 * offered(4)


def test_what_comes_when_time_is_over_asks_nobody_any_more() -> None:
    """A request's time ended, the tick is still to come, and news make its server ask again."""
    world, key = cluster(3), key_of("x")
    authority = authority_of(world, key)
    asker = other_than(world, authority)
    authority.stop(silently=True)
    agent, answers = asker.agent, list[Any]()
    assert agent is not None
    asker.tickets[4711] = answers.append
    commit = CommitDelta(created(world, key))
    asker.do(agent.request(asker.now, 4711, commit, within_ms=20))
    world.now += 25
    agent._state.now = asker.now
    agent._counter.kick({shard_of(key, 8)})
    assert not [output for output in agent._state.out if isinstance(output, Ask)]
    asker.do(agent._done())
    assert [type(answer) for answer in answers] == [Unavailable]


def test_what_lies_damaged_on_a_shelf_keeps_no_page_from_a_joiner() -> None:
    """Pages are sent as they lie there; one that cannot be read would be sent for ever."""
    world = cluster(3, shards=1)
    names = [Key(f"{number:032x}") for number in range(20)]
    for name in names:
        made = WorkerStore(world.hosts["s1"]).commit(created(world, name))
        assert isinstance(outcome(world, made), Applied)
    for name in ("s1", "s2"):
        shelf = world.hosts[name].shelf

        def packed(key: Key, whole: Any = shelf.packed) -> Raw | None:
            return Raw(b"\x97") if key == names[7] else whole(key)

        shelf.packed = packed  # type: ignore[method-assign]
    world.hosts["s3"].stop(disk=False)
    world.hosts["s3"].start()
    assert world.run(world.now + 20_000, world.calm)
    assert all(world.hosts["s3"].shelf.get(name) for name in names)


def test_a_sign_out_of_more_than_are_remembered_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Waiting for an ending that was forgotten ended the agent: 10 000 under way were enough."""
    monkeypatch.setattr(news, "REMEMBERED", 5)
    world = cluster(3)
    store = WorkerStore(world.hosts["s1"])
    for number in range(60):
        made = store.commit(created(world, Key(f"{number:032x}"), "ann"))
        assert isinstance(outcome(world, made), Applied)
    ending = Ending(Reason.REVOKED, WALL_MS + world.now, b"everyone")
    assert outcome(world, store.end_all("ann", ending)) == 60
    assert all(
        isinstance(reads(host, Key(f"{number:032x}")), Mark)
        for host in world.hosts.values()
        for number in range(60)
    )


def test_what_an_answer_carried_is_acknowledged_along_with_the_next() -> None:
    """One frame in five less: the third owner has said by itself that it has it."""
    world = cluster(3)
    host = world.hosts["s1"]
    store, sent = WorkerStore(host), Counter[str]()
    names = [Key(f"{number:032x}") for number in range(30)]
    for name in names:
        assert isinstance(outcome(world, store.commit(created(world, name))), Applied)
    for other in world.hosts.values():
        assert other.agent is not None
        sent.subtract({kind: each[0] for kind, each in other.agent._state.sent.items()})
    for name in names * 4:
        delta = Delta(name, world.rng.randbytes(8), WALL_MS + world.now, sets={"a": b"2"})
        assert isinstance(outcome(world, store.commit(delta)), Applied)
    for other in world.hosts.values():
        assert other.agent is not None
        sent.update({kind: each[0] for kind, each in other.agent._state.sent.items()})
    assert sent["Carrying"] > 40
    assert sent["Ack"] < sent["Put"] + sent["Carrying"] / 2
    world.run(world.now + 1000)
    assert not any(
        other.agent._claims.followers.behind(name, shard)
        for other in world.hosts.values()
        if other.agent is not None
        for name in world.hosts
        for shard in range(8)
    )


def test_an_empty_server_that_came_first_takes_the_others_records_in_pages() -> None:
    world = World(1, ["s1", "s2", "s3"], shards=1)
    for name in ("s1", "s2"):
        world.hosts[name].skew_ms = 0
        world.hosts[name].start()
    assert world.run(20_000, world.calm)
    store = WorkerStore(world.hosts["s1"])
    for number in range(120):
        made = store.commit(created(world, Key(f"{number:032x}")))
        assert isinstance(outcome(world, made), Applied)
    for name in ("s1", "s2"):
        world.hosts[name].stop()
    world.hosts["s3"].skew_ms = 0
    world.hosts["s3"].start()
    assert world.run(world.now + 20_000, world.calm)

    def come() -> None:
        for name in ("s1", "s2"):
            world.hosts[name].start()
        assert world.run(world.now + 30_000, world.calm)

    messages, _ = counting(world, come)
    assert messages["Fill"] < 20
    for host in world.hosts.values():
        assert all(host.shelf.get(Key(f"{number:032x}")) for number in range(120))


def test_a_slow_server_is_not_asked_for_a_hundred_thousand_keys_every_moment() -> None:
    """Each question is a walk through all of them: on a busy machine they did nothing else."""
    world = cluster(3)
    host = world.hosts["s1"]
    store = WorkerStore(host)
    for number in range(12):
        made = store.commit(created(world, Key(f"{number:032x}"), "ann"))
        assert isinstance(outcome(world, made), Applied)
    first = authority_of(world, Key("principal/ann"))  # asked who is about to sign in
    slow = next(other for other in world.hosts.values() if other not in (host, first))
    slow.pause(1500, workers=False)
    ending = Ending(Reason.REVOKED, WALL_MS + world.now, b"everyone")

    def sign_out() -> None:
        assert outcome(world, store.end_all("ann", ending)) == 12

    messages, _ = counting(world, sign_out)
    assert 2 <= messages["Holders"] <= 6


def test_who_came_back_with_nothing_before_its_link_broke_has_its_copies_at_once() -> None:
    """Its beat alone tells of the new life; a shard that is written to meanwhile hides nothing."""
    world = cluster(2, round_ms=60_000, shards=1)
    key, busy = key_of("x"), key_of("y")
    first = authority_of(world, key)
    other, store = other_than(world, first), WorkerStore(first)
    for each in (key, busy):
        outcome(world, store.commit(created(world, each)))
    world.run(world.now + 1000, world.calm)
    other.stop(disk=False, silently=True)
    other.start()

    def writes(number: int) -> None:
        spawn(store.commit(changed(world, busy, n=b"%d" % number)), lambda *_: None)
        if number:
            world.after(3, lambda: writes(number - 1))

    writes(600)
    assert world.run(world.now + 1500, lambda: key in other.shelf.copies)
