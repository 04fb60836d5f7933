"""A running plan with plain methods, for tests and programs; and the run of ``samesession up``.

Use::

    with Fleet(Plan(strategy="redis://", affinity="none")) as fleet:
        httpx.get(fleet.url + "/api/plain")                # through the balancer
        httpx.get(fleet.server_url("s2") + "/api/plain")   # past it
        fleet.kill("s1")
        fleet.wait_ready()                                 # started again, and used again
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Self

from samesession.balancers.haproxy import Control
from samesession.lab.child import Child
from samesession.lab.plan import Plan
from samesession.lab.supervisor import ENGINE, ME, Supervisor

PATIENCE_S = 60.0
KEPT_LINES = 10_000


class Fleet:
    """A plan that runs in a thread of this process, for as long as its context.

    Names are ``s1``, ``s2`` …, ``haproxy``, and ``engine`` when one was started.

    Attributes:
        lines: what the servers and the supervisor said, oldest first.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._supervisor = Supervisor(plan, self._say)
        self._running: Future[None] = Future()  # its result: everything answers
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="samesession-fleet", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._running.result()
        except BaseException:  # it could not start, or nobody waits for it any more
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def url(self) -> str:
        """The balancer."""
        return self._supervisor.url

    def server_url(self, name: str) -> str:
        """One server, past the balancer."""
        return f"http://{self._supervisor.ports[name].address}"

    @property
    def engine_url(self) -> str:
        """The engine that was started for ``redis://`` or ``valkey://``."""
        return f"redis://{self._supervisor.ports[ENGINE].address}/0"

    @property
    def control(self) -> Control:
        """The balancer's runtime socket."""
        return self._supervisor.control

    def pid(self, name: str) -> int:
        """The main process."""
        pid = self._child(name).pid
        if pid is None:
            raise RuntimeError(f"{name} is not running")
        return pid

    def kill(self, name: str) -> None:
        """Kill it and its workers (SIGKILL), and return when they are gone."""
        self._tell(name, Child.kill)
        self._do(self._child(name).ended.wait())

    def pause(self, name: str) -> None:
        """Stop it in its tracks (SIGSTOP): the kernel accepts connections, nobody answers."""
        self._tell(name, Child.pause)

    def resume(self, name: str) -> None:
        """Let it go on after ``pause``."""
        self._tell(name, Child.resume)

    def start(self, name: str) -> None:
        """Start what was killed without waiting for the back-off, or with ``restart=False``."""
        self._tell(name, Child.start)

    def add(self, name: str) -> None:
        """Start one more server while everything runs; return when the balancer uses it."""
        self._do(self._supervisor.add(name))

    def remove(self, name: str) -> None:
        """Take a server out while everything runs: it finishes what it has, and ends."""
        self._do(self._supervisor.remove(name))

    def drain(self, name: str) -> None:
        """Let its ``/health`` answer 404: its users stay, nobody new comes."""
        self._supervisor.drain_file(name).touch()

    def undrain(self, name: str) -> None:
        """Let it take new users again."""
        self._supervisor.drain_file(name).unlink(missing_ok=True)

    def wait_ready(self, *names: str) -> None:
        """Wait until these servers (all by default) answer and the balancer uses them.

        Raises:
            TimeoutError: not within ``PATIENCE_S``.
        """
        self._do(self._supervisor.wait_ready(*names))

    def _child(self, name: str) -> Child:
        return self._supervisor.children[name]

    def _tell(self, name: str, order: Callable[[Child], None]) -> None:
        async def tell() -> None:
            order(self._child(name))

        self._do(tell())

    def _do(self, work: Coroutine[Any, Any, object]) -> None:
        assert self._loop is not None, "a fleet runs inside its context only"
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def _say(self, name: str, text: str) -> None:
        self.lines.append(line(name, text))

    def _end(self) -> None:
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except asyncio.CancelledError:
            self._running.cancel()
        except BaseException as error:
            if self._running.done():
                raise
            self._running.set_exception(error)

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        async with self._supervisor:
            self._running.set_result(None)
            await asyncio.Event().wait()


def run(plan: Plan, write: Callable[[str], object]) -> None:
    """Run a plan in the foreground until Ctrl-C, SIGTERM, SIGHUP, or until nobody reads.

    Args:
        write: takes each line; an ``OSError`` from it ends the run.

    Raises:
        ConfigError: it cannot be started; nothing is left.
    """
    with contextlib.suppress(asyncio.CancelledError):  # asked to end
        asyncio.run(_run(plan, write))


async def _run(plan: Plan, write: Callable[[str], object]) -> None:
    me = asyncio.current_task()
    assert me is not None
    loop = asyncio.get_running_loop()
    asked = False

    def end() -> None:
        nonlocal asked
        if asked:  # a second Ctrl-C: no more patience
            supervisor.kill_all()
        else:
            asked = True
            say(ME, "ending")
            me.cancel()

    def say(name: str, text: str) -> None:
        try:
            write(line(name, text))
        except OSError:  # nobody reads any more: `samesession up | head`
            if not asked:
                loop.call_soon(end)

    supervisor = Supervisor(plan, say)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    async with supervisor:
        await asyncio.Event().wait()


def line(name: str, text: str) -> str:
    """One line of the log, its columns aligned."""
    return f"{time.strftime('%H:%M:%S')} {name:<8} {text}"
