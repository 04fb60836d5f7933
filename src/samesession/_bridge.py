"""One async core for threads too: a coroutine that never suspends is stepped once."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def ready(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what the coroutine returns; it must not suspend (costs about 1 µs).

    Raises:
        RuntimeError: it awaited something that was not ready, such as an event loop's future.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine of the blocking core suspended; its store is not open_threads'")
