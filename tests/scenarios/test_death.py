"""PROMISES scenario 11, and kill -9 of servers under load: what users notice of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle

import pytest
from scenarios.browser import Browser
from scenarios.conftest import Figure
from scenarios.site import Site
from scenarios.visitors import Failure, Visitor, visiting

KILLS = int(os.environ.get("SAMESESSION_KILLS", "4"))
VISITORS = 9


@dataclass(frozen=True)
class Kill:
    """A server died between these two moments."""

    server: str
    before: float
    after: float

    def explains(self, failure: Failure) -> bool:
        """Whether a request that failed was in flight when the server died."""
        return failure.sent < self.after and failure.ended > self.before


def kill(site: Site, name: str) -> Kill:
    before = time.monotonic()
    site.fleet.kill(name)
    return Kill(name, before, time.monotonic())


@pytest.fixture(scope="module")
def mortal_redis() -> Iterator[Site]:
    with Site("redis://") as site:
        yield site
        assert site.complaints() == []


def test_the_next_request_after_its_servers_death_has_the_write_and_the_login(
    mortal_redis: Site, figure: Figure
) -> None:
    site, kept = mortal_redis, 0
    jars = 25
    with ExitStack() as stack:
        everybody = [stack.enter_context(Browser(site)) for _ in range(jars)]
        for number, ann in enumerate(everybody):
            ann.login(f"ann{number}")
        for round_, victim in zip(range(KILLS), cycle(site.names), strict=False):
            for ann in everybody:
                assert ann.put("n", round_, victim).json()["server"] == victim
            site.fleet.kill(victim)
            for number, ann in enumerate(everybody):
                seen = ann.read()
                kept += (seen["principal"], seen["data"]) == (f"ann{number}", {"n": round_})
            site.fleet.wait_ready()
    assert kept == KILLS * jars
    figure(f"11 server death: {kept} of {KILLS * jars} had the write and the login")


def test_under_load_a_killed_server_costs_what_was_in_flight_on_it_and_nothing_else(
    mortal_redis: Site, figure: Figure
) -> None:
    site, kills = mortal_redis, []
    visitors = [Visitor(site, f"v{seed}", seed) for seed in range(VISITORS)]
    with visiting(visitors):
        time.sleep(1)  # load before, between and after
        for victim in site.names:
            kills.append(kill(site, victim))
            site.fleet.wait_ready()
            time.sleep(0.4)
    failures = [failure for visitor in visitors for failure in visitor.failures]
    unexplained = [f for f in failures if not any(kill.explains(f) for kill in kills)]
    answered = sum(visitor.answered for visitor in visitors)
    excused = sum(visitor.excused for visitor in visitors)
    figure(
        f"C kill -9 of {len(kills)} servers, {answered} requests of {VISITORS} jars: 0 logouts, "
        f"0 acknowledged writes lost, {len(failures)} failed (all in flight at a kill; by a login "
        f"cut in two: {excused} signed out)"
    )
    for visitor in visitors:
        assert set(visitor.served_by) == {"s1", "s2", "s3"}  # all of them were at work
        assert visitor.signed_out == 0
        assert visitor.lost == []
        assert visitor.foreign == []
        assert visitor.wrong == []
    assert answered >= 300  # it was exercised
    assert unexplained == []
    # One request at a time each: no more can have been in flight.
    assert all(sum(map(kill.explains, failures)) <= VISITORS for kill in kills)
    assert excused <= len(failures)


def test_sticky_users_of_a_killed_server_start_anew_once_and_nobody_else_notices(
    figure: Figure,
) -> None:
    with Site("sticky://") as site:
        visitors = [
            Visitor(site, f"v{seed}", seed, may_start_anew=True) for seed in range(VISITORS)
        ]
        with visiting(visitors):
            time.sleep(1)
            pinned = {visitor.name: visitor.pin for visitor in visitors}
            death = kill(site, "s1")
            site.fleet.wait_ready()
            time.sleep(1.5)  # it is back: nobody must start anew a second time
        theirs = [visitor for visitor in visitors if pinned[visitor.name] == "s1"]
        others = [visitor for visitor in visitors if pinned[visitor.name] != "s1"]
        failures = [failure for visitor in visitors for failure in visitor.failures]
        answered = sum(visitor.answered for visitor in visitors)
        figure(
            f"C sticky, kill -9 of s1, {answered} requests: of its {len(theirs)} users "
            f"{sum(v.anew for v in theirs)} started anew, {len(failures)} requests failed; "
            f"of {len(others)} others nobody noticed"
        )
        assert theirs
        assert others
        for visitor in visitors:
            assert (visitor.lost, visitor.foreign, visitor.wrong) == ([], [], [])
            assert visitor.signed_out == 0
        for visitor in others:
            assert (visitor.anew, visitor.excused, visitor.failures) == (0, 0, [])
            assert set(visitor.served_by) == {pinned[visitor.name]}
        for visitor in theirs:
            assert visitor.anew + visitor.excused <= 1
        assert sum(visitor.anew + visitor.excused for visitor in theirs) > 0
        assert all(death.explains(failure) for failure in failures)
        assert len(failures) <= len(theirs)
        assert site.complaints() == []
