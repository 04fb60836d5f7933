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
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from samesession.lab.binaries import Binary, preferred, redis_like
from samesession.lab.daemon import Daemon
from samesession.lab.ports import LOOPBACK

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


class Engine(Daemon):
    """A running engine."""

    def __init__(
        self,
        binary: Binary,
        *,
        port: int = 0,
        folder: Path | None = None,
        settings: Mapping[str, str] | None = None,
        sentinel: bool = False,
    ) -> None:
        """See `start`."""
        super().__init__(port=port, folder=folder)
        self.binary, self.name = binary, str(binary)
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        self._settings = settings
        self._sentinel = sentinel

    def command(self) -> list[str]:
        """See `Daemon`: the configuration is written anew at each start."""
        return command(
            self.binary,
            port=self.port,
            folder=self.folder,
            settings=self._settings,
            sentinel=self._sentinel,
        )

    def answers(self) -> bool:
        """See `Daemon`."""
        return answers(LOOPBACK, self.port)
