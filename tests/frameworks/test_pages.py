"""The applications of the how-to pages, asked as a browser asks; Django's page asserts itself."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from aiohttp.test_utils import TestClient, TestServer

pytestmark = pytest.mark.anyio
HOWTO = Path(__file__).parent.parent.parent / "docs" / "howto"
Ask = Callable[[Any], Awaitable[list[str]]]


def of_asgi(*asked: str) -> Ask:
    async def answers(app: Any) -> list[str]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return [(await client.request(*one.split())).text for one in asked]

    return answers


def of_wsgi(*asked: str) -> Ask:
    async def answers(app: Any) -> list[str]:
        transport = httpx.WSGITransport(app)
        with httpx.Client(transport=transport, base_url="http://shop") as client:
            return [client.request(*one.split()).text for one in asked]

    return answers


def of_aiohttp(*asked: str) -> Ask:
    async def answers(app: Any) -> list[str]:
        async with TestClient(TestServer(app)) as client:
            return [await (await client.request(*one.split())).text() for one in asked]

    return answers


TWICE = ("GET /", "GET /")
# The page, its block, the application in it, what is asked, what is answered.
ASKED: list[tuple[str, int, str, Ask, list[str]]] = [
    ("starlette", 0, "app", of_asgi(*TWICE), ['{"visits":1}', '{"visits":2}']),
    ("starlette", 1, "app", of_asgi("POST /login/ann"), ['{"principal":"ann"}']),
    ("starlette", 2, "bare_app", of_asgi(*TWICE), ["1", "2"]),
    ("litestar", 0, "app", of_asgi(*TWICE, "POST /logout", "GET /"), ["1", "2", "null", "1"]),
    ("flask", 0, "app", of_wsgi(*TWICE), ["1", "2"]),
    ("quart", 0, "app", of_asgi(*TWICE), ["1", "2"]),
    ("aiohttp", 0, "app", of_aiohttp(*TWICE, "POST /login"), ["1", "2", "1"]),
    ("wsgi", 0, "app", of_wsgi(*TWICE), ["1", "2"]),
    ("wsgi", 1, "app", of_wsgi(*TWICE), ["1", "2"]),
    ("wsgi", 1, "asgi_app", of_asgi(*TWICE), ["1", "2"]),
    ("wsgi", 2, "bare_app", of_wsgi(*TWICE), ["1", "2"]),
]


@pytest.mark.parametrize(
    ("page", "number", "name", "ask", "answers"),
    ASKED,
    ids=[f"{p}-{n}-{a}" for p, n, a, *_ in ASKED],
)
async def test_the_application_of_a_page_counts_visits(
    page: str, number: int, name: str, ask: Ask, answers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (HOWTO / f"{page}.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # frameworks look up annotations there
    for block in blocks[: number + 1]:
        exec(compile(block, page, "exec"), vars(module))
    assert await ask(vars(module)[name]) == answers
