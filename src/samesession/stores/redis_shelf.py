"""Another library's records in a Redis: read by name, never written (`samesession.adopt`)."""

from __future__ import annotations

from dataclasses import replace

from samesession.adopt import LARGEST, Shelf
from samesession.errors import ConfigError
from samesession.settings import Url
from samesession.stores.redis_loops import LoopWire, nobody
from samesession.stores.redis_target import Target
from samesession.stores.redis_threads import ThreadWire
from samesession.stores.redis_wire import Wire


class RedisShelf:
    """One command a record, with the deadline and the circuit breaker of any store."""

    def __init__(self, wire: Wire) -> None:
        """Ask over ``wire``."""
        self._wire = wire

    async def get(self, name: str) -> bytes | None:
        """See `Shelf`; a planted giant is not even carried here."""
        raw: bytes = await self._wire.call("GETRANGE", name, 0, LARGEST)
        return raw or None

    async def close(self) -> None:
        """See `Shelf`."""
        await self._wire.close()


def open_loop(url: Url) -> Shelf:
    """Open for event loops."""
    return RedisShelf(LoopWire(_target(url), (), listener=nobody))


def open_threads(url: Url) -> Shelf:
    """Open for threads."""
    return RedisShelf(ThreadWire(_target(url), ()))


def _target(url: Url) -> Target:
    if "prefix" in url.parameters:
        raise ConfigError(
            f"{url.scheme}://…?prefix={url.parameters['prefix']} of an old store: "
            "give the prefix to the reader"
        )
    target = Target.of(url)
    return replace(target, name=f"the old {target.name}")
