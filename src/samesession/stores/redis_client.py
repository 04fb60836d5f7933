"""redis-py: the connections that we use of it, and its errors in our words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import redis.asyncio as redis_asyncio
from redis.asyncio import Connection as LoopConnection
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection as ThreadConnection
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as BrokenError,
)
from redis.exceptions import (
    TimeoutError as SlowError,
)
from redis.retry import Retry

from samesession.errors import StoreCorruptError, StoreUnavailableError
from samesession.stores.redis_direct import THREAD, Message, Talk
from samesession.stores.redis_target import Node, Target

log = logging.getLogger("samesession")

__all__ = [
    "AGAIN",
    "AskError",
    "BrokenError",
    "LoopConnection",
    "Message",
    "MovedError",
    "NoScriptError",
    "RedisError",
    "ResponseError",
    "SlowError",
    "Talk",
    "ThreadConnection",
    "elsewhere",
    "loop_connection",
    "only_asks",
    "teller",
    "thread_connection",
    "track_loop",
    "track_thread",
    "translated",
]

AGAIN = (BrokenError, NoScriptError)
"""Answers after which a command is sent once more, after what is amiss has been put right."""

# All reads are tracked; what this very connection changes is not told, since it knows.
_TRACK = ("CLIENT", "TRACKING", "ON", "NOLOOP")


_LOOP = {
    "tcp": redis_asyncio.Connection,
    "tls": redis_asyncio.SSLConnection,
    "unix": redis_asyncio.UnixDomainSocketConnection,
}


def loop_connection(
    target: Target, node: Node, *, sentinel: bool = False, tracked: bool = False
) -> LoopConnection:
    """A connection without time-outs of its own: the wire keeps the deadline.

    Args:
        sentinel: whether the node is one.
        tracked: whether the server shall tell something on it, unasked.
    """
    return _LOOP[target.kind](  # type: ignore[no-any-return]
        **_options(target, node, sentinel=sentinel, tracked=tracked),
        socket_timeout=None,
        retry=redis_asyncio.retry.Retry(NoBackoff(), 0),
    )


def thread_connection(
    target: Target, node: Node, *, sentinel: bool = False, tracked: bool = False
) -> ThreadConnection:
    """A blocking connection that connects at its first use; see `loop_connection`."""
    return THREAD[target.kind](  # type: ignore[no-any-return]
        **_options(target, node, sentinel=sentinel, tracked=tracked),
        socket_timeout=target.deadline_s,
        retry=Retry(NoBackoff(), 0),
    )


def _options(target: Target, node: Node, *, sentinel: bool, tracked: bool) -> Mapping[str, Any]:
    host, port = node
    return {
        **(target.sentinel_options if sentinel else target.options),
        **({"host": host, "port": port} if port else {"path": host}),
        "socket_connect_timeout": target.deadline_s,
        # Only RESP3 tells unasked. But its map costs hiredis four times what RESP2's list does.
        "protocol": 3 if tracked else 2,
        # redis-py introduces itself with commands of its own on each connection; we do without.
        "driver_info": None,
    }


async def track_loop(connection: LoopConnection, changed: Callable[[bytes | None], None]) -> None:
    """Have a connection told what others change of the keys that it reads from now on.

    Raises:
        ResponseError: the server refuses (its user may not, or a proxy knows no tracking).
    """
    tell = teller(changed)

    async def pushed(message: list[Any]) -> None:
        tell(message)

    parser: Any = connection._parser
    parser.set_invalidation_push_handler(pushed)
    parser.set_pubsub_push_handler(pushed)
    await connection.send_command(*_TRACK)
    await connection.read_response()


def track_thread(connection: ThreadConnection, changed: Callable[[bytes | None], None]) -> None:
    """The same for a blocking connection."""
    parser: Any = connection._parser
    parser.set_invalidation_push_handler(teller(changed))
    parser.set_pubsub_push_handler(teller(changed))
    connection.send_command(*_TRACK, check_health=False)
    connection.read_response()


def teller(changed: Callable[[bytes | None], None]) -> Callable[[list[Any]], None]:
    """Take a message of a tracked connection apart."""

    def tell(message: list[Any]) -> None:
        if message[0] == b"invalidate":
            for name in message[1] or (None,):
                changed(name)

    return tell


def elsewhere(error: Exception) -> bool:
    """Whether a server refused a command because it is another one's: it did nothing with it."""
    # Redis 6 puts the script's name and place in front of what a script's command said.
    return isinstance(error, AskError | ReadOnlyError | ClusterDownError) or (
        isinstance(error, ResponseError) and "-READONLY " in str(error)
    )


def only_asks(error: Exception) -> bool:
    """Whether a server sends on a command for one key, which has left, of a slot that it has."""
    return isinstance(error, AskError) and not isinstance(error, MovedError)


def translated(error: Exception, called: str) -> Exception:
    """redis-py's errors in our words: whose fault it was decides the class."""
    if isinstance(error, ResponseError) and "WRONGTYPE " in str(error):
        return StoreCorruptError(f"{called} holds something under a session's key that is none")
    if isinstance(error, AskError):
        error = ResponseError("one node of a cluster; write redis+cluster://")
    if isinstance(error, ResponseError) and not isinstance(error, BusyLoadingError):
        # No access, out of memory, read-only replica: a wrong set-up, told in the log too.
        log.error("%s refused a command: %s", called, error)
    return StoreUnavailableError(f"{called}: {error}")
