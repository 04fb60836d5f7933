"""Servers restarted one after the other under load, all at once, and one that is alone."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack

import pytest

from scenarios.browser import Browser
from scenarios.conftest import Figure
from scenarios.site import PATIENT, Site, eventually
from scenarios.visitors import Failure, Visitor, visiting

RESTARTS = int(os.environ.get("SAMESESSION_RESTARTS", "20"))
VISITORS = 9
IDLE = 20

pytestmark = pytest.mark.timeout(900)


def restart(site: Site, name: str) -> None:
    """As a deploy does: drain, ask it to end, wait until it is used again."""
    site.fleet.drain(name)
    eventually(lambda: site.fleet.control.status()[name].state == "draining")
    eventually(lambda: not site.fleet.control.status()[name].requests_now)
    stop(site, name)
    site.fleet.undrain(name)
    site.fleet.wait_ready(name)


def stop(site: Site, name: str) -> None:
    """SIGTERM, and wait until it has gone."""
    child, before = site.fleet._child(name), site.fleet.pid(name)
    os.kill(before, signal.SIGTERM)
    eventually(lambda: child.pid != before and not child.ready.is_set())


def idle_ones(site: Site, stack: ExitStack) -> list[Visitor]:
    """Visitors who come back at the end only."""
    idle = [Visitor(site, f"idle{seed}", seed) for seed in range(IDLE)]
    for visitor in idle:
        stack.callback(visitor.browser.close)
        visitor._log_in()
        assert visitor._ask("PUT", "/api/session/k0", json=[visitor.name, 1]) is not None
        visitor.kept["k0"] = [visitor.name, 1]
    return idle


def signed_out(site: Site, stack: ExitStack) -> list[Browser]:
    """Cookies of users who signed out."""
    over = []
    for number in range(IDLE):
        with Browser(site) as ann:
            ann.login(f"over{number}")
            over.append(stack.enter_context(ann.twin()))
            ann.logout()
    return over


def judge(visitors: list[Visitor]) -> tuple[int, list[Failure]]:
    """Nobody was signed out, nothing acknowledged is lost; returns answers and failures."""
    for visitor in visitors:
        assert visitor.signed_out == 0
        assert (visitor.lost, visitor.foreign, visitor.wrong) == ([], [], [])
    failures = [failure for visitor in visitors for failure in visitor.failures]
    assert sum(visitor.excused for visitor in visitors) <= len(failures)
    return sum(visitor.answered for visitor in visitors), failures


@pytest.mark.parametrize(
    ("kind", "affinity"), [("cluster", "none"), ("cluster", "cookie"), ("redis", "none")]
)
def test_a_rolling_restart_again_and_again_is_noticed_by_nobody(
    kind: str, affinity: str, figure: Figure
) -> None:
    with Site(PATIENT[kind], affinity=affinity) as site, ExitStack() as stack:
        idle, over = idle_ones(site, stack), signed_out(site, stack)
        visitors = [Visitor(site, f"v{seed}", seed) for seed in range(VISITORS)]
        with visiting(visitors):
            for number in range(RESTARTS):
                restart(site, site.names[number % 3])
        assert [v.failures[-1] for v in idle if not v._read()] == []
        assert all(ann.is_nobody() for ann in over)
        answered, failures = judge([*visitors, *idle])
        figure(
            f"{RESTARTS} restarts of servers, one after the other, {answered} requests of "
            f"{VISITORS} jars, {IDLE} idle ones: 0 logouts, 0 lost writes, 0 of {IDLE} who signed "
            f"out shown; {len(failures)} requests failed"
        )
        assert answered >= 20 * RESTARTS
        # A draining server keeps whom its cookie pins: a request may come as it stops listening.
        assert affinity == "cookie" or failures == []
        assert len(failures) <= RESTARTS
        assert [failure for failure in failures if failure.by_server] == []
        assert site.complaints() == []


@pytest.mark.parametrize("servers", [3, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_whole_cluster_that_ends_comes_back_with_everything(
    servers: int, how: signal.Signals, figure: Figure
) -> None:
    with Site(PATIENT["cluster"], servers=servers) as site, ExitStack() as stack:
        idle, over = idle_ones(site, stack), signed_out(site, stack)
        visitors = [Visitor(site, f"v{seed}", seed) for seed in range(VISITORS)]
        times = 3
        with visiting(visitors):
            for _ in range(times):
                time.sleep(1)
                for name in site.names:
                    if how == signal.SIGKILL:
                        site.fleet.kill(name)
                    else:
                        stop(site, name)
                site.fleet.wait_ready()
            time.sleep(1)
        assert [v.failures[-1] for v in idle if not v._read()] == []
        assert all(ann.is_nobody() for ann in over)
        answered, failures = judge([*visitors, *idle])
        figure(
            f"a cluster of {servers}, all ended by {how.name} {times} times, {answered} requests "
            f"answered, {len(failures)} not: 0 logouts, 0 writes lost, 0 of {IDLE} who signed "
            "out shown"
        )
        assert answered >= 100
        assert site.complaints() == []
