"""What a child process is: what to run, and how to see that it works."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samesession.lab.ports import LOOPBACK


@dataclass(frozen=True, slots=True)
class Sign:
    """How to see that a child does its work: a request to its port, and how the answer begins."""

    port: int
    request: bytes
    answer: re.Pattern[bytes]

    async def seen(self, within: float = 1.0) -> bool:
        """Ask once.

        Args:
            within: seconds, for connecting and answering together.
        """
        try:
            async with asyncio.timeout(within):
                reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
                try:
                    writer.write(self.request)
                    return self.answer.match(await reader.read(64)) is not None
                finally:
                    writer.close()
        except OSError:  # TimeoutError is one
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to run, and how.

    Attributes:
        sign: None when it only has to run.
        about: what the line that announces it says before the address.
        readable: makes a line of its output plain; None for lines that are not worth showing.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    sign: Sign | None = None
    about: str = ""
    restart: bool = True
    readable: Callable[[str], str | None] = str
