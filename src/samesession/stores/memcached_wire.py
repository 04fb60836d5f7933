"""emcache and pymemcache behind three calls: gets, add, cas; for event loops and for threads.

Chosen by measurement (docs/howto/memcached.md): the asyncio clients are equally fast, but aiomcache
spins for ever when the server goes away during a write; for threads pymemcache and meta-memcache
are equally fast, and pymemcache has no parts of its own beyond the protocol. Every command may be
sent twice; one that was not answered within its deadline is not sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from queue import Empty, LifoQueue
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import emcache
from emcache.client_errors import (
    CommandError,
    NotStoredStorageCommandError,
    StorageCommandError,
)
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError

from samesession.errors import StoreUnavailableError
from samesession.store import CircuitBreaker


class Wire(Protocol):
    """The seam; each call raises StoreUnavailableError when no answer came in time."""

    suspends: bool

    async def gets(self, key: str) -> tuple[bytes, Any] | None:
        """Return a value and what `cas` wants to know about it."""
        ...

    async def add(self, key: str, value: bytes, expire: int) -> bool:
        """Store where nothing is; False when something was."""
        ...

    async def cas(self, key: str, value: bytes, expire: int, seen: Any) -> bool:
        """Store where still is what was seen."""
        ...

    async def stats(self) -> dict[str, str]:
        """What the server says about itself."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class ThreadWire:
    """Blocking connections, one a thread at a time; its coroutines never suspend."""

    suspends = False

    def __init__(self, host: str, port: int, deadline_s: float, pool: int) -> None:
        """Connect at the first call."""
        self._name = f"{host}:{port}"
        self._deadline_s = deadline_s
        self._breaker = CircuitBreaker(clock=time.monotonic)
        self._free: LifoQueue[Client] = LifoQueue()
        for _ in range(pool):
            self._free.put(
                Client((host, port), connect_timeout=deadline_s, timeout=deadline_s, no_delay=True)
            )
        self._pool = pool

    async def gets(self, key: str) -> tuple[bytes, Any] | None:
        """See `Wire`."""
        value, seen = self._run(lambda client: client.gets(key))
        return None if value is None else (value, seen)

    async def add(self, key: str, value: bytes, expire: int) -> bool:
        """See `Wire`."""
        return bool(self._run(lambda client: client.add(key, value, expire, noreply=False)))

    async def cas(self, key: str, value: bytes, expire: int, seen: Any) -> bool:
        """See `Wire`."""
        return bool(self._run(lambda client: client.cas(key, value, seen, expire, noreply=False)))

    async def stats(self) -> dict[str, str]:
        """See `Wire`."""
        told = self._run(lambda client: client.stats())
        return {_text(name): _text(value) for name, value in told.items()}

    async def close(self) -> None:
        """See `Wire`; a later call connects again."""
        held = []
        while not self._free.empty():
            held.append(self._free.get())
            held[-1].close()
        for client in held:
            self._free.put(client)

    def _run(self, work: Callable[[Client], Any]) -> Any:
        if not self._breaker.allows():
            raise StoreUnavailableError(f"{self._name} did not answer a moment ago")
        until = time.monotonic() + self._deadline_s
        try:
            client = self._free.get(timeout=self._deadline_s)
        except Empty:
            raise StoreUnavailableError(
                f"{self._name}: all {self._pool} connections were busy for {self._deadline_s:g} s; "
                "raise ?pool="
            ) from None
        try:
            try:
                done = work(client)
            except (MemcacheError, OSError) as error:  # it has closed its connection
                if isinstance(error, TimeoutError) or time.monotonic() >= until:
                    raise
                done = work(client)
        except (MemcacheError, OSError) as error:
            self._breaker.failed()
            raise _unavailable(self._name, error) from None
        finally:
            self._free.put(client)
        self._breaker.succeeded()
        return done


class LoopWire:
    """A pool of connections for each event loop that asks."""

    suspends = True

    def __init__(self, host: str, port: int, deadline_s: float, pool: int) -> None:
        """Connect at the first call."""
        self._target = (host, port, deadline_s, pool)
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()

    async def gets(self, key: str) -> tuple[bytes, Any] | None:
        """See `Wire`."""
        item = await self._here().run(lambda client: client.gets(key.encode()))
        return None if item is None else (item.value, item.cas)

    async def add(self, key: str, value: bytes, expire: int) -> bool:
        """See `Wire`."""
        return await self._stored(lambda client: client.add(key.encode(), value, exptime=expire))

    async def cas(self, key: str, value: bytes, expire: int, seen: Any) -> bool:
        """See `Wire`."""
        return await self._stored(
            lambda client: client.cas(key.encode(), value, seen, exptime=expire)
        )

    async def stats(self) -> dict[str, str]:
        """See `Wire`."""
        host, port, *_ = self._target
        address = emcache.MemcachedHostAddress(host, port)
        told: dict[str, str] = await self._here().run(lambda client: client.stats(address))
        return told

    async def close(self) -> None:
        """See `Wire`; connections of other loops went with their loops."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close()

    async def _stored(self, work: Callable[[Any], Any]) -> bool:
        async def stored(client: Any) -> bool:
            try:
                await work(client)
            except NotStoredStorageCommandError:
                return False
            except StorageCommandError as error:
                if "NOT_FOUND" in str(error):  # evicted since it was read
                    return False
                raise
            return True

        done: bool = await self._here().run(stored)
        return done

    def _here(self) -> _Pool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            pool = self._pools[loop] = _Pool(*self._target)
        return pool


class _Pool:
    """Connections of one event loop."""

    def __init__(self, host: str, port: int, deadline_s: float, pool: int) -> None:
        self._name = f"{host}:{port}"
        self._address = emcache.MemcachedHostAddress(host, port)
        self._deadline_s = deadline_s
        self._pool = pool
        # emcache lets whoever came last have the next free connection.
        self._turns = asyncio.Semaphore(pool)
        self._breaker = CircuitBreaker(clock=time.monotonic)
        self._opening = asyncio.Lock()
        self._client: Any = None

    async def run(self, work: Callable[[Any], Any]) -> Any:
        if not self._breaker.allows():
            raise StoreUnavailableError(f"{self._name} did not answer a moment ago")
        client = await self._opened()
        try:
            async with asyncio.timeout(self._deadline_s), self._turns:
                done = await work(client)
        except TimeoutError:
            self._breaker.failed()
            await self._give_up(client)
            raise StoreUnavailableError(
                f"{self._name} did not answer within {self._deadline_s:g} s"
            ) from None
        except (CommandError, OSError) as error:
            self._breaker.failed()
            await self._give_up(client)
            raise _unavailable(self._name, error) from None
        except RuntimeError as error:
            if self._client is client:
                raise
            # Another request gave up on this client while we waited for our turn.
            raise _unavailable(self._name, error) from None
        self._breaker.succeeded()
        return done

    async def close(self) -> None:
        if self._client is not None:
            await self._give_up(self._client)

    async def _opened(self) -> Any:
        if self._client is None:
            async with self._opening:
                if self._client is None:
                    self._client = await emcache.create_client(
                        [self._address],
                        timeout=None,
                        connection_timeout=self._deadline_s,
                        max_connections=self._pool,
                        min_connections=1,
                    )
        return self._client

    async def _give_up(self, client: Any) -> None:
        """Drop a client that may wait for up to a minute before it connects again."""
        if self._client is client:
            self._client = None
            await client.close()


def _unavailable(name: str, error: Exception) -> StoreUnavailableError:
    return StoreUnavailableError(f"{name}: {str(error) or type(error).__name__}")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
