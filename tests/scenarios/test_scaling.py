"""Three servers become six and then two under load: nobody is logged out, nothing is lost."""

from __future__ import annotations

import time

import pytest

from scenarios.conftest import Figure
from scenarios.site import PATIENT, PROVE, Site
from scenarios.visitors import Visitor, visiting

VISITORS = 9
BETWEEN_S = 3.0 if PROVE else 0.5
COMING, GOING = ("s4", "s5", "s6"), ("s1", "s2", "s3", "s5")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["redis", "postgresql", "cluster"] if PROVE else ["postgresql"])
def test_servers_come_and_go_under_load(kind: str, figure: Figure) -> None:
    with Site(PATIENT[kind]) as site:
        visitors = [Visitor(site, f"v{seed}", seed) for seed in range(VISITORS)]
        idle = [Visitor(site, f"idle{seed}", seed) for seed in range(20)]
        for visitor in idle:
            visitor._log_in()
            visitor._ask("PUT", "/api/session/k0", json=[visitor.name, 1])
            visitor.kept["k0"] = [visitor.name, 1]
        with visiting(visitors):
            time.sleep(BETWEEN_S)
            for name in COMING:
                site.fleet.add(name)
                time.sleep(BETWEEN_S)
            for name in GOING:
                site.fleet.remove(name)
                time.sleep(BETWEEN_S)
            assert set(site.fleet.control.status()) == {"s4", "s6"}
            time.sleep(BETWEEN_S)
        for visitor in idle:
            assert visitor._read()
            visitor.browser.close()
        answered = sum(visitor.answered for visitor in visitors)
        failures = [failure for visitor in (*visitors, *idle) for failure in visitor.failures]
        figure(
            f"scaling 3, 6, 2 servers under load: {answered} requests of {VISITORS} jars and "
            f"{len(idle)} idle ones: 0 logouts, 0 lost writes, {len(failures)} failed"
        )
        assert answered >= 100  # it was exercised
        for name in (*site.names, *COMING):
            assert any(name in visitor.served_by for visitor in visitors), f"{name} served nobody"
        for visitor in (*visitors, *idle):
            assert (visitor.signed_out, visitor.excused) == (0, 0)
            assert (visitor.lost, visitor.foreign, visitor.wrong) == ([], [], [])
        assert failures == []
        assert site.complaints() == []
