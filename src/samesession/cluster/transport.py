"""The seam of five calls between a server's agent and the others: all that is known of a network.

The rules, which the zenoh transport and the simulator's keep:

1. Frames are opaque bytes. Any may be lost, doubled, delayed or overtaken; none is altered.
2. No call blocks. `publish` and `query` give up silently when they cannot send (DROP): what
   matters is sent again by `samesession.cluster.replica`.
3. Handlers are called one at a time, by the thread that drives the replica.
4. A server is known by its name; the transport says who is linked, and the frames who they are
   from (mutual TLS decides who may speak at all).

No clock, no asyncio, no retries: `samesession.cluster.replica` counts the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

ALL = "all"
"""The topic that every server subscribes to: heartbeats, endings and claims."""


def mailbox(server: str) -> str:
    """The topic that only this server subscribes to."""
    return f"to/{server}"


class Question(Protocol):
    """A query that waits for its one reply."""

    def reply(self, frame: bytes) -> None:
        """Send the reply, now or later; once. Never sent: the asker's query runs out."""
        ...


class Transport(Protocol):
    """What a network must do."""

    def publish(self, topic: str, frame: bytes) -> None:
        """Send to whoever subscribes to the topic, oneself excepted."""
        ...

    def subscribe(self, topic: str, heard: Callable[[bytes], None]) -> None:
        """Hear what is published to a topic from now on."""
        ...

    def query(
        self, server: str, frame: bytes, replied: Callable[[bytes | None], None], *, within_ms: int
    ) -> None:
        """Ask one server.

        Args:
            server: its name.
            frame: the question.
            replied: called at most once: with the reply, or with None when there will be none.
            within_ms: a reply later than this may be thrown away.
        """
        ...

    def reply(self, asked: Callable[[Question, bytes], None]) -> None:
        """Answer the queries that are sent to this server."""
        ...

    def liveness(self, changed: Callable[[str, bool], None]) -> None:
        """Tell each time a server (its name) is linked or is no longer; those linked now first."""
        ...

    def close(self) -> None:
        """Disappear from the network; the others notice."""
        ...
