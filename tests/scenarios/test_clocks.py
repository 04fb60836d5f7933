"""L6: the servers of a cluster with clocks minutes apart, which jump, and a day that passes in a
minute: nobody who signed out is shown again, and limits are off by no more than the clocks are."""

from __future__ import annotations

import mmap
import os
import random
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from scenarios.browser import Browser
from scenarios.conftest import Figure
from scenarios.site import PATIENT, Site, eventually
from scenarios.test_cluster import life, probe

ROUNDS = int(os.environ.get("SAMESESSION_ROUNDS", "20"))
JARS = 6
OFF_S = 600
"""A clock is this much ahead, right, or this much behind."""

APART_S = 2 * OFF_S
IDLE_S, LIFETIME_S = 3600, 10_800
STEP_S = 600
SLACK_S = 60
"""For what a busy machine takes between two of our own looks at the clock."""

SWEPT_S = 1.5
"""Marks and records whose time is over are swept once a second."""

pytestmark = pytest.mark.timeout(900)

# libfaketime cannot be used: Python's sleep fails under it (EINVAL, Debian's 0.9.10).
WRONG = """
import mmap, os, struct, time
with open({path!r}, "rb") as file:
    shared = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
right = time.time_ns
place = 8 * int((os.environ.get("SAMESESSION_SERVER") or "s0")[1:] or 0)
def wrong():
    passed, ahead = struct.unpack_from("<q", shared, 0)[0], struct.unpack_from("<q", shared, place)
    return right() + (passed + (ahead[0] if place else 0)) * 10**9
time.time_ns = wrong
time.time = lambda: wrong() / 1e9
"""


class Clocks:
    """What the clocks of all servers show, seen from here."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(8 * 4))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 0)
        self.passed_s = 0

    def set(self, *ahead_s: int) -> None:
        """How much the clocks of s1, s2 and s3 are ahead."""
        struct.pack_into("<3q", self._shared, 8, *ahead_s)

    def jump_to(self, passed_s: int) -> None:
        """So much later, for everybody."""
        self.passed_s = passed_s
        struct.pack_into("<q", self._shared, 0, passed_s)

    def close(self) -> None:
        self._shared.close()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Clocks]]:
    folder = tmp_path_factory.mktemp("clocks")
    clocks = Clocks(folder / "shared")
    (folder / "sitecustomize.py").write_text(WRONG.format(path=str(folder / "shared")))
    env = {
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "SAMESESSION_IDLE": f"{IDLE_S}s",
        "SAMESESSION_LIFETIME": f"{LIFETIME_S}s",
    }
    with Site(PATIENT["cluster"], env=env) as site:
        yield site, clocks
        assert site.complaints() == []
    clocks.close()


def test_clocks_that_jump_while_users_come_and_go_show_nobody_who_left(
    odd: tuple[Site, Clocks], figure: Figure
) -> None:
    site, clocks = odd
    chance, told, probes, unknown = random.Random(11), {"logins": 0, "logouts": 0}, 0, 0
    with ExitStack() as stack, ThreadPoolExecutor(JARS) as pool:
        staying = [stack.enter_context(Browser(site)) for _ in range(JARS)]
        for number, ann in enumerate(staying):
            ann.login(f"stays{number}")
        for number in range(ROUNDS):
            clocks.set(*chance.choices((-OFF_S, 0, OFF_S), k=3))
            coming = [stack.enter_context(Browser(site)) for _ in range(JARS)]
            for ann in coming:
                ann.put("basket", number, chance.choice(site.names))
            asked = [
                pool.submit(life, ann, count, [*site.names], site.names, told, number)
                for count, ann in enumerate(coming)
            ]
            clocks.set(*chance.choices((-OFF_S, 0, OFF_S), k=3))
            outcomes = [outcome for future in asked for outcome in future.result(60)]
            probes += len(outcomes)
            unknown += sum(what == "unknown" for what, _ in outcomes)
            assert [said for what, said in outcomes if what == "shown"] == []
            for count, ann in enumerate(staying):  # idle is longer than clocks are apart
                for at in site.names:
                    assert ann.read(at)["principal"] == f"stays{count}"
            for ann in coming:
                eventually(ann.is_nobody)
    clocks.set(0, 0, 0)
    assert probes - unknown >= ROUNDS * JARS
    figure(
        f"L6 over HTTP, clocks {OFF_S} s ahead, right or behind that jump: 0 of "
        f"{probes - unknown} probes showed anybody after {told['logouts']} logouts and "
        f"{told['logins']} logins, 0 of {ROUNDS * JARS * 3} reads signed anybody out"
    )


def test_limits_are_off_by_no_more_than_the_clocks_and_marks_outlive_every_cookie(
    odd: tuple[Site, Clocks], figure: Figure
) -> None:
    """The day passes by jumps of all clocks; who is seldom asked for is checked at the end only."""
    site, clocks = odd
    began = clocks.passed_s
    clocks.set(OFF_S, 0, -OFF_S)
    checks = 0
    with ExitStack() as stack:

        def signed_in(name: str) -> list[Browser]:
            jars = [stack.enter_context(Browser(site)) for _ in site.names]
            for ann, at in zip(jars, site.names, strict=True):
                ann.login(name, at)
                ann.put("made", at, at)
            return jars

        active, idle, idler, left = map(signed_in, ("active", "idle", "idler", "left"))
        over = [ann.twin() for ann in left]
        for ann in over:
            stack.callback(ann.close)
        for ann in left:
            ann.logout()
        first_over = LIFETIME_S - APART_S - SLACK_S
        last_over = LIFETIME_S + APART_S + SLACK_S
        for passed in range(STEP_S, last_over + 2 * STEP_S, STEP_S):
            clocks.jump_to(began + passed)
            time.sleep(SWEPT_S)
            for ann in over:
                outcomes = [probe(ann, at) for at in site.names]
                assert "shown" not in [what for what, _ in outcomes], (passed, outcomes)
                checks += len(outcomes)
            for ann in active:
                known = [ann.read(at)["known"] for at in site.names]
                checks += len(known)
                assert all(known) or passed > first_over, (passed, known)
                assert not any(known) or passed < last_over, (passed, known)
            if passed == (IDLE_S - APART_S - SLACK_S) // STEP_S * STEP_S:
                assert all(ann.read(at)["known"] for ann in idle for at in site.names)
            if passed == -(-(IDLE_S + APART_S + SLACK_S) // STEP_S) * STEP_S:
                assert not any(ann.read(at)["known"] for ann in idler for at in site.names)
    clocks.set(0, 0, 0)
    figure(
        f"L6 over HTTP, three clocks {OFF_S} s apart each, idle {IDLE_S} s and absolute "
        f"{LIFETIME_S} s: 0 of {checks} answers off by more than the clocks, 0 ended shown"
    )
