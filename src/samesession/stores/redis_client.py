"""redis-py: the connections that we use of it, and its errors in our words."""

from __future__ import annotations

import logging
from typing import Any

import redis
import redis.asyncio as redis_asyncio
from redis.asyncio import Connection as LoopConnection
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    NoScriptError,
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
from samesession.stores.redis_target import Target

log = logging.getLogger("samesession")

__all__ = [
    "BrokenError",
    "LoopConnection",
    "NoScriptError",
    "RedisError",
    "ResponseError",
    "SlowError",
    "loop_connection",
    "thread_pool",
    "translated",
]

# redis-py introduces itself with commands of its own on each connection; we do without.
_QUIET: dict[str, Any] = {"driver_info": None}


def loop_connection(target: Target) -> LoopConnection:
    """A connection without time-outs of its own: the wire keeps the deadline."""
    kinds = {
        "tcp": redis_asyncio.Connection,
        "tls": redis_asyncio.SSLConnection,
        "unix": redis_asyncio.UnixDomainSocketConnection,
    }
    return kinds[target.kind](  # type: ignore[no-any-return]
        **target.options,
        **_QUIET,
        socket_timeout=None,
        socket_connect_timeout=target.deadline_s,
        retry=redis_asyncio.retry.Retry(NoBackoff(), 0),
    )


def thread_pool(target: Target) -> redis.BlockingConnectionPool:
    """A pool that waits, within the deadline, instead of raising."""
    kinds = {
        "tcp": redis.Connection,
        "tls": redis.SSLConnection,
        "unix": redis.UnixDomainSocketConnection,
    }
    return redis.BlockingConnectionPool(
        connection_class=kinds[target.kind],
        max_connections=target.pool,
        timeout=target.deadline_s,
        **target.options,
        **_QUIET,
        socket_timeout=target.deadline_s,
        socket_connect_timeout=target.deadline_s,
        retry=Retry(NoBackoff(), 0),
    )


def translated(error: Exception, target: Target) -> Exception:
    """redis-py's errors in our words: whose fault it was decides the class."""
    # Redis 6 puts the script's name and place in front of what a script's command said.
    if isinstance(error, ResponseError) and "WRONGTYPE " in str(error):
        return StoreCorruptError(
            f"{target.name} holds something under a session's key that is none"
        )
    if isinstance(error, ResponseError) and not isinstance(error, BusyLoadingError):
        # No access, out of memory, read-only replica: a wrong set-up, told in the log too.
        log.error("%s refused a command: %s", target.name, error)
    return StoreUnavailableError(f"{target.name}: {error}")
