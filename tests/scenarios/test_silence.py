"""How long a cluster over HTTP is held up by a server that dies, falls silent or hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from scenarios.browser import Browser
from scenarios.conftest import Figure
from scenarios.site import PATIENT, Site, eventually
from scenarios.test_cluster import Cluster, both_paused, killed, paused, stopped

LEASE_S = 3.0
CROWDED_S = 3.0
"""What a machine that others use may add to any figure here; the figures are printed."""

JARS = 16
LOGOUTS = 5

pytestmark = pytest.mark.timeout(300)

Hurt = Callable[[Cluster, str], Callable[[], object]]

FAULTS: dict[str, Hurt] = {
    "server paused": lambda cluster, name: paused(cluster.site, name),
    "agent paused": lambda cluster, name: stopped(cluster.agent(name)),
    "server and agent paused": both_paused,
    "agent killed": lambda cluster, name: killed(cluster.agent(name)),
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Site(PATIENT["cluster"]) as site:
        made = Cluster(site, tmp_path_factory.mktemp("none") / "upgraded")
        yield made
        made.close()
        assert site.complaints() == []


def whole(cluster: Cluster, name: str) -> bool:
    """Whether a server has its lease and hears all others: a second fault is another matter.

    A server that falls silent again before the others have their leases back is waited for 5 s.
    """
    told = cluster.status(name)
    return told["lease_ms"] > 1000 * LEASE_S / 2 and len(told["members"]) == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_a_logout_waits_for_the_lease_of_a_server_that_hangs_and_no_longer(
    fault: str, cluster: Cluster, figure: Figure
) -> None:
    site, took = cluster.site, list[float]()
    for number in range(LOGOUTS):
        eventually(lambda: all(whole(cluster, name) for name in site.names))
        with Browser(site) as ann:
            ann.login("ann", "s1")
            ann.everywhere()
            heal = FAULTS[fault](cluster, "s3")
            try:
                began = time.monotonic()
                eventually(lambda a=ann: a.ask("POST", "/api/logout", at="s1").status_code == 200)  # type: ignore[misc]
                took.append(time.monotonic() - began)
            finally:
                heal()
            site.fleet.wait_ready()
            eventually(ann.is_nobody)
            assert number + 1 == len(took)
    assert max(took) < LEASE_S + CROWDED_S
    figure(
        f"logout over HTTP, {LEASE_S:.0f} s of lease: {max(took):.2f} s at most of {len(took)}, "
        f"median {sorted(took)[len(took) // 2]:.2f} s"
    )


@pytest.mark.parametrize(("how", "within_s"), [("killed", 0.2), ("silent", 3.0)])
def test_writes_go_on_when_a_server_dies(
    how: str, within_s: float, cluster: Cluster, figure: Figure
) -> None:
    """Those of sessions whose authority it was, beside the others: through servers that live.

    Each jar writes ten times a second. Were they as fast as they can, two cores would be busy with
    that alone, and what the death costs could not be told from it.
    """
    site, over = cluster.site, threading.Event()

    def writing(ann: Browser, at: str) -> list[tuple[float, float]]:
        writes = []
        while not over.is_set():
            began = time.monotonic()
            while ann.ask("PUT", "/api/session/n", at=at, json=len(writes)).status_code != 200:
                time.sleep(0.01)
            writes.append((began, time.monotonic()))
            time.sleep(0.1)
        return writes

    with ExitStack() as stack, ThreadPoolExecutor(JARS) as pool:
        jars = [stack.enter_context(Browser(site)) for _ in range(JARS)]
        for number, ann in enumerate(jars):
            ann.login(f"ann{number}")
            while number < JARS // 3 and cluster.authority(ann) != "s3":
                ann.login(f"ann{number}")
        theirs = [cluster.authority(ann) == "s3" for ann in jars]
        written = [pool.submit(writing, ann, ("s1", "s2")[n % 2]) for n, ann in enumerate(jars)]
        time.sleep(2)
        hurt_at = time.monotonic()
        heal = site.fleet.kill("s3") or site.fleet.wait_ready if how == "killed" else None
        heal = heal or both_paused(cluster, "s3")
        time.sleep(LEASE_S + 2)
        over.set()
        writes = [future.result(30) for future in written]
        heal()
        site.fleet.wait_ready()

    def longest(*, of: bool, since: float, until: float) -> float:
        """Of the writes that were under way at some moment between the two."""
        them = [one for one, died in zip(writes, theirs, strict=True) if died == of]
        return max(end - at for one in them for at, end in one if end > since and at < until)

    waited = [longest(of=of, since=hurt_at, until=hurt_at + within_s) for of in (True, False)]
    before = longest(of=False, since=0, until=hurt_at - 0.5)
    figure(
        f"a server {how}: over HTTP writes of {sum(theirs)} sessions whose authority it was took "
        f"{waited[0]:.2f} s at most, those of {JARS - sum(theirs)} others {waited[1]:.2f} s "
        f"({before:.2f} s before it)"
    )
    assert max(waited) < within_s + CROWDED_S
