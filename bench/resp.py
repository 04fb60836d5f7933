"""A bare connection to Redis for counting: it knows the exact bytes that it causes itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Self

ANSWER_S = 5.0


class Connection:
    """One RESP2 connection, commands as inline text."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._socket.close()

    def send(self, command: str) -> int:
        """Send a command, return its length on the wire."""
        line = command.encode() + b"\r\n"
        self._socket.sendall(line)
        return len(line)

    def line(self) -> bytes:
        """Read one line of an answer, without its end."""
        return self._file.readline().rstrip(b"\r\n")

    def bulk(self) -> tuple[bytes, int]:
        """Read a bulk string; return it and its length on the wire."""
        header = self._file.readline()
        if header[:1] != b"$":
            raise ConnectionError(f"Redis answered {header!r}, not a bulk string")
        body = self._file.read(int(header[1:]) + 2)
        return body[:-2], len(header) + len(body)


def info(text: bytes) -> Iterator[tuple[str, str]]:
    """Yield the fields of an INFO answer."""
    for line in text.decode().splitlines():
        field, colon, value = line.partition(":")
        if colon:
            yield field, value
