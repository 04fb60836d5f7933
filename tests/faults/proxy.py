"""A wire between servers and their engine that can be cut or held in the middle of an answer."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self


class Proxy:
    """Passes bytes on, until told otherwise.

    ``cut_after(n)`` lets n more bytes of answers through and then cuts every connection, once.
    ``hold_after(n)`` lets n more bytes of answers through and then says nothing until ``let_go``.
    ``delay_s`` holds each piece of an answer back for a while.
    """

    delay_s = 0.0

    def __init__(self, port: int) -> None:
        self._engine = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._left: int | None = None
        self._cuts = True
        self._flowing = threading.Event()
        self._flowing.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._over = False
        self.connections = 0
        self.cuts = 0

    def cut_after(self, size: int) -> None:
        with self._lock:
            self._left, self._cuts = size, True

    def hold_after(self, size: int) -> None:
        with self._lock:
            self._left, self._cuts = size, False
            self._flowing.clear()

    def let_go(self) -> None:
        with self._lock:
            self._left = None
        self._flowing.set()

    def cut(self) -> None:
        """Cut every connection now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    @property
    def open(self) -> int:
        """Connections that neither side has ended."""
        with self._lock:
            return sum(near.fileno() >= 0 for near, _ in self._pairs)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self.let_go()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while not self._over:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._engine)
            except OSError:
                continue
            self.connections += 1
            with self._lock:
                self._pairs.append((near, far))
            for source, target, answers in ((near, far, False), (far, near, True)):
                threading.Thread(
                    target=self._pass_on, args=(source, target, answers), daemon=True
                ).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError), source:
            while data := source.recv(1 << 16):
                if answers and self.delay_s:
                    time.sleep(self.delay_s)
                target.sendall(data[: self._allowed(len(data))] if answers else data)
                if answers and self._broken():
                    break
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def _allowed(self, size: int) -> int:
        with self._lock:
            if self._left is None:
                return size
            allowed = min(size, self._left)
            self._left -= allowed
            return allowed

    def _broken(self) -> bool:
        """Whether the bytes that were let through are used up; then cut once, or wait."""
        with self._lock:
            if self._left != 0:
                return False
            if self._cuts:
                self._left = None
                self.cuts += 1
                return True
        self._flowing.wait(60)
        return True
