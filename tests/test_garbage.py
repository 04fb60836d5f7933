"""What a request leaves behind: nothing that only the garbage collector could free.

A session that its own request held in a circle leaked nothing, but memory was new and cold for
every request until a collection, and each cost half as much again.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Any

import asgi_visits
import pytest
import wsgi_visits
from visits import World, sets

from samesession import Session
from samesession.web.wsgi import SessionMiddleware


def living() -> int:
    return sum(
        issubclass(type(one), Session) for one in gc.get_objects()
    )  # lazy ones have no class


@pytest.fixture(autouse=True)
def freed_without_the_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    before = living()
    yield
    left = living() - before
    gc.enable()
    assert left == 0


@pytest.mark.anyio
async def test_an_asgi_request_leaves_no_garbage() -> None:
    visitor = asgi_visits.Visitor(asgi_visits.app_of(World(), sets(a=[1]), sets(a=[2]), repr))
    for _ in range(3):
        assert (await visitor.asks()).status == 200


def test_a_wsgi_request_leaves_no_garbage() -> None:
    handlers = [sets(a=[1]), sets(a=[2]), repr]

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        handlers.pop(0)(environ["samesession"])
        start_response("200 OK", [])
        return [b"ok"]

    visitor = wsgi_visits.Visitor(SessionMiddleware(app, World().sessions))
    for _ in range(3):
        assert visitor.asks().status == 200
