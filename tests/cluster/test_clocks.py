"""Servers whose clocks differ, as they may by a minute: when something ended is told by each's own.

A cookie whose record ended less than 30 s ago is *quiet* (S6), so who takes the time of an end from
another server's clock forgets too soon, or remembers too long.
"""

from __future__ import annotations

from typing import Any

import pytest

from samesession.cluster.settings import Now
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
    holding_news_back,
    outcome,
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


def ago_ms(host: Host, mark: Any) -> int:
    assert isinstance(mark, Mark)
    return host.now.wall_ms - mark.at_ms


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
        assert 0 <= ago_ms(asker, refused.mark) < 1000
        again = Ending(Reason.REVOKED, asker.now.wall_ms, b"once more")
        assert 0 <= ago_ms(asker, outcome(world, store.end(key, again))) < 1000
        assert reads(asker, key) is None
        assert 0 <= ago_ms(asker, outcome(world, store.load(key))) < 1000
    assert 0 <= ago_ms(asker, reads(asker, key)) < 1000


@pytest.mark.parametrize("ahead_ms", [40_000, -40_000])
def test_what_was_emptied_ended_by_the_clock_of_the_authority(ahead_ms: int) -> None:
    world, key, first, asker = apart(ahead_ms)
    outcome(world, WorkerStore(first).commit(created(world, key)))
    last = Delta(key, b"the last", asker.now.wall_ms, removes=("a",))
    emptied = outcome(world, WorkerStore(asker).commit(last))
    assert isinstance(emptied, Ended)
    assert emptied.mark.reason is Reason.EMPTIED
    assert 0 <= ago_ms(asker, emptied.mark) < 1000
    assert 0 <= ago_ms(first, reads(first, key)) < 1000


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
