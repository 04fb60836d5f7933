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
from scenarios.site import PATIENT, PROVE, Site
from scenarios.visitors import Failure, Visitor, visiting

KILLS = int(os.environ.get("SAMESESSION_KILLS", "12" if PROVE else "2"))
VISITORS = 9
STRICT = os.environ.get("SAMESESSION_STRICT_KILLS") == "1"
"""Fails also for requests that the balancer ended when it marked the dead server down."""

pytestmark = pytest.mark.timeout(60 + 15 * KILLS)  # starts take seconds on a busy machine


@dataclass(frozen=True)
class Kill:
    """A server died between two moments, and the balancer noticed between two others."""

    server: str
    before: float
    after: float
    still_up: float
    down: float

    def explains(self, failure: Failure) -> bool:
        """Whether a request that failed was in flight when the server died."""
        return failure.sent < self.after and failure.ended > self.before

    def was_noticed_during(self, failure: Failure) -> bool:
        """Whether it was in flight when the balancer marked the server down.

        HAProxy's ``on-marked-down shutdown-sessions`` then ends what is just being refused by the
        dead server, instead of sending it to another one.
        """
        return failure.sent < self.down and failure.ended > self.still_up


def kill(site: Site, name: str) -> Kill:
    before = time.monotonic()
    site.fleet.kill(name)
    after = still_up = time.monotonic()
    while site.fleet.control.status()[name].state != "down":
        assert time.monotonic() < after + 20
        still_up = time.monotonic() - 0.05
        time.sleep(0.005)
    return Kill(name, before, after, still_up, time.monotonic())


@pytest.fixture(
    scope="module", params=["redis", "cluster", "postgresql", *(["sqlite"] if PROVE else [])]
)
def mortal(request: pytest.FixtureRequest) -> Iterator[Site]:
    with Site(PATIENT[request.param]) as site:
        yield site
        assert site.complaints() == []


def test_the_next_request_after_its_servers_death_has_the_write_and_the_login(
    mortal: Site, figure: Figure
) -> None:
    site, kept = mortal, 0
    jars = 50
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
    mortal: Site, figure: Figure
) -> None:
    site, kills = mortal, []
    visitors = [Visitor(site, f"v{seed}", seed) for seed in range(VISITORS)]
    with visiting(visitors):
        time.sleep(1)  # load before, between and after
        for victim in site.names:
            kills.append(kill(site, victim))
            site.fleet.wait_ready()
    failures = [failure for visitor in visitors for failure in visitor.failures]
    in_flight = [f for f in failures if any(kill.explains(f) for kill in kills)]
    # S6: until its user signs in again, a session cut in two answers writes by 503.
    cut = [f for f in failures if f.by_server and f.half_way and f not in in_flight]
    late = [f for f in failures if f not in in_flight and f not in cut]
    noticed = [f for f in late if any(kill.was_noticed_during(f) for kill in kills)]
    answered = sum(visitor.answered for visitor in visitors)
    excused = sum(visitor.excused for visitor in visitors)
    figure(
        f"C kill -9 of {len(kills)} servers, {answered} requests of {VISITORS} jars: 0 logouts, "
        f"0 acknowledged writes lost; failed: {len(in_flight)} in flight at a kill, "
        f"{len(noticed)} when the balancer marked the server down, {len(cut)} writes of "
        f"{excused} users whom a login that was cut in two had signed out"
    )
    for visitor in visitors:
        assert set(visitor.served_by) == {"s1", "s2", "s3"}  # all of them were at work
        assert visitor.signed_out == 0, "\n".join(visitor.story)
        assert visitor.lost == []
        assert visitor.foreign == []
        assert visitor.wrong == []
    assert answered >= 300  # it was exercised
    assert late == noticed
    if STRICT:
        assert noticed == []
    # One request at a time each, and one more that the dying server's socket still took. On a
    # crowded machine the balancer may notice before the killer is told: those are counted above.
    for kill_ in kills:
        cut_short = [f for f in failures if kill_.explains(f)]
        assert sum(not kill_.was_noticed_during(f) for f in cut_short) <= 2 * VISITORS
    assert excused <= len(in_flight)


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
        assert all(death.explains(f) or death.was_noticed_during(f) for f in failures)
        assert len(failures) <= len(theirs)
        assert site.complaints() == []
