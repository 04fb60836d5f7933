"""What threads post is taken by the loop, all of it, whatever they do at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from samesession.cluster.inbox import AT_ONCE, Inbox

pytestmark = pytest.mark.anyio


async def turns(number: int = 4) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_all_is_taken_in_order_with_what_comes_meanwhile() -> None:
    inbox, taken = Inbox(asyncio.get_running_loop()), list[int]()

    def take(number: int) -> None:
        taken.append(number)
        if number < 3:
            inbox.post(take, number + 3)

    for number in range(3):
        inbox.post(take, number)
    await turns()
    assert taken == [0, 1, 2, 3, 4, 5]
    inbox.post(take, 6)
    await turns()
    assert taken[-1] == 6


async def test_two_that_post_at_once_leave_nothing_behind() -> None:
    """A thread may lose its turn between any two steps: here another posts in between."""
    inbox, taken = Inbox(asyncio.get_running_loop()), list[str]()

    class Interrupted(deque[Any]):
        def append(self, item: Any) -> None:
            super().append(item)
            if len(self) == 1:
                inbox.post(taken.append, "other")

    inbox._posted = Interrupted()
    inbox.post(taken.append, "one")
    await turns()
    assert taken == ["one", "other"]
    inbox.post(taken.append, "later")
    await turns()
    assert "later" in taken


async def test_a_handler_that_raises_stops_nobody() -> None:
    loop, raised = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
    inbox, taken = Inbox(loop), list[int]()

    def take(number: int) -> None:
        if number == 1:
            raise ValueError(number)
        taken.append(number)

    for number in range(3):
        inbox.post(take, number)
    await turns()
    assert taken == [0, 2]
    inbox.post(take, 3)
    await turns()
    assert taken == [0, 2, 3]
    assert [str(error) for error in raised] == ["1"]


async def test_what_waits_is_taken_together_but_not_too_much_at_once() -> None:
    blocks, taken = list[int](), list[int]()

    @contextmanager
    def together() -> Iterator[None]:
        yield
        blocks.append(len(taken))

    inbox = Inbox(asyncio.get_running_loop(), together)
    for number in range(AT_ONCE + 5):
        inbox.post(taken.append, number)
    await turns()
    assert blocks == [AT_ONCE, AT_ONCE + 5]
