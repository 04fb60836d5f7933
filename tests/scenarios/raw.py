"""HTTP/1.1 by hand on one connection: bytes that no client library would send, and fast bursts."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value for known, value in self.headers if known == name), None)

    @property
    def sets_our_cookie(self) -> bool:
        return any(k == "set-cookie" and v.startswith("session=") for k, v in self.headers)


class Wire:
    """One connection that is kept; opened again when the server has closed it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        self._host = parts.netloc.encode()
        self._socket: socket.socket | None = None

    def ask(
        self, target: str = "/api/session", *headers: bytes, method: str = "GET", body: bytes = b""
    ) -> Answer:
        """Send a request and read its answer; a header is a whole line, any bytes whatever."""
        self.send(target, *headers, method=method, body=body)
        return self.receive()

    def send(
        self, target: str = "/api/session", *headers: bytes, method: str = "GET", body: bytes = b""
    ) -> None:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=60)
            self._file = self._socket.makefile("rb")
        lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: " + self._host, *headers]
        if body or method != "GET":
            lines.append(b"Content-Length: %d" % len(body))
        self._socket.sendall(b"\r\n".join([*lines, b"", body]))

    def receive(self) -> Answer:
        status = self._line()
        assert status.startswith(b"HTTP/1.1 "), status
        headers = []
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name.lower(), value.strip()))
        answer = Answer(int(status.split()[1]), headers, b"")
        length = answer.header("content-length")
        body = self._file.read(int(length) if length is not None else -1)
        if length is None or (answer.header("connection") or "").lower() == "close":
            self.close()
        return Answer(answer.status, headers, body)

    def _line(self) -> bytes:
        line: bytes = self._file.readline()
        if not line.endswith(b"\r\n"):
            self.close()
            raise ConnectionError(f"the server hung up after {line!r}")
        return line[:-2]

    def close(self) -> None:
        if self._socket is not None:
            self._file.close()
            self._socket.close()
            self._socket = None
