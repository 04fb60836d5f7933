"""Servers whose clocks differ, as they may by a minute: when something ended is told by each's own.

A cookie whose record ended less than 30 s ago is *quiet* (S6), so who takes the time of an end from
another server's clock forgets too soon, or remembers too long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from samesession.cluster.settings import Now
from samesession.cluster.wire import Beat
from samesession.commits import Tools
from samesession.counts import Counts
from samesession.lifecycle import Lifecycle
from samesession.record import Delta, Ended, Ending, Key, Mark, Reason, Record
from samesession.session import Session
from samesession.settings import Limits
from samesession.token import key_of
from tests.cluster.histories import SIGNER
from tests.cluster.simulator import Host, WorkerStore, World, reads, spawn
from tests.cluster.test_replica import (
    authority_of,
    changed,
    cluster,
    created,
    ending,
    holding_news_back,
    other_than,
    outcome,
    reading,
)


def clock_of(host: Host, *, ahead_ms: int) -> None:
    host.skew_ms, host._now = ahead_ms, Now(0, 0)
    host.world.run(host.world.now + 5000)  # the others hear of it from its beats


def without_a_copy(world: World, key: Key) -> tuple[Host, Host]:
    """A record's authority, and a server that has no copy of it and gets none."""
    first = authority_of(world, key)
    owners = first.agent._claims.owners(first.agent._state.shard_of(key))
    others = (host for host in world.hosts.values() if host.name not in owners)
    return first, next(host for host in others if key not in host.shelf.copies)


def apart(ahead_ms: int) -> tuple[World, Key, Host, Host]:
    """A world, a key, its authority, and a server with another clock that gets no copy of it."""
    world, key = cluster(5, copies=2), key_of("x")
    first, asker = without_a_copy(world, key)
    clock_of(asker, ahead_ms=ahead_ms)
    return world, key, first, asker


def lately(host: Host, mark: Any) -> bool:
    """Whether something ended a moment ago by a server's clock."""
    assert isinstance(mark, Mark)
    return abs(host.now.wall_ms - mark.at_ms) < 1000


@pytest.mark.parametrize("ahead_ms", [40_000, -40_000])
def test_whatever_answer_tells_of_an_end_tells_when_by_the_clock_of_who_asked(
    ahead_ms: int,
) -> None:
    world, key, first, asker = apart(ahead_ms)
    store, never = WorkerStore(asker), list[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asker, "receive", holding_news_back(world, asker, key, never))
        outcome(world, WorkerStore(first).commit(created(world, key)))
        ended = Ending(Reason.LOGOUT, first.now.wall_ms, b"logged.out")
        outcome(world, WorkerStore(first).end(key, ended))
        refused = outcome(world, store.commit(changed(world, key, b=b"2")))
        assert isinstance(refused, Ended)
        assert lately(asker, refused.mark)
        again = Ending(Reason.REVOKED, asker.now.wall_ms, b"once more")
        assert lately(asker, outcome(world, store.end(key, again)))
        assert reads(asker, key) is None
        assert lately(asker, outcome(world, store.load(key)))
    assert lately(asker, reads(asker, key))


@pytest.mark.parametrize("ahead_ms", [40_000, -40_000])
def test_an_end_is_of_the_moment_in_which_its_authority_decides_it(ahead_ms: int) -> None:
    """Whatever the clock of who asks, which it may not know yet."""
    world, key = cluster(3), key_of("x")
    first = authority_of(world, key)
    asker = other_than(world, first)
    asker.skew_ms, asker._now = ahead_ms, Now(0, 0)  # and no beat has told
    outcome(world, WorkerStore(first).commit(created(world, key, "ann")))
    logout = Ending(Reason.LOGOUT, asker.now.wall_ms, b"logout..")
    outcome(world, WorkerStore(asker).end(key, logout))
    assert lately(first, reads(first, key))
    other = key_of("y")
    outcome(world, WorkerStore(first).commit(created(world, other, "ann")))
    revoked = Ending(Reason.REVOKED, asker.now.wall_ms, b"everyone")
    assert outcome(world, WorkerStore(asker).end_all("ann", revoked)) == 1
    second = authority_of(world, other)
    assert second is not asker
    assert lately(second, reads(second, other))


@pytest.mark.parametrize("ahead_ms", [40_000, -40_000])
def test_what_was_emptied_ended_by_the_clock_of_the_authority(ahead_ms: int) -> None:
    world, key, first, asker = apart(ahead_ms)
    outcome(world, WorkerStore(first).commit(created(world, key)))
    last = Delta(key, b"the last", asker.now.wall_ms, removes=("a",))
    emptied = outcome(world, WorkerStore(asker).commit(last))
    assert isinstance(emptied, Ended)
    assert emptied.mark.reason is Reason.EMPTIED
    assert lately(asker, emptied.mark)
    assert lately(first, reads(first, key))


def deaf_to_beats(host: Host) -> Callable[..., None]:
    """Beats do not reach a server; all else does."""
    receive = host.receive
    return lambda event: reading(receive, event, lambda _, message: not isinstance(message, Beat))


def test_a_copy_of_an_end_waits_until_its_senders_clock_is_known() -> None:
    """An agent that starts anew is compared with before it has heard a beat."""
    world, key = cluster(3), key_of("x")
    first = authority_of(world, key)
    anew = other_than(world, first)
    outcome(world, WorkerStore(first).commit(created(world, key)))
    anew.stop(workers=False)
    world.run(world.now + 200)
    outcome(world, WorkerStore(first).end(key, ending(world)))
    anew.skew_ms, anew._now = 40_000, Now(0, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anew, "receive", deaf_to_beats(anew))
        anew.start()
        assert anew.agent is not None
        assert world.run(world.now + 2000, lambda: bool(anew.agent.counts.get("clock_unknown")))
        assert reads(anew, key) is None
    assert world.run(world.now + 2000, lambda: isinstance(reads(anew, key), Mark))
    assert abs(anew.now.wall_ms - reads(anew, key).at_ms) < 3000


def test_a_clock_is_known_while_its_server_comes_back() -> None:
    """Its next beat tells anew; until then what the last ones told counts."""
    _, _, first, asker = apart(40_000)
    members = asker.agent._members
    assert abs(members.skew_of(first.name) + 40_000) < 100
    for up in (False, True):
        asker.receive(lambda agent, up=up: agent.linked(asker.now, first.name, up=up))
        assert abs(members.skew_of(first.name) + 40_000) < 100
    clock_of(first, ahead_ms=40_000)
    assert abs(members.skew_of(first.name)) < 100


def test_a_rotation_does_not_outrun_a_logout_on_a_server_whose_clock_is_ahead() -> None:
    """It has heard nothing of the rotation, and what it is told of it must not seem long ago."""
    world = cluster(5, copies=2)

    def core(host: Host) -> Lifecycle:
        clock, random = lambda: host.now.wall_ms, world.rng.randbytes
        return Lifecycle(WorkerStore(host), Tools(SIGNER, Limits(), Counts(), clock, random))

    async def does(host: Host, verb: str, *args: str, cookie: str = "") -> Session:
        lifecycle = core(host)
        session = await lifecycle.open(cookie.encode() or None)
        getattr(session, verb)(*args)
        await lifecycle.finish(session)
        return session

    signed_in = outcome(world, does(world.hosts["s1"], "login", "ann"))
    cookie, old = signed_in._life.cookie, key_of(signed_in._life.token.id)
    one, asker = without_a_copy(world, old)
    clock_of(asker, ahead_ms=40_000)
    rotated: list[Session] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asker, "receive", holding_news_back(world, asker, old))
        spawn(does(one, "rotate", cookie=cookie), lambda session, _fault: rotated.append(session))
        world.run(world.now + 30)
        (new,) = (held.handle for held in outcome(world, core(one).held_by("ann")))
        assert new != old
        assert not rotated  # it waits until everybody has heard of it
        assert isinstance(reads(authority_of(world, new), new), Record)
        outcome(world, does(asker, "logout", cookie=cookie))
    for host in world.hosts.values():
        assert not isinstance(reads(host, new), Record)
