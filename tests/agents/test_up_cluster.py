"""``samesession up --strategy cluster://``: agents begin and end with their servers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import httpx
import pytest

from agents.network import eventually
from samesession.cluster import election
from samesession.errors import ConfigError
from samesession.lab.authority import authority_for
from samesession.lab.fleet import Fleet
from samesession.lab.health import Health
from samesession.lab.joining import Joining
from samesession.lab.plan import Plan
from samesession.lab.ports import Port

UP = (sys.executable, "-m", "samesession", "up", "--port", "0", "--strategy", "cluster://?size=8MB")
Figure = Callable[[str], None]

pytestmark = pytest.mark.timeout(240)  # deaths are noticed in seconds, on a shared machine

OLD = """
import json
from samesession import Sessions
from samesession.web.wsgi import SessionMiddleware

def visits(environ, start_response):
    session = environ["samesession"]
    session["visits"] = session.get("visits", 0) + 1
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(session["visits"]).encode()]

app = SessionMiddleware(visits, Sessions.from_env())
"""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(Plan(strategy="cluster://?size=8MB&deadline=2s", affinity="none")) as running:
        running.wait_ready()
        yield running
        agents = [agent_of(running, name) for name in running.plan.names]
        folder = running._supervisor.folder.path
    assert not folder.exists()
    assert not [pid for pid in agents if pid is not None and runs(pid)]


def agent_of(fleet: Fleet, name: str) -> int | None:
    lock = fleet._supervisor.folder.path / "store" / "cluster" / name / "agent.lock"
    return election.holder(lock)


def runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_without_affinity_every_server_finds_the_session(fleet: Fleet, figure: Figure) -> None:
    found, servers = 0, set()
    with httpx.Client(base_url=fleet.url, trust_env=False, timeout=20) as client:
        assert client.put("/api/session/basket", json="tea").status_code == 200
        for _ in range(60):
            seen = client.get("/api/session").json()
            servers.add(seen["server"])
            found += (seen["known"], seen["data"]) == (True, {"basket": "tea"})
    assert servers == {"s1", "s2", "s3"}
    assert found == 60
    figure(f"up --strategy cluster:// --affinity none: session found {found} of 60, on 3 servers")


def test_a_killed_server_takes_its_agent_along_and_both_come_back(fleet: Fleet) -> None:
    with httpx.Client(base_url=fleet.url, trust_env=False, timeout=20) as client:
        assert client.post("/api/login/ann").status_code == 200
        agent = agent_of(fleet, "s1")
        assert agent is not None
        fleet.kill("s1")
        eventually(lambda: not runs(agent))
        for _ in range(10):
            assert client.get("/api/session").json()["principal"] == "ann"
        fleet.wait_ready()
        assert agent_of(fleet, "s1") not in {None, agent}
        for _ in range(10):
            assert client.get("/api/session").json()["principal"] == "ann"


def test_each_server_has_an_address_of_its_own_and_the_same_list(tmp_path: Path) -> None:
    found = authority_for("cluster://?copies=2", tmp_path, ("s1", "s2"))
    try:
        addresses = [port.address for port in found.listen.values()]
        assert len(set(addresses)) == 2
        assert found.url == f"cluster://{','.join(addresses)}{tmp_path}/store?copies=2&size=16MB"
    finally:
        for port in found.listen.values():
            port.close()
    with pytest.raises(ConfigError, match="write cluster:// and the parameters only"):
        authority_for("cluster://10.0.0.1", tmp_path, ("s1",))


def test_nobody_is_left_when_the_supervisor_is_killed() -> None:
    with running_up() as (process, lines):
        eventually(lambda: any("open http" in line for line in lines), 60)
        agents = agents_below(process.pid)
        assert len(agents) == 3
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        # Its servers die with it; the agents see their workers go, hand over and end.
        eventually(lambda: not any(map(runs, agents)), 40)


def test_asked_to_end_it_leaves_no_agent() -> None:
    with running_up() as (process, lines):
        eventually(lambda: any("open http" in line for line in lines), 60)
        agents = agents_below(process.pid)
        assert len(agents) == 3
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert not [pid for pid in agents if runs(pid)]


def test_threaded_workers_share_their_servers_agent(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(OLD)
    plan = Plan(
        app="old:app",
        strategy="cluster://?size=8MB&deadline=2s",
        affinity="none",
        workers=2,
        folder=tmp_path,
    )
    with Fleet(plan) as fleet:
        fleet.wait_ready()
        # WSGI has no start-up in which to join: its server waits before it is healthy.
        assert None not in [agent_of(fleet, name) for name in plan.names]
        cookie, counted = "", []
        for _ in range(20):
            request = Request(fleet.url, headers={"Cookie": cookie} if cookie else {})
            with urlopen(request, timeout=20) as response:
                counted.append(json.loads(response.read()))
                cookie = (response.headers.get("Set-Cookie") or cookie).partition(";")[0]
        assert counted == list(range(1, 21))
        agents = [agent_of(fleet, name) for name in plan.names]
        assert None not in agents
        assert len(set(agents)) == 3


def test_a_server_takes_nobody_before_it_has_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Port() as port, socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port.number))
        squatter.listen()
        monkeypatch.setenv("SAMESESSION_SERVER", "s1")
        monkeypatch.setenv("SAMESESSION_LISTEN", port.address)
        joining = Joining(f"cluster://{port.address}{tmp_path}?size=4MB")
        health = Health(tmp_path / "drain", joining.over)
        lock = tmp_path / "cluster" / "s1" / "agent.lock"
        try:
            eventually(lambda: election.holder(lock))
            assert health.status == 503
            squatter.close()
            eventually(lambda: health.status == 200)
        finally:
            joining.close()
        eventually(lambda: election.holder(lock) is None)


@contextlib.contextmanager
def running_up() -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    process = subprocess.Popen(
        UP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(
        target=lambda: lines.extend(iter(process.stdout.readline, "")),  # type: ignore[union-attr]
        daemon=True,
    )
    reader.start()
    try:
        yield process, lines
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        reader.join(20)
        process.stdout.close()


def agents_below(pid: int) -> list[int]:
    """The agents of a run: their groups are led by its servers."""
    below, agents = {pid}, []
    for _ in range(4):
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[1]) in below or int(fields[2]) in below:
                    below.add(int(stat.parent.name))
    for one in below - {pid}:
        with contextlib.suppress(OSError):
            if "samesession.cluster.agent" in Path(f"/proc/{one}/cmdline").read_text():
                agents.append(one)
    return agents
