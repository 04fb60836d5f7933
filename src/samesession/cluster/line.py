"""The unix socket between a worker and its agent: requests out, answers back by number.

A frame is its length and a number (4 bytes each, big endian) and a body. Every request may be
asked twice, so one whose connection broke is asked again, of the next agent, until its deadline;
one that was not answered in time is not: nobody knows what became of it.
"""

from __future__ import annotations

import struct
from typing import Protocol

HEAD = struct.Struct(">II")
LARGEST = 64 << 20
"""Bytes of a frame; a longer one is no frame of ours."""

RETRY_S = 0.01
"""Between two tries to connect, while an agent starts."""


class Line(Protocol):
    """One request, one answer."""

    suspends: bool

    def here(self) -> None:
        """Let the agent know that this process lives, and start an agent when there is none."""
        ...

    async def ask(self, body: bytes, within_s: float) -> bytes:
        """Return the agent's answer.

        Raises:
            StoreUnavailableError: no agent, or no answer, within ``within_s``.
        """
        ...

    async def close(self) -> None:
        """Let go of the connections."""
        ...


def framed(number: int, body: bytes) -> bytes:
    """A frame."""
    return HEAD.pack(len(body), number) + body


class Frames:
    """Takes a stream of bytes apart."""

    def __init__(self) -> None:
        """Start between two frames."""
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the frames that are whole now.

        Raises:
            ValueError: what came is no frame of ours.
        """
        data = self._rest + data if self._rest else data
        frames, at = [], 0
        while len(data) - at >= HEAD.size:
            length, number = HEAD.unpack_from(data, at)
            if length > LARGEST:
                raise ValueError(f"a frame of {length} bytes")
            end = at + HEAD.size + length
            if end > len(data):
                break
            frames.append((number, data[at + HEAD.size : end]))
            at = end
        self._rest = data[at:]
        return frames
