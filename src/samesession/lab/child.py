"""One child process kept running: its output passed on, its death noticed, started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from samesession.errors import ConfigError
from samesession.lab.ports import LOOPBACK
from samesession.lab.processes import freeze_group, others_in_group, signal_group, spawn
from samesession.lab.recipe import Recipe

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 8.0
LIVED_S = 10.0  # whoever lived this long starts again after the first delay
STOP_S = 5.0
REST_S = 2.0  # for those of its group that outlive the main process
POLL_S = 0.02
LONGEST_LINE = 1 << 16

Say = Callable[[str, str], None]  # name of the child, one line


class Child:
    """A process made from a recipe, again and again until ``stop``."""

    def __init__(self, recipe: Recipe, say: Say) -> None:
        self.recipe = recipe
        self.name = recipe.name
        self.ready = asyncio.Event()  # it answers
        self.ended = asyncio.Event()  # no process runs
        self.ended.set()
        self.pid: int | None = None
        self.end = ""  # how the last process ended: "with exit code 3", "by SIGKILL"
        self._say = say
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()  # do not wait any longer before the next start
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start it, or start it at once when it was about to be started again."""
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep())
        self._wake.set()

    async def first_ready(self, within: float) -> None:
        """Wait until it answers for the first time.

        Raises:
            ConfigError: it ended before, or did not answer in time (seconds).
        """
        assert self._keeping is not None
        answered = asyncio.create_task(self.ready.wait())
        await asyncio.wait({answered, self._keeping}, timeout=within, return_when="FIRST_COMPLETED")
        answered.cancel()
        if not self.ready.is_set():
            problem = f"ended {self.end}" if self.end else f"did not answer within {within:.0f} s"
            raise ConfigError(f"{self.name} {problem}; what it printed stands above")

    async def over(self, within: float) -> None:
        """Wait until it has ended and is not started again, or ``within`` seconds have passed."""
        if self._keeping is not None:
            await asyncio.wait({self._keeping}, timeout=within)

    def ask_to_end(self) -> None:
        """Send SIGTERM to its main process, which tells its own workers."""
        self._stopping.set()
        self._wake.set()
        self.resume()  # a paused process would not hear it
        if self.pid is not None:
            os.kill(self.pid, signal.SIGTERM)

    async def stop(self, within: float = STOP_S) -> None:
        """Wait for the end that was asked for; SIGKILL after ``within`` seconds."""
        await self.over(within)
        self.kill()
        await self.over(within)

    def kill(self) -> None:
        """Kill it and its workers."""
        if self.pid is not None:
            signal_group(self.pid, signal.SIGKILL)

    def pause(self) -> None:
        """Stop it and its workers in their tracks."""
        if self.pid is not None:
            freeze_group(self.pid)

    def resume(self) -> None:
        """Let them go on."""
        if self.pid is not None:
            signal_group(self.pid, signal.SIGCONT)

    async def _keep(self) -> None:
        delay = FIRST_DELAY_S
        answered_once = False
        while True:
            self._wake.clear()
            started = time.monotonic()
            self.end = await self._run_once()
            answered_once = answered_once or self.ready.is_set()
            self.ready.clear()
            self.ended.set()
            if self._stopping.is_set():
                return
            if not self.recipe.restart or not answered_once:
                self._say(self.name, f"ended {self.end}")
                return
            if time.monotonic() - started > LIVED_S:
                delay = FIRST_DELAY_S
            self._say(self.name, f"ended {self.end}; starting again in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)
            if self._stopping.is_set():
                return
            delay = min(2 * delay, LONGEST_DELAY_S)

    async def _run_once(self) -> str:
        """Run one process to its end, and say how it ended."""
        inbox, outbox = os.pipe()
        with os.fdopen(inbox, "rb", 0) as output, os.fdopen(outbox, "wb", 0) as end:
            try:
                process = spawn(
                    self.recipe.argv, env=self.recipe.env, cwd=self.recipe.folder, output=end
                )
            except OSError as error:
                return f"before it began: {error}"
            end.close()
            self.pid = process.pid
            self.ended.clear()
            passing_on = asyncio.create_task(self._pass_on(output))
            announcing = asyncio.create_task(self._announce())
            try:
                if self._stopping.is_set():
                    self.ask_to_end()
                await _death(process)
            finally:
                announcing.cancel()
                if self._stopping.is_set():
                    await self._let_the_others_end()
                # Before it is reaped its number cannot be another's: now is the time to end what
                # is left of its group.
                self.kill()
                self.pid = None
                code = process.wait()
                # A stranger to the group may hold the pipe open: its output is not waited for.
                await asyncio.wait({passing_on}, timeout=1)
                passing_on.cancel()
        return f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"

    async def _let_the_others_end(self) -> None:
        """Ask what the process left in its group, such as a cluster's agent, and wait a moment."""
        assert self.pid is not None
        if not others_in_group(self.pid):
            return
        signal_group(self.pid, signal.SIGTERM)
        until = time.monotonic() + REST_S
        while others_in_group(self.pid) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)

    async def _announce(self) -> None:
        sign = self.recipe.sign
        while sign is not None and not await sign.seen():  # noqa: ASYNC110  (it only answers)
            await asyncio.sleep(POLL_S)
        self.ready.set()
        if sign is not None:
            about = f"{self.recipe.about} " if self.recipe.about else ""
            self._say(self.name, f"{about}listening on {LOOPBACK}:{sign.port}")

    async def _pass_on(self, output: object) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), output
        )
        rest = b""
        try:
            while chunk := await reader.read(LONGEST_LINE):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) >= LONGEST_LINE:
                    lines, rest = [*lines, rest], b""
                self._show(lines)
            if rest:
                self._show([rest])
        finally:
            transport.close()

    def _show(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            text = self.recipe.readable(line.decode(errors="replace").rstrip())
            if text is not None:
                self._say(self.name, text)


async def _death(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has ended, without reaping it where the system can tell (Linux)."""
    if sys.platform != "linux":
        while process.poll() is None:  # noqa: ASYNC110  (nothing here tells of a death)
            await asyncio.sleep(POLL_S)
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    watched = os.pidfd_open(process.pid)
    loop.add_reader(watched, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)
