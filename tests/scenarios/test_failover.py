"""Real servers over a primary with sentinels that is lost under load."""

from __future__ import annotations

import os
import threading
import time

import pytest

from samesession.lab.replicated import Sentinelled
from scenarios.browser import Browser
from scenarios.conftest import Figure
from scenarios.site import PROVE, Site
from scenarios.test_counted import Counted
from scenarios.visitors import visiting

LAG_MS = 5
ROUNDS = int(os.environ.get("SAMESESSION_ROUNDS", "5"))
VISITORS = 9
KINDS = ["near", "plain"]
PATIENT = "deadline=1s&wait=3s"


class Prober(threading.Thread):
    """Writes without pause, and notes for how long nothing was answered."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._browser = Browser(site)
        self._browser.login("prober")
        self._over = threading.Event()
        self.longest_s = 0.0

    def run(self) -> None:
        answered, number = time.monotonic(), 0
        with self._browser as browser:
            while not self._over.is_set():
                number += 1
                answer = browser.ask("PUT", "/api/session/n", json=number)
                now = time.monotonic()
                if answer.status_code == 200:
                    self.longest_s = max(self.longest_s, now - answered)
                    answered = now
                self._over.wait(0.02)

    def stop(self) -> None:
        self._over.set()
        self.join(30)


@pytest.mark.skipif(not PROVE, reason="half a minute each: make prove")
@pytest.mark.timeout(120 * ROUNDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_primary_that_is_lost_under_load_logs_nobody_out_and_no_lost_write_goes_unseen(
    kind: str, figure: Figure
) -> None:
    held_up, lost, noticed, repaired, weak, failed = [], 0, 0, 0, 0, 0
    writes = probes = logouts = 0
    for number in range(ROUNDS):
        with (
            Sentinelled(lag_ms=LAG_MS) as engines,
            Site(f"{engines.url}?{PATIENT}" + ("&near=16MB" if kind == "near" else "")) as site,
        ):
            visitors = [
                Counted(site, f"v{seed}", seed) for seed in range(number, number + VISITORS)
            ]
            prober = Prober(site)
            prober.start()
            with visiting([*visitors]):
                time.sleep(1.5)
                engines.lose_primary()
                began = time.monotonic()
                while sum(v.refused for v in visitors) or time.monotonic() < began + 4:
                    assert time.monotonic() < began + 30
                    time.sleep(0.05)
                time.sleep(1)  # and load after it
            prober.stop()
            counts = site.all_counts()
            assert site.complaints() == []
        held_up.append(prober.longest_s)
        hit = [visitor for visitor in visitors if visitor.lost]
        lost += len(hit)
        noticed += counts["lost"]
        repaired += counts["repaired"]
        weak += counts["weak"]
        failed += sum(len(visitor.failures) for visitor in visitors)
        writes += sum(visitor.writes for visitor in visitors)
        probes += sum(visitor.probes for visitor in visitors)
        logouts += sum(visitor.logouts for visitor in visitors)
        for visitor in visitors:
            assert visitor.heard
            assert visitor.signed_out == 0, "\n".join(visitor.story)
            assert visitor.alive == []
            assert visitor.foreign == []
        assert counts["lost"] >= len(hit)
    figure(
        f"E failover over HTTP, {kind}, {ROUNDS} primaries lost: of {writes} acknowledged writes "
        f"those of {lost} of {ROUNDS * VISITORS} jars lost some, {noticed} losses noticed, "
        f"{repaired} repaired; 0 logouts, 0 of {probes} probes alive after {logouts} logouts; "
        f"{weak} answered without a replica, {failed} requests failed; nothing answered for "
        f"{max(held_up):.2f} s at most"
    )
    assert failed > 0  # it was exercised
    assert probes > 0
    assert max(held_up) < 20
