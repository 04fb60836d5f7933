"""A worker's presence: its agent knows that it lives, and it notices when its agent does not."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from samesession.errors import StoreUnavailableError

WATCH_S = 0.05


class Presence:
    """Tells the agent that this process lives, and starts an agent when there is none.

    A thread that sleeps in the kernel until the agent's end of its connection closes.
    """

    def __init__(self, path: Path, ensure: Callable[[], object]) -> None:
        """Begin with the first `here` in each process."""
        self._path = path
        self._ensure = ensure
        self._lock = threading.Lock()
        self._pid = 0
        self._over = threading.Event()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def here(self) -> None:
        """Be present, in this process."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            self._over = threading.Event()
            self._socket = None
            self._ensure()
            self._thread = threading.Thread(
                target=self._watch, args=(self._over,), name="samesession-agent", daemon=True
            )
            self._thread.start()
            self._pid = os.getpid()

    def close(self) -> None:
        """Go; the agent ends itself when nobody is left."""
        with self._lock:
            if self._pid != os.getpid():
                return
            self._pid = 0
            self._over.set()
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
            thread = self._thread
        if thread is not None:
            thread.join(1)

    def _watch(self, over: threading.Event) -> None:
        while not over.is_set():
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(os.fspath(self._path))
                self._socket = connection
                while not over.is_set() and connection.recv(1):
                    pass
            except OSError:
                pass
            finally:
                connection.close()
            if not over.wait(WATCH_S):
                with suppress(StoreUnavailableError):
                    self._ensure()
