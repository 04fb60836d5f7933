"""Agents, workers and whole servers killed and paused: nothing acknowledged is lost, nobody who
was logged out is shown, and everything goes on by itself."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agents.hosts import Host, joined, on_loopback
from agents.network import Node, eventually, ports
from agents.stored import store
from samesession._bridge import ready
from samesession.cluster.line import HEAD, framed
from samesession.cluster.lmdb_shelf import map_of
from samesession.cluster.options import Options
from samesession.cluster.transport import ALL, mailbox
from samesession.cluster.wire import LARGEST
from samesession.errors import ConfigError
from samesession.lab.ports import Port
from samesession.lab.processes import others_in_group
from samesession.settings import Url
from samesession.stores.lmdb_map import Map
from samesession.strategies import strategy_of

Figure = Callable[[str], None]

pytestmark = pytest.mark.timeout(240)  # deaths are noticed in seconds, on a shared machine


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Host]]:
    with on_loopback(3, tmp_path) as hosts:
        yield hosts


def key() -> str:
    return secrets.token_hex(16)


def seen(answer: dict[str, Any]) -> dict[str, Any]:
    """The version that a cookie would carry after an applied commit."""
    assert answer["is"] == "applied", answer
    return {"number": answer["number"], "tag": answer["tag"]}


def made(host: Host, number: int, principal: str | None = "ann") -> dict[str, dict[str, Any]]:
    """Sessions, each with a value, and the version that its browser knows."""
    versions = {}
    for _ in range(number):
        name = key()
        assert host.patiently("create", key=name, principal=principal)["is"] == "applied"
        versions[name] = seen(host.patiently("put", key=name, kept="yes"))
    return versions


def kept(host: Host, versions: dict[str, dict[str, Any]]) -> int:
    """How many of them a server shows as they were acknowledged."""
    answers = [host.patiently("load", key=name, **version) for name, version in versions.items()]
    return sum(
        answer["is"] == "record" and answer["values"].get("kept") == "yes" for answer in answers
    )


# -- agents ---------------------------------------------------------------------------------------


def test_a_killed_agent_is_followed_by_another_and_nothing_is_lost(
    three: list[Host], figure: Figure
) -> None:
    versions = made(three[0], 30)
    before = three[0].signal_agent(signal.SIGKILL)
    killed = time.monotonic()
    eventually(lambda: three[0].agent not in {None, before})
    again = time.monotonic() - killed
    assert [kept(host, versions) for host in three] == [30, 30, 30]
    name, version = next(iter(versions.items()))
    del version
    assert three[0].patiently("put", key=name, late="1")["is"] == "applied"
    figure(f"agent killed: the next one within {again:.2f} s, 90 of 90 reads as acknowledged")


def test_a_server_without_its_agent_serves_what_its_lease_covers(three: list[Host]) -> None:
    versions = made(three[0], 5)
    assert kept(three[1], versions) == 5
    three[1].signal_agent(signal.SIGSTOP)
    try:
        name, version = next(iter(versions.items()))
        answer = three[1]("load", key=name, **version)
        assert answer["is"] == "record"
        assert answer["s"] < 0.2, "no call: the map is read"
    finally:
        three[1].signal_agent(signal.SIGCONT)


@pytest.mark.parametrize("hurt", ["agent", "server"])
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_who_was_logged_out_is_shown_by_nobody_whatever_was_paused_or_killed(
    three: list[Host], hurt: str, how: signal.Signals, figure: Figure
) -> None:
    versions = made(three[0], 3)
    assert [kept(host, versions) for host in three] == [3, 3, 3]
    if hurt == "agent":
        three[2].signal_agent(how)
    elif how == signal.SIGKILL:
        three[2].kill()
    else:
        three[2].signal(how)
    took = []
    for name in versions:
        answer = three[0].patiently("end", key=name)
        took.append(answer["s"])
        assert answer["is"] == "mark"
        if hurt == "agent":  # its workers go on, and may read the map until the lease is over
            assert three[2]("load", key=name, **versions[name])["is"] != "record"
        assert three[1]("load", key=name, **versions[name])["is"] == "mark"
    if how == signal.SIGSTOP and hurt == "agent":
        three[2].signal_agent(signal.SIGCONT)
    elif how == signal.SIGSTOP:
        three[2].signal(signal.SIGCONT)
    elif hurt == "server":
        three[2].start()
    for _ in range(10):  # at once after it is back, and while it catches up
        for name in versions:
            assert three[2]("load", key=name, **versions[name])["is"] != "record"
        time.sleep(0.1)
    eventually(lambda: all(three[2]("load", key=name)["is"] == "mark" for name in versions))
    median = sorted(took)[1]
    figure(f"logout with one {hurt} {how.name}: {max(took):.2f} s at most, median {median:.2f}")


def test_an_agent_that_was_paused_for_long_is_followed_by_another(
    three: list[Host], figure: Figure
) -> None:
    """zenoh may drop what an agent says anew on links that broke meanwhile, for good."""
    versions, everybody = made(three[0], 10), {"s1", "s2", "s3"}

    def whole() -> bool:
        """Asks through each agent; one that is not there yet answers nobody."""
        with suppress(ConfigError):
            return all(
                {*host.status()["agent"]["linked"], host.name} == everybody
                and {*host.status()["members"], host.name} == everybody
                for host in three
            )
        return False

    took = []
    for seconds in (1.7, 2.2, 2.7, 3.2):
        before = three[2].signal_agent(signal.SIGSTOP)
        time.sleep(seconds)
        three[2].signal_agent(signal.SIGCONT)
        woken = time.monotonic()
        eventually(lambda before=before: three[2].agent not in {None, before})  # type: ignore[misc]
        eventually(whole)
        took.append(time.monotonic() - woken)
    assert [kept(host, versions) for host in three] == [10, 10, 10]
    figure(f"agent paused 4 times: linked with all others again within {max(took):.1f} s")


# -- servers --------------------------------------------------------------------------------------


def test_writes_go_on_when_a_server_is_killed_and_nothing_acknowledged_is_lost(
    three: list[Host], figure: Figure
) -> None:
    versions = made(three[0], 24, None)
    three[0].tell("writing", keys=list(versions), seconds=8, rate=60)
    time.sleep(3)
    three[2].kill()
    killed = time.monotonic()
    writes = three[0].hear()["writes"]
    last = {name: number for _, _, done, name, number in writes if done}
    for host in three[:2]:
        for name, number in last.items():
            answer = host.patiently("load", key=name, number=2**20, tag="0000")
            # So high a version makes it ask the authority. A write that nobody answered may be
            # there too, but none before the last that was acknowledged.
            found = int(answer["values"]["n"])
            later = {n for _, _, done, other, n in writes if other == name and not done}
            assert found == number or found in {n for n in later if n > number}
    after = [(start, start + took) for start, took, done, _, _ in writes if start + took > killed]
    done_after = sorted(start + took for start, took, done, _, _ in writes if done)
    gaps = [b - a for a, b in pairwise(done_after) if b > killed]
    failed = sum(not done for _, _, done, _, _ in writes)
    assert after
    assert failed <= len(writes) // 4
    figure(
        f"a server killed under {len(writes)} writes: longest pause {max(gaps):.2f} s, "
        f"{failed} unknown, 0 acknowledged ones lost"
    )


def test_a_killed_server_comes_back_with_its_shards_and_its_copies(three: list[Host]) -> None:
    versions = made(three[0], 20)
    three[1].kill()
    versions |= made(three[0], 20)
    three[1].start()
    joined([three[1]])
    assert kept(three[1], versions) == 40
    for host in (three[0], three[2]):
        host.kill()
    # The one that is left was away, and holds all that the others acknowledged since.
    assert kept(three[1], versions) == 40


def test_the_whole_cluster_is_killed_and_comes_back_with_everything(
    three: list[Host], figure: Figure
) -> None:
    versions = made(three[0], 20)
    over = made(three[1], 5)
    for name in over:
        assert three[1].patiently("end", key=name)["is"] == "mark"
    for host in three:
        host.kill()
    for host in three:
        host.start()
    began = time.monotonic()
    joined(three)
    took = time.monotonic() - began
    assert [kept(host, versions) for host in three] == [20, 20, 20]
    for host in three:
        for name, version in over.items():
            assert host.patiently("load", key=name, **version)["is"] != "record"
    figure(f"whole cluster killed: back after {took:.1f} s, 20 of 20 kept, 5 of 5 ended stay ended")


def test_a_rolling_restart_under_load_loses_nothing(three: list[Host], figure: Figure) -> None:
    versions = made(three[0], 20)
    acknowledged = 0
    for host in (three[1], three[2], three[0]):
        others = [other for other in three if other is not host]
        host.stop()  # as a deploy does: the worker first, and its agent hands over
        for name in versions:
            versions[name] = seen(others[0].patiently("put", key=name, kept="yes"))
            acknowledged += 1
        host.start()
        joined([host])
        assert kept(host, versions) == 20
    assert [kept(host, versions) for host in three] == [20, 20, 20]
    figure(f"rolling restart of 3 servers: {acknowledged} writes acknowledged meanwhile, 0 lost")


def test_a_cluster_of_one_survives_its_agent(tmp_path: Path) -> None:
    with on_loopback(1, tmp_path) as (alone,):
        versions = made(alone, 10)
        before = alone.signal_agent(signal.SIGKILL)
        eventually(lambda: alone.agent not in {None, before})
        assert kept(alone, versions) == 10
        alone.kill()
        alone.start()
        joined([alone])
        assert kept(alone, versions) == 10


# -- processes ------------------------------------------------------------------------------------


def test_an_agent_without_workers_hands_over_and_ends(three: list[Host]) -> None:
    versions = made(three[0], 10)
    agent = three[0].agent
    three[0].process.kill()  # the worker alone
    eventually(lambda: three[0].agent is None)
    assert others_in_group(three[0].process.pid) == []
    assert agent is not None
    assert kept(three[1], versions) == 10
    assert not three[0].options.socket.exists()


def test_only_one_agent_runs_however_many_workers_look_for_one(tmp_path: Path) -> None:
    with on_loopback(1, tmp_path) as (alone,):
        more = [Host("s1", alone.url, alone.env["SAMESESSION_LISTEN"]) for _ in range(3)]
        try:
            joined(more)
            alone.signal_agent(signal.SIGKILL)
            joined([alone, *more])
            pids = [*others_in_group(alone.process.pid)]
            for other in more:
                pids += others_in_group(other.process.pid)
            assert pids == [alone.agent]
        finally:
            for other in more:
                other.process.kill()
                other.bury()


def test_a_forked_worker_has_its_own_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after gunicorn's --preload with sessions that were used before the fork."""
    with on_loopback(1, tmp_path) as (alone,):
        for variable in ("SAMESESSION_SERVER", "SAMESESSION_LISTEN"):
            monkeypatch.setenv(variable, alone.env[variable])
        store = strategy_of(alone.url).open_threads()
        name = next(iter(made(alone, 1)))
        assert ready(store.load(name)) is not None  # type: ignore[arg-type]
        inbox, outbox = os.pipe()
        child = os.fork()
        if child == 0:
            found = [ready(store.load(name)) is not None for _ in range(50)]  # type: ignore[arg-type]
            held = ready(store.held_by("ann"))
            os.write(outbox, json.dumps([all(found), len(held)]).encode())
            os._exit(0)
        for _ in range(50):
            assert len(ready(store.held_by("ann"))) == 1
        assert json.loads(os.read(inbox, 100)) == [True, 1]
        os.waitpid(child, 0)
        os.close(inbox)
        os.close(outbox)
        ready(store.close())


def test_the_stores_for_loops_and_for_threads_live_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an ASGI application that uses ``sessions.blocking`` in its threads."""
    with on_loopback(1, tmp_path) as (alone,):
        for variable in ("SAMESESSION_SERVER", "SAMESESSION_LISTEN"):
            monkeypatch.setenv(variable, alone.env[variable])
        name = next(iter(made(alone, 1)))
        threads = strategy_of(alone.url).open_threads()

        async def both() -> None:
            loop = strategy_of(alone.url).open_loop()
            for _ in range(5):
                assert await loop.load(name) is not None  # type: ignore[arg-type]
                assert ready(threads.load(name)) is not None  # type: ignore[arg-type]
            await loop.close()
            assert ready(threads.load(name)) is not None  # type: ignore[arg-type]

        asyncio.run(both())
        ready(threads.close())


def test_an_agent_whose_address_is_taken_waits_for_it(tmp_path: Path) -> None:
    with Port() as port, socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port.number))
        squatter.listen()
        url = f"cluster://{port.address}{tmp_path}?size=4MB"
        alone = Host("s1", url, port.address)
        try:
            assert alone("join", within_s=2)["is"] == "unavailable"
            first = alone.agent
            assert first is not None, "it holds the lock, so that nobody else tries"
            squatter.close()
            eventually(lambda: alone("join", within_s=2)["is"] == "ready")
            assert alone.agent == first
        finally:
            alone.stop()
        assert alone.agent is None


# -- bad input ------------------------------------------------------------------------------------


def test_rubbish_on_the_agents_socket_harms_nobody(tmp_path: Path) -> None:
    with on_loopback(1, tmp_path) as (alone,):
        versions = made(alone, 3)
        agent = alone.agent
        for rubbish in (
            b"",
            b"\xff" * 100,
            os.urandom(1000),
            HEAD.pack(1 << 31, 1),
            framed(1, b""),
            framed(1, b"\xc1"),
            framed(1, os.urandom(200)),
            framed(1, b"\x91" * 2000),
            framed(1, b"\x92\x1e\xa3abc"),
            framed(1, b"forget {"),
            framed(1, b"forget [1]"),
            framed(1, bytes(LARGEST + 1)),
        ):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(os.fspath(alone.options.socket))
                connection.sendall(rubbish)
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(10)
                while connection.recv(1000):
                    pass
        assert kept(alone, versions) == 3
        assert alone.agent == agent
        counts = alone.status()["counts"]
        assert counts["malformed"] >= 6
        assert counts["oversized"] == 1


def test_frames_of_a_rogue_are_refused_and_counted(
    tmp_path: Path, figure: Figure, capfd: pytest.CaptureFixture[str]
) -> None:
    """On loopback without TLS, where anybody of this machine may speak: nothing is believed."""
    with on_loopback(3, tmp_path) as three:
        versions = made(three[0], 5)
        agents = [host.agent for host in three]
        with ports(1) as (mine,):
            seeds = tuple(Known(host.env["SAMESESSION_LISTEN"]) for host in three)
            rogue = Node("rogue", mine, seeds)  # type: ignore[arg-type]
            try:
                eventually(lambda: rogue.sees("s1", "s2", "s3"))
                for number in range(200):
                    frame = os.urandom(number * 7)
                    rogue.transport.publish(ALL, frame)
                    rogue.transport.publish(mailbox("s1"), frame)
                    if number % 20 == 0:
                        rogue.ask("s2", frame, within_ms=200)
                rogue.transport.publish(ALL, b"\x94\x63\xa5rogue\x01\x91\x01")  # protocol 99
                eventually(lambda: three[0].status()["counts"].get("malformed", 0) >= 100)
                eventually(lambda: three[0].status()["counts"].get("wrong_protocol", 0) >= 1)
            finally:
                rogue.close()
        counts = three[0].status()["counts"]
        assert [kept(host, versions) for host in three] == [5, 5, 5]
        assert [host.agent for host in three] == agents
        said = [line for line in capfd.readouterr().err.splitlines() if "frames refused" in line]
        assert 1 <= len(said) <= 3, "each agent tells of it once a minute"
        figure(f"rogue peer: {counts['malformed']} frames refused at one server, 0 values changed")


class Known:
    """Where somebody listens, as a seed."""

    def __init__(self, address: str) -> None:
        self.address = address


# -- room -----------------------------------------------------------------------------------------


def test_a_full_map_refuses_new_visitors_first_and_goes_on_for_the_others(tmp_path: Path) -> None:
    with Port() as port:
        url = f"cluster://{port.address}{tmp_path}?size=2MB&deadline=5s"
        alone = Host("s1", url, port.address)
        try:
            joined([alone])
            versions = made(alone, 10)
            made_ = len(alone("many", number=3000, size=1000)["keys"])
            assert 100 < made_ < 3000
            assert alone("create", key=key(), a="x" * 1000)["is"] == "unavailable"
            assert len(alone("many", number=20, size=100, principal="bob")["keys"]) == 20
            assert kept(alone, versions) == 10
            for name in versions:
                assert alone("put", key=name, more="1")["is"] == "applied"
                assert alone("end", key=name)["is"] == "mark"
        finally:
            alone.stop()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of its own, as small as a container's."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_tmpfs_that_somebody_else_filled_harms_nobody(small: Path, figure: Figure) -> None:
    """The maps were allocated when they were opened, so nobody dies of SIGBUS."""
    with on_loopback(2, small, size="8MB") as (one, two):
        versions = made(one, 20)
        with (small / "somebody-elses").open("wb", buffering=0) as other, suppress(OSError):
            while True:
                other.write(bytes(1 << 16))
        assert not os.statvfs(small).f_bavail
        agents = [one.agent, two.agent]
        fresh = len(one("many", number=500, size=1000)["keys"])
        assert fresh == 500
        assert kept(two, versions) == 20
        for host, name in zip((one, two) * 10, versions, strict=True):
            assert host.patiently("put", key=name, more="1")["is"] == "applied"
        for name in list(versions)[:10]:
            assert two.patiently("end", key=name)["is"] == "mark"
        assert [one.agent, two.agent] == agents
        one.signal_agent(signal.SIGKILL)  # and the next agent needs no room either
        for name in list(versions)[10:]:
            assert one.patiently("put", key=name, more="2")["is"] == "applied"
        for name in list(versions)[:10]:
            assert one.patiently("load", key=name)["is"] == "mark"
    figure("a tmpfs filled by somebody else: 500 new sessions, 30 writes, 10 ends, 0 lost")


def test_a_joiner_takes_a_hundred_thousand_sessions_over(tmp_path: Path, figure: Figure) -> None:
    """`python -m bench cluster` says how long that takes where nothing else runs."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        keys = store(folder, ["s1", "s2"], 100_000, map_size=400 << 20)
        with on_loopback(3, folder, size="400MB") as (one, two, joiner):
            began = time.monotonic()
            eventually(lambda: level(joiner) == 1024, 60)
            took = time.monotonic() - began
            assert joiner("present", keys=keys[::200])["number"] == 500
            over = keys[:20]
            for name in over:
                assert one.patiently("end", key=name)["is"] == "mark"
            joiner.kill()  # and once more, from what it kept
            joiner.start()
            joined([joiner])
            eventually(lambda: level(joiner) == 1024, 60)
            for name in over:
                assert joiner("load", key=name)["is"] == "mark"
            assert joiner("present", keys=keys[20::200])["number"] == 500
            for host in (one, two, joiner):
                host.kill()  # handing a hundred thousand over is another test's business
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figure(f"a joiner lacked nothing of 100 000 sessions {took:.1f} s after it was ready")


def level(host: Host) -> int:
    """Shards that a server lacks nothing of."""
    told = host.status()
    count: int = told["level_in"] + told["authority_of"]
    return count


def test_the_status_is_told_by_any_server(three: list[Host]) -> None:
    made(three[0], 3)
    eventually(lambda: all(level(host) == 1024 for host in three))
    for host in three:
        told = host.status()
        assert told["server"] == host.name
        assert set(told["agent"]["linked"]) == {"s1", "s2", "s3"} - {host.name}
        assert told["agent"]["pid"] == host.agent
        shards = told["shards"].values()
        assert len(shards) == 1024
        assert {row["authority"] for row in shards} == {"s1", "s2", "s3"}
        assert {len(row["owners"]) for row in shards} == {3}
        assert all(row["epoch"] > 0 for row in shards)
        own = [row for row in shards if row["authority"] == host.name]
        assert {row["here"] for row in own} == {"authority"}
        assert all(row["lag"].keys() == {"s1", "s2", "s3"} - {host.name} for row in own)
        assert 0 < told["lease_ms"] <= 3000


def test_options_name_the_same_files_for_every_worker(three: list[Host]) -> None:
    again = Options.of(Url.parse(three[0].url), three[0].env)
    assert again == three[0].options


# -- clocks ---------------------------------------------------------------------------------------

WRONG_CLOCK = """
import os, time
skew_ns = int(os.environ["SKEW_S"]) * 10**9
right = time.time_ns
time.time_ns = lambda: right() + skew_ns
time.time = lambda: time.time_ns() / 1e9
"""


@pytest.mark.parametrize("skew_s", [-600, 600])
def test_a_server_with_a_wrong_clock_resurrects_nobody(
    tmp_path: Path, skew_s: int, figure: Figure, capfd: pytest.CaptureFixture[str]
) -> None:
    """libfaketime cannot be used: Python's sleep fails under it (EINVAL, Debian's 0.9.10)."""
    (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK)
    wrong = {"PYTHONPATH": str(tmp_path), "SKEW_S": str(skew_s)}
    with ports(3) as held:
        seeds = ",".join(port.address for port in held)
        url = f"cluster://{seeds}{tmp_path}?size=8MB&deadline=5s"
        hosts = [
            Host(f"s{n + 1}", url, port.address, env=wrong if n == 2 else None)
            for n, port in enumerate(held)
        ]
        try:
            joined(hosts[:2])
            assert hosts[2]("join", within_s=6)["is"] == "unavailable"
            versions = made(hosts[0], 6)
            over = [*versions][:3]
            for name in over:
                assert hosts[0].patiently("end", key=name)["is"] == "mark"
            for _ in range(10):
                for name in over:
                    assert hosts[2]("load", key=name, **versions[name])["is"] != "record"
                    hosts[2]("put", key=name, late="1")
                for host in hosts[:2]:
                    assert [host("load", key=name)["is"] for name in over] == ["mark"] * 3
                time.sleep(0.05)
            for name in [*versions][3:]:
                assert hosts[0].patiently("load", key=name)["is"] == "record"
            told, wrong_one = hosts[0].status(), hosts[2].status()
            assert abs(told["members"]["s3"]["skew_ms"] - 1000 * skew_s) < 5000
            assert [told[name] for name in ("ready", "clock_off")] == [True, False]
            assert [wrong_one[name] for name in ("ready", "clock_off")] == [False, True]
            said = [line for line in capfd.readouterr().err.splitlines() if "clock" in line]
            assert sum(f"that of s1: {{'s3': '{skew_s:+} s'}}" in line for line in said) == 1, said
            figure(f"clock {skew_s:+} s at one server: 0 of 3 ended sessions shown again")
        finally:
            for host in hosts:
                host.stop()


def test_a_reader_that_was_killed_pins_nothing(tmp_path: Path) -> None:
    """A killed worker's read transaction would keep every page that is replaced after it."""
    with on_loopback(1, tmp_path) as (alone,):
        names = made(alone, 20)
        inbox, outbox = os.pipe()
        child = os.fork()
        if child == 0:
            map_ = map_of(alone.options.folder, alone.options.size)
            transaction = map_.here().begin()
            os.write(outbox, b"reading")
            time.sleep(60)
            transaction.abort()
            os._exit(0)
        assert os.read(inbox, 7) == b"reading"
        map_ = map_of(alone.options.folder, alone.options.size)
        assert child in readers(map_)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(inbox)
        os.close(outbox)
        assert child in readers(map_)
        eventually(lambda: child not in readers(map_), 30)
        map_.close()
        assert kept(alone, names) == 20


def readers(map_: Map) -> set[int]:
    """Whose places are taken in the table that all processes share."""
    return {int(line.split()[0]) for line in map_.here().readers().splitlines()[1:]}
