"""What an engine is really asked: every command by who sent it, seen through MONITOR."""

from __future__ import annotations

import re
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Self

import redis

MARK = "the-counting-is-over"
# Writes that a session's life can cause; everything else only reads.
WRITES = frozenset(
    [
        "HSET",
        "HDEL",
        "DEL",
        "UNLINK",
        "PEXPIRE",
        "EXPIRE",
        "ZADD",
        "ZREM",
        "ZREMRANGEBYSCORE",
        "SET",
        "HSETNX",
        "EVAL",
    ]
)
# +1700000000.123456 [0 127.0.0.1:40000] "GET" "key"; inside a script the address is `lua`.
_LINE = re.compile(rb'\+[0-9.]+ \[\d+ ([^\]]+)\] "([^"]*)"(.*)')


@dataclass(frozen=True)
class Command:
    """One command."""

    sender: str  # host:port, or "lua"
    name: str
    rest: str

    @property
    def scripted(self) -> bool:
        """Whether a script ran it, so that no client sent it."""
        return self.sender == "lua"


class Monitor:
    """Counts an engine's commands while its context lasts; `seen` is complete afterwards."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.seen: list[Command] = []

    def __enter__(self) -> Self:
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=20)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(b"MONITOR\r\n")
        assert self._file.readline() == b"+OK\r\n"
        return self

    def __exit__(self, *_: object) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=20) as marker:
            marker.sendall(f"ECHO {MARK}\r\n".encode())
            while MARK.encode() not in (line := self._file.readline()):
                match = _LINE.match(line)
                assert match, line
                sender, name, rest = match.groups()
                self.seen.append(
                    Command(sender.decode(), name.decode().upper(), rest.decode("latin-1"))
                )
        self._file.close()
        self._socket.close()

    @property
    def sent(self) -> Counter[str]:
        """By name, those that clients sent."""
        return Counter(command.name for command in self.seen if not command.scripted)

    @property
    def scripted(self) -> Counter[str]:
        """By name, those that scripts ran."""
        return Counter(command.name for command in self.seen if command.scripted)

    @property
    def written(self) -> int:
        """How many writes clients caused: scripts that wrote something, and bare writes.

        A script's own commands follow it in the order of MONITOR, so they count once together.
        """
        writes, counted = 0, False
        for command in self.seen:
            if not command.scripted:
                counted = command.name in WRITES
                writes += counted
            elif command.name in WRITES and not counted:
                writes += 1
                counted = True
        return writes


def client(port: int) -> redis.Redis:
    """A connection for looking and for poisoning."""
    return redis.Redis(port=port, protocol=3)
