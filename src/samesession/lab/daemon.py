"""A server process of any kind that tests start, hurt and end: the verbs they all share.

    with databases.postgres() as engine:
        engine.url                # postgresql://shop:…@127.0.0.1:41231/shop
        engine.freeze()           # accepts connections, answers nobody
        engine.thaw()
        engine.kill()             # kill -9 of every process of it; what it had on disk stays
        engine.restart()          # the same port, the same data

Nothing outlives its process or its folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

from samesession.lab.folder import RunFolder
from samesession.lab.ports import Port
from samesession.lab.processes import spawn

START_S = 40.0  # PostgreSQL answers after 0.3 s here; the rest is for a crowded machine
STOP_S = 10.0


class Daemon:
    """One running server; leaving its context ends it and removes its folder.

    A kind of server says how it is prepared, started and asked whether it answers.
    """

    name = ""
    url = ""
    stop_signal = signal.SIGTERM

    def __init__(self, *, port: int = 0, folder: Path | None = None) -> None:
        """Take a port, by default a free one, and a folder, by default a private one."""
        self._port = Port(port)
        self.port = self._port.number
        self._run = RunFolder() if folder is None else None
        self.folder = self._run.path if self._run is not None else Path(folder or "")
        self._process: subprocess.Popen[bytes] | None = None
        self._prepared = False

    def prepare(self) -> None:
        """Make what must be there before the first start."""

    def command(self) -> list[str]:
        """Return the command that runs it in the foreground."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Say whether it takes requests."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """Its main process."""
        if self._process is None:
            raise RuntimeError(f"{self.name} on port {self.port} is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has printed since it was made."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    @property
    def _log_path(self) -> Path:
        return self.folder / f"{self.port}.log"

    def restart(self) -> None:
        """End it if it runs, and start it again on the same port."""
        self.stop()
        if not self._prepared:
            self.prepare()
            self._prepared = True
        with self._log_path.open("ab") as log:
            self._process = spawn(self.command(), output=log, cwd=self.folder)
        deadline = time.monotonic() + START_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log_so_far = self.log
                self.kill()
                raise RuntimeError(f"{self.name} did not start on port {self.port}: {log_so_far}")
            time.sleep(0.005)

    def stop(self) -> None:
        """Ask it to end, as an administrator would; kill it when it does not."""
        if self._process is not None:
            self.thaw()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, self.stop_signal)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """End every process of it by SIGKILL."""
        if self._process is not None:
            family = _family(self._process.pid)
            _signal(family, signal.SIGKILL)
            self._process.wait()
            deadline = time.monotonic() + STOP_S
            while any(_state(pid) not in {"", "Z"} for pid in family):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"processes of {self.name} outlive SIGKILL: {family}")
                time.sleep(0.005)
            self._process = None

    def freeze(self) -> None:
        """Stop it in its tracks (SIGSTOP): the kernel accepts connections, nobody answers."""
        deadline = time.monotonic() + STOP_S
        while True:
            family = _family(self.pid)  # it may have forked meanwhile
            _signal(family, signal.SIGSTOP)
            if all(_state(pid) in {"T", "Z", ""} for pid in _family(self.pid)):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not stop")
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let it go on after ``freeze``."""
        _signal(_family(self.pid), signal.SIGCONT)

    def close(self) -> None:
        """Stop it, and give up its port and its folder."""
        try:
            self.stop()
        finally:
            self._port.close()
            if self._run is not None:
                self._run.remove()

    def __enter__(self) -> Self:
        try:
            self.restart()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _family(pid: int) -> list[int]:
    """A process and its descendants: PostgreSQL's lead process groups of their own."""
    found, at = [pid], 0
    while at < len(found):
        with contextlib.suppress(OSError):
            for path in Path(f"/proc/{found[at]}/task").glob("*/children"):
                found += [int(child) for child in path.read_text().split()]
        at += 1
    return found


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _state(pid: int) -> str:
    """A process's state letter, or nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
