"""The seam between the store and whoever carries its commands: one, or many in one write.

Every command that our stores send may be sent twice, so a command whose connection broke is sent
once more. A command that was not answered within its deadline is not: nobody knows what became of
it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, TypeAlias

from samesession.errors import StoreCorruptError
from samesession.stores.redis_target import Node

Command: TypeAlias = tuple[str | bytes | int, ...]
Reply: TypeAlias = Any


class Wire(Protocol):
    """The seam: everything above speaks commands and replies."""

    suspends: bool
    scattered: bool
    """Whether two keys may be two servers', of which each has its own replicas.

    Those of one script must then have one slot.
    """

    def call(self, *command: str | bytes | int) -> Awaitable[Reply]:
        """Send one command; its reply is to be awaited at once.

        Raises:
            StoreUnavailableError: no answer within the deadline, or the server refused.
            StoreCorruptError: something that is no session stands under the key.
        """
        ...

    async def many(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands in one write and return their replies.

        Where `call` would raise a StoreCorruptError, it stands in its reply's place.
        """
        ...

    async def durable(self, commands: Sequence[Command]) -> list[Reply]:
        """`many`, answered when a replica has what they wrote, too, if one is attached.

        What no replica has after the URL parameter ``wait`` is answered all the same, and counted.
        """
        ...

    async def call_at(self, node: Node, *command: str | bytes | int) -> Reply:
        """`call` of a server of our choice: what is about it, and not about a key."""
        ...

    async def primaries(self) -> tuple[Node, ...]:
        """Every server that takes writes."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Tracker(Protocol):
    """Whoever wants to know what others change of the keys that a connection has read."""

    def listening(self) -> None:
        """The connection is new, and the server will tell."""
        ...

    def asked(self, command: Command) -> None:
        """A command is about to be sent on the connection."""
        ...

    def answered(self) -> None:
        """An answer came: what is told here counts, and no longer what another connection tells."""
        ...

    def changed(self, name: bytes | None) -> None:
        """A key that was read was changed; None: all of them may have been."""
        ...

    def refused(self) -> None:
        """The server said that another one has what was asked: what it tells counts no longer."""
        ...

    def lost(self) -> None:
        """The connection is gone, if there was one, and with it whatever would have been told."""
        ...


class Listener(Protocol):
    """Whoever listens on all connections of one event loop, or of one process."""

    def tracker(self, node: Node) -> Tracker:
        """One more connection, to this server."""
        ...


def checked(replies: Sequence[Reply]) -> list[Reply]:
    """Replies of which nothing worse is known than that one is no session."""
    for reply in replies:
        if isinstance(reply, Exception) and not isinstance(reply, StoreCorruptError):
            raise reply
    return list(replies)
