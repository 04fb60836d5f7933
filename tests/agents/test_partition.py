"""L7 and a logout across a cut network, over HTTP: real web servers, each in a network namespace
of its own. Needs root, iproute2 and nftables."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.machines import Jar, Machine, on_machines
from agents.network import eventually
from samesession.cluster import certificates

Figure = Callable[[str], None]

JARS = 20
CUT_S = 10.0
LEAVING = 5
HEALED_S = 5.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "tls"
    certificates.make(folder)
    return folder


def signed_in(machines: list[Machine], number: int) -> list[Jar]:
    jars = [Jar() for _ in range(number)]
    for index, jar in enumerate(jars):
        jar.done(machines[index % 3], "POST", f"/api/login/user{index}")
        jar.done(machines[(index + 1) % 3], "PUT", "/api/session/before", index)
        assert jar.read(machines[(index + 2) % 3])["data"] == {"before": index}
    return jars


def write_on_both_sides(
    machines: list[Machine], here: list[Jar], away: list[Jar], cut: float
) -> tuple[float, float]:
    """Each browser writes a key of its own on each side, and one and the same on both.

    Returns how long after the cut all of the first writes were acknowledged on each side.
    """
    s1, s2, s3 = machines
    first = []
    for at, side, jars in ((s1, "majority", here), (s3, "minority", away)):
        for number, jar in enumerate(jars):
            jar.done(at, "PUT", f"/api/session/{side}", number)
        first.append(time.monotonic() - cut)
    for number, (jar, other) in enumerate(zip(here, away, strict=True)):
        jar.done(s2, "PUT", "/api/session/same", ["here", number])
        other.done(s3, "PUT", "/api/session/same", ["away", number])
    return first[0], first[1]


def still_there(
    machines: list[Machine], here: list[Jar], away: list[Jar], kept: list[dict[str, int]]
) -> None:
    """Each side shows what was written on it."""
    for jar, other, values in zip(here, away, kept, strict=True):
        for seen, side in (
            (jar.read(machines[1]), "minority"),
            (other.read(machines[2]), "majority"),
        ):
            expected = {key: value for key, value in values.items() if key != side}
            assert seen["data"].items() >= expected.items()


def whole(
    machines: list[Machine], jars: list[Jar], kept: list[dict[str, int]], over: list[Jar]
) -> bool:
    """Every machine shows what was written on either side, and nobody who signed out on one."""
    for at in machines:
        for jar, values in zip(jars, kept, strict=True):
            answer = jar.twin().ask(at, "GET", "/api/session")
            if answer.status_code != 200 or not answer.json()["data"].items() >= values.items():
                return False
    return not any(shown(machines, over))


def shown(machines: list[Machine], over: list[Jar]) -> list[str]:
    return [at.name for jar in over for at in machines if jar.twin().read(at)["known"]]


def test_both_sides_of_a_cut_serve_and_nothing_acknowledged_on_one_of_them_vanishes(
    tmp_path: Path, tls: Path, figure: Figure
) -> None:
    with on_machines(3, tmp_path, tls) as (machines, wires):
        s1, s2, s3 = machines
        jars = signed_in(machines, JARS)
        leaving, here = jars[:LEAVING], jars[LEAVING:]
        over = [jar.twin() for jar in leaving]
        kept = [{"before": n + LEAVING, "majority": n, "minority": n} for n in range(len(here))]
        wires.unplug(2)
        cut = time.monotonic()
        away = [jar.twin() for jar in jars]  # the same browsers, on the other side
        first = write_on_both_sides(machines, here, away[LEAVING:], cut)
        for jar, other in zip(leaving, away, strict=False):
            jar.done(s1, "POST", "/api/logout")
            other.done(s3, "PUT", "/api/session/late", 1)  # this side cannot know
        assert shown([s1, s2], over) == [], "each side keeps its word to its own side"
        new = [(Jar(), at) for at in (s1, s3)]
        for jar, at in new:
            jar.done(at, "POST", f"/api/login/new-on-{at.name}")
            jar.done(at, "PUT", "/api/session/basket", at.name)
        still_there(machines, here, away[LEAVING:], kept)
        while time.monotonic() < cut + CUT_S:
            still_there(machines, here, away[LEAVING:], kept)
        assert (s1.linked(), s3.linked()) == ({"s2"}, set())
        wires.plug(2)
        healed = time.monotonic()
        eventually(lambda: whole(machines, here, kept, over), 60)
        took = time.monotonic() - healed
        for number, jar in enumerate(here):
            one, *others = [jar.twin().read(at)["data"] for at in machines]
            assert others == [one, one]
            assert one.pop("same") in (["here", number], ["away", number])
            assert one == kept[number]
        for jar, where in new:
            for seen in [jar.twin().read(at) for at in machines]:
                expected = (f"new-on-{where.name}", {"basket": where.name})
                assert (seen["principal"], seen["data"]) == expected
        for _ in range(10):
            assert shown(machines, over) == []
        assert took < 3 * HEALED_S  # others use this machine, too
        figure(
            f"L7 over HTTP, cut of {CUT_S:.0f} s: every session was written again after "
            f"{first[0]:.1f} s on the majority's side and {first[1]:.1f} s on the other; whole "
            f"{took:.1f} s after the heal: 0 of {2 * len(here)} acknowledged writes vanished, "
            f"0 of {len(over)} logouts forgotten"
        )


def test_with_refuse_a_logout_holds_everywhere_at_once_and_the_minority_says_try_again(
    tmp_path: Path, tls: Path, figure: Figure
) -> None:
    with on_machines(3, tmp_path, tls, "partition=refuse") as (machines, wires):
        s1, s2, s3 = machines
        jars = signed_in(machines, 8)
        wires.unplug(2)
        took, probes = [], 0
        for jar in jars[:4]:
            before = jar.twin()
            began = time.monotonic()
            jar.done(s1, "POST", "/api/logout")
            took.append(time.monotonic() - began)
            for at in machines:
                answer = before.twin().ask(at, "GET", "/api/session")
                probes += 1
                assert answer.status_code in {200, 503}
                assert answer.status_code == 503 or not answer.json()["known"]
        for number, jar in enumerate(jars[4:]):
            jar.done(s2, "PUT", "/api/session/after", number)
            answer = jar.twin().ask(s3, "PUT", "/api/session/lost", 1)
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
            assert jar.twin().ask(s3, "GET", "/api/session").status_code == 503
        assert s3.http.get("/api/plain").status_code == 200, "what needs no session is served"
        wires.plug(2)
        healed = time.monotonic()
        for number, jar in enumerate(jars[4:]):
            assert jar.read(s3)["data"] == {"before": number + 4, "after": number}
        again = time.monotonic() - healed
        figure(
            f"partition=refuse over HTTP: {max(took):.2f} s at most for a logout with a machine "
            f"cut silently, 0 of {probes} probes showed anybody after it; the minority served "
            f"{again:.1f} s after the heal"
        )
