"""A browser: one keep-alive connection, its own cookies, as few instructions as possible."""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import cast

from bench.workloads import Step

HEADERS = (
    b"Host: 127.0.0.1\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) bench\r\n"
    b"Accept: text/html,application/xhtml+xml\r\n"
    b"Accept-Language: en-GB,en\r\n"
)
# In lower case, as uvicorn sends names; an answer's head is compared in lower case.
LENGTH = b"\r\ncontent-length: "
SET_COOKIE = b"\r\nset-cookie: "


class WrongAnswerError(Exception):
    """An answer that no working session would give; the figures would be worthless."""


class Browser(asyncio.Protocol):
    """One user: logs in with a counter of their own, then reads it and counts it up.

    Every answer is compared with the counter as this browser knows it: a session that was not
    read, a write that was not kept or somebody else's session ends the benchmark.
    """

    def __init__(self, *, start: int, keeps: bool) -> None:
        self._count = start
        self._keeps = keeps
        self._cookies: dict[bytes, bytes] = {}
        self._requests = dict.fromkeys(Step, b"")
        self._answer = b""
        self._steps: list[Step] = []
        self._done: asyncio.Future[None] | None = None
        self._sent_ns = 0
        self.latencies_ns: list[int] = []
        self._compose()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; asyncio calls this."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports inherit nothing

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the visit if the server hangs up in the middle of it."""
        self._fail(f"connection lost: {exc}")

    async def visit(self, steps: list[Step]) -> None:
        """Send one request after another, each when the answer before has been checked."""
        self._steps = steps[::-1]
        self._done = asyncio.get_running_loop().create_future()
        self._next()
        await self._done

    def close(self) -> None:
        """Hang up."""
        self._done = None
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Take the whole answer, check it, go on."""
        answer = self._answer + data if self._answer else data
        head = answer.find(b"\r\n\r\n")
        lower = answer[: head + 2].lower()
        length_at = lower.find(LENGTH) + len(LENGTH)
        if head < 0 or len(answer) < head + 4 + int(
            lower[length_at : lower.find(b"\r\n", length_at)]
        ):
            self._answer = answer
            return
        self._answer = b""
        self.latencies_ns.append(perf_counter_ns() - self._sent_ns)
        if not answer.startswith(b"HTTP/1.1 200 ") or not self._right(answer[head + 4 :]):
            self._fail(f"{self._step.name}, expected {self._count}: {answer!r}")
            return
        if SET_COOKIE in lower:
            self._take_cookies(answer[:head], lower)
        self._next()

    def _right(self, body: bytes) -> bool:
        return int(body) == self._count if self._keeps else body.isdigit()

    def _next(self) -> None:
        if not self._steps:
            if self._done is not None:
                self._done.set_result(None)
            return
        self._step = self._steps.pop()
        if self._step is Step.WRITE:
            self._count += 1
        self._sent_ns = perf_counter_ns()
        self._transport.write(self._requests[self._step])

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(WrongAnswerError(why))

    def _take_cookies(self, head: bytes, lower: bytes) -> None:
        at = lower.find(SET_COOKIE)
        while at >= 0:
            header = head[at + len(SET_COOKIE) : lower.find(b"\r\n", at + 2)]
            name, _, value = header.split(b";", 1)[0].partition(b"=")
            self._cookies[name] = value
            at = lower.find(SET_COOKIE, at + 2)
        self._compose()

    def _compose(self) -> None:
        """Prepare the bytes of each kind of request; they change only with the cookies."""
        pairs = b"; ".join(name + b"=" + value for name, value in self._cookies.items())
        cookie = b"Cookie: " + pairs + b"\r\n" if pairs else b""
        for step in Step:
            line = step.value % self._count if step is Step.LOGIN else step.value
            body = b"" if step is Step.READ else b"Content-Length: 0\r\n"
            self._requests[step] = line + HEADERS + cookie + body + b"\r\n"
