"""A wire of a given length between two servers, as a process of its own that can be killed.

    with Relay(port, lag_ms=5) as relay:
        relay.port                # what is sent there reaches ``port`` 5 ms later, and so back

``python -m samesession.lab.relay LISTEN TO LAG_MS`` is that process.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from typing import Self

from samesession.lab.ports import LOOPBACK, Port
from samesession.lab.processes import signal_group, spawn

START_S = 20.0


class Relay:
    """A running relay; leaving its context ends it."""

    def __init__(self, to: int, *, lag_ms: float) -> None:
        """Take a port."""
        self._port = Port()
        self.port = self._port.number
        self._argv = [sys.executable, "-m", __name__, str(self.port), str(to), str(lag_ms)]
        self._process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """End it by SIGKILL: what it had read and not passed on is gone."""
        if self._process is not None:
            signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self._process = spawn(self._argv)
        deadline = time.monotonic() + START_S
        while not _listens(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"the relay on port {self.port} did not start")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._port.close()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


async def _serve(listen: int, to: int, lag_s: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(LOOPBACK, to)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            _pass_on(reader, far_writer, lag_s), _pass_on(far_reader, writer, lag_s)
        )

    server = await asyncio.start_server(connected, LOOPBACK, listen)
    await server.serve_forever()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lag_s: float
) -> None:
    """Write each piece as long after it was read as the wire is long; the order stays."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            loop.call_later(lag_s, writer.write, piece)
    loop.call_later(lag_s, writer.close)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
