"""Blocking connections to Redis or Valkey, one a thread at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from samesession.errors import StoreCorruptError, StoreUnavailableError
from samesession.store import CircuitBreaker
from samesession.stores.redis_client import (
    BrokenError,
    NoScriptError,
    RedisError,
    ResponseError,
    SlowError,
    thread_pool,
    translated,
)
from samesession.stores.redis_target import Target
from samesession.stores.redis_wire import Command, Reply, checked


class ThreadWire:
    """Blocking connections, one a thread at a time; its coroutines never suspend."""

    suspends = False

    def __init__(self, target: Target, scripts: Sequence[str]) -> None:
        """Connect at the first call."""
        self._target = target
        self._scripts = scripts
        self._breaker = CircuitBreaker(clock=time.monotonic)
        self._pool = thread_pool(target)

    async def call(self, *command: str | bytes | int) -> Reply:
        """See `Wire`."""
        (reply,) = self._run([command])
        if isinstance(reply, StoreCorruptError):
            raise reply
        return reply

    async def many(self, commands: Sequence[Command]) -> list[Reply]:
        """See `Wire`."""
        return self._run(commands) if commands else []

    async def close(self) -> None:
        """See `Wire`."""
        self._pool.disconnect()

    def _run(self, commands: Sequence[Command]) -> list[Reply]:
        if not self._breaker.allows():
            raise StoreUnavailableError(f"{self._target.name} did not answer a moment ago")
        try:
            replies = self._exchange(commands)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                self._exchange([("SCRIPT", "LOAD", script) for script in self._scripts])
                replies = self._exchange(commands)
        except RedisError as error:
            self._breaker.failed()
            raise translated(error, self._target) from None
        self._breaker.succeeded()
        return checked(
            [
                translated(reply, self._target) if isinstance(reply, Exception) else reply
                for reply in replies
            ]
        )

    def _exchange(self, commands: Sequence[Command]) -> list[Reply]:
        try:
            return self._exchange_once(commands)
        except SlowError:
            raise
        except BrokenError:
            return self._exchange_once(commands)  # the server was restarted, for one

    def _exchange_once(self, commands: Sequence[Command]) -> list[Reply]:
        connection = self._pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            return [self._read(connection) for _ in commands]
        except BaseException:
            connection.disconnect()  # its next answer would be somebody else's
            raise
        finally:
            self._pool.release(connection)

    def _read(self, connection: Any) -> Reply:
        try:
            return connection.read_response()
        except ResponseError as error:
            return error
