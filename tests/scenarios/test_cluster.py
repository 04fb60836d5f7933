"""A cluster over HTTP in the middle of a rolling upgrade, its clocks apart, its agents and servers
paused and killed: PROMISES scenarios 8 and 13, and L1 and L2 counted."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from samesession._bridge import ready
from samesession.cluster import election, wire
from samesession.cluster.client import STATUS
from samesession.cluster.options import Options
from samesession.cluster.placement import shard_of
from samesession.cluster.thread_line import ThreadLine
from samesession.record import TOKEN_BYTES, Delta, Key
from samesession.settings import Url
from scenarios.browser import Browser
from scenarios.conftest import Figure
from scenarios.site import PROVE, Site, eventually

ROUNDS = int(os.environ.get("SAMESESSION_ROUNDS", "200" if PROVE else "4"))
JARS = 6
IDLE_S = 12
ANYWAY = ("beat", "news", "heard", "missed", "claim", "claimed", "level")
SKEW_S = {"s2": 4, "s3": -4}

pytestmark = pytest.mark.timeout(60 + 20 * ROUNDS)

# s3's agent speaks as the build before this one does; the clocks of s2 and s3 are wrong.
ODD = """
import os, time
right, skew_ns = time.time_ns, {skew}.get(os.environ.get("SAMESESSION_SERVER"), 0) * 10**9
time.time_ns = lambda: right() + skew_ns
time.time = lambda: time.time_ns() / 1e9
if os.environ.get("SAMESESSION_SERVER") == "s3" and not os.path.exists({upgraded!r}):
    from samesession.cluster import wire
    wire.PROTOCOL = 1
"""


class Cluster:
    """A site, and the agents of its servers."""

    def __init__(self, site: Site, upgraded: Path) -> None:
        self.site = site
        self.names = site.names
        self._upgraded = upgraded
        store = site.fleet._supervisor.folder.path / "store"
        self._options = {
            name: Options.of(Url.parse(f"cluster://127.0.0.1{store}"), {"SAMESESSION_SERVER": name})
            for name in self.names
        }
        self._lines = {
            name: ThreadLine(options.socket, lambda: None)
            for name, options in self._options.items()
        }

    def upgrade(self, name: str) -> None:
        """Roll the last server."""
        self._upgraded.touch()
        self.site.fleet.kill(name)
        self.site.fleet.wait_ready()

    def agent(self, name: str) -> int:
        pid = election.holder(self._options[name].lock)
        assert pid is not None
        return pid

    def authority(self, ann: Browser) -> str:
        """Who decides about this browser's session, as s1 knows."""
        shard = shard_of(ann.read("s1")["handle"])
        who: str = self.status("s1")["shards"][str(shard)]["authority"]
        return who

    def ask(self, name: str, body: bytes) -> bytes:
        return ready(self._lines[name].ask(body, 10))

    def status(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.ask(name, STATUS))
        return told

    def sent(self) -> int:
        """Frames between agents, apart from those that come anyway: heartbeats, news, rounds."""
        rows = [row for name in self.names for row in self.status(name)["sent"]]
        return sum(row["frames"] for row in rows if row["sent"] not in ANYWAY)

    def close(self) -> None:
        for line in self._lines.values():
            ready(line.close())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("odd")
    upgraded = folder / "upgraded"
    (folder / "sitecustomize.py").write_text(ODD.format(skew=SKEW_S, upgraded=str(upgraded)))
    env = {"PYTHONPATH": str(folder), "SAMESESSION_IDLE": f"{IDLE_S}s"}
    with Site("cluster://?deadline=2s&size=16MB", env=env) as site:
        made = Cluster(site, upgraded)
        yield made
        made.close()
        assert site.complaints() == []


def test_two_builds_side_by_side_carry_what_they_do_not_know(
    cluster: Cluster, figure: Figure
) -> None:
    """Scenario 13: a key of a later build, and a corrupt one, survive every server's writes."""
    site = cluster.site
    with Browser(site) as ann:
        ann.login("ann", "s1")
        ann.put("good", 1, "s3")
        odd = {
            "later": b"\xc7\x01\x63x",
            "corrupt": b"\xc1",
        }  # an extension nobody knows; no msgpack
        key = Key(ann.read("s2")["handle"])
        delta = Delta(key, os.urandom(TOKEN_BYTES), time.time_ns() // 1_000_000, sets=odd)
        answer = wire.unpack_answer(cluster.ask("s1", wire.pack(wire.CommitDelta(delta))))
        assert isinstance(answer, wire.Committed), (answer, delta)
        assert answer.applied is not None
        for number, at in enumerate((*cluster.names, *cluster.names)):
            ann.put("good", number, at)
            for door in site.doors:
                seen = ann.read(door)
                assert (seen["principal"], seen["data"]) == ("ann", {"good": number})
        spoken = {name: site.counts(name) for name in cluster.names}
        assert any(counts["corrupt"] for counts in spoken.values())  # it is counted, and no more
        before = {name: cluster.status(name)["counts"] for name in cluster.names}
        assert not any(counts.get("wrong_protocol") for counts in before.values())
        cluster.upgrade("s3")
        for number, at in enumerate(cluster.names):
            ann.put("good", number, at)
            assert [seen["data"] for seen in ann.everywhere()] == [{"good": number}] * 4
        loaded = wire.unpack_answer(cluster.ask("s3", wire.pack(wire.Load(key))))
        assert isinstance(loaded, wire.Loaded)
        assert loaded.record is not None
        assert {name: loaded.record.values[name] for name in odd} == odd
    figure("13 rolling deploy, agents of protocols 1 and 2: 0 logouts, unknown keys kept")


def test_reading_costs_a_cluster_ten_writes_at_most(cluster: Cluster, figure: Figure) -> None:
    """Scenario 8; and what was not written sent no frame."""
    with Browser(cluster.site) as ann:
        ann.login("reader")
        for at in cluster.names:
            ann.read(at)
        touched, sent = cluster.site.all_counts()["touched"], cluster.sent()
        began, reads = time.monotonic(), 0
        while time.monotonic() < began + IDLE_S / 3:
            reads += 1
            assert ann.read(cluster.names[reads % 3])["known"]
            time.sleep(0.002)
        took = time.monotonic() - began
        touches, frames = cluster.site.all_counts()["touched"] - touched, cluster.sent() - sent
    due = took / (IDLE_S / 20)
    assert due / 2 <= touches <= 10 * max(1.0, took / (IDLE_S / 3))
    # A touch costs what a commit does, and a server that was not told yet asks the authority.
    assert frames <= 10 * touches + 10
    figure(
        f"8 touch budget: {touches} writes, {frames} frames for {reads} reads at idle {IDLE_S} s"
    )


def test_nobody_is_shown_after_a_logout_or_from_before_a_login_whatever_is_hurt(
    cluster: Cluster, figure: Figure
) -> None:
    """L1 and L2: the hurt server is asked too, while it is hurt and after."""
    site, chance, told = cluster.site, random.Random(7), {"logins": 0, "logouts": 0}
    faults: list[tuple[str, Callable[[str], Callable[[], object]]]] = [
        ("agent paused", lambda name: stopped(cluster.agent(name))),
        ("server paused", lambda name: paused(site, name)),
        ("agent killed", lambda name: killed(cluster.agent(name))),
        ("server killed", lambda name: site.fleet.kill(name) or site.fleet.wait_ready),
        ("server and agent paused", lambda name: both_paused(cluster, name)),
    ]
    probes = unknown = 0
    with ThreadPoolExecutor(JARS * 8) as pool:
        for number in range(ROUNDS):
            fault, hurt = faults[number % len(faults)]
            victim = chance.choice(cluster.names)
            well = [name for name in cluster.names if name != victim]
            browsers = [Browser(site) for _ in range(JARS)]
            for count, ann in enumerate(browsers):
                ann.put("basket", count, chance.choice(cluster.names))
            if number % 2:  # some sign in before it is hurt, and are cached everywhere
                for count, ann in enumerate(browsers[: JARS // 2]):
                    ann.login(f"early{count}")
                    assert {seen["principal"] for seen in ann.everywhere()} == {f"early{count}"}
            heal = hurt(victim)
            asked: list[Future[list[tuple[str, str]]]] = []
            for count, ann in enumerate(browsers):
                asked.append(pool.submit(life, ann, count, well, cluster.names, told, number))
            time.sleep(chance.choice([0.3, 1.5]))
            heal()
            shown = [outcome for future in asked for outcome in future.result(60)]
            probes += len(shown)
            unknown += sum(what == "unknown" for what, _ in shown)
            assert [said for what, said in shown if what == "shown"] == [], (fault, victim)
            site.fleet.wait_ready()
            for ann in browsers:
                eventually(ann.is_nobody)  # 503 until the last agent is back
                ann.close()
    assert min(told.values()) >= ROUNDS * JARS // 3  # it was exercised
    assert probes - unknown >= ROUNDS * JARS
    figure(
        f"L1 L2 with agents and servers paused and killed, clocks 8 s apart: 0 of "
        f"{probes - unknown} probes showed anybody after {told['logouts']} logouts and "
        f"{told['logins']} logins ({unknown} said try again)"
    )


def life(
    ann: Browser,
    count: int,
    well: list[str],
    names: tuple[str, ...],
    told: dict[str, int],
    number: int,
) -> list[tuple[str, str]]:
    """Sign in and out on servers that are well; what every server shows of the cookies before."""
    shown, rng = [], random.Random(number * 100 + count)
    with ann.twin() as before:
        if ann.ask("POST", f"/api/login/user{count}", at=rng.choice(well)).status_code == 200:
            told["logins"] += 1
            shown += [probe(before, name) for name in names]
    principal = ""
    while not principal:  # whatever became of the login
        answer = ann.ask("GET", "/api/session", at=rng.choice(well))
        if answer.status_code == 200:
            principal = answer.json()["principal"] or "nobody"
    with ann.twin() as signed_in:
        for at in (rng.choice(well), rng.choice(well)):
            if ann.ask("POST", "/api/logout", at=at).status_code == 200:
                if principal != "nobody":  # the end of what was nobody's waits for nobody (S16)
                    told["logouts"] += 1
                    shown += [probe(signed_in, name) for name in names]
                break
        else:
            ann.done("POST", "/api/logout", at=rng.choice(well))
    return shown


def probe(jar: Browser, name: str) -> tuple[str, str]:
    """Whether a server shows a cookie that is over; no answer, or 503, shows nothing."""
    with jar.twin() as alone:
        try:
            answer = alone.ask("GET", "/api/session", at=name)
        except httpx.TransportError:
            return "unknown", "no answer"
    if answer.status_code != 200:
        assert answer.status_code == 503, answer.text
        return "unknown", answer.text
    seen = answer.json()
    return ("shown" if seen["known"] or seen["principal"] else "nobody"), f"{name} said {seen}"


def stopped(pid: int) -> Callable[[], object]:
    os.kill(pid, signal.SIGSTOP)
    return lambda: os.kill(pid, signal.SIGCONT)


def killed(pid: int) -> Callable[[], object]:
    os.kill(pid, signal.SIGKILL)
    return lambda: None


def paused(site: Site, name: str) -> Callable[[], object]:
    site.fleet.pause(name)
    return lambda: site.fleet.resume(name)


def both_paused(cluster: Cluster, name: str) -> Callable[[], object]:
    wake = stopped(cluster.agent(name))
    heal = paused(cluster.site, name)
    return lambda: (wake(), heal())
