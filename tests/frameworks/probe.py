"""The probe application once, for every framework: each one's file only brings it the session.

The core never suspends over a store for threads, so the same coroutines serve WSGI (`stepped`).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frameworks.mapping import CHANGING, MAPPING
from samesession import Sessions
from samesession._bridge import ready
from samesession.errors import RetryableError

SERVER = os.environ.get("SAMESESSION_SERVER", "s1")
Open = Callable[[], Awaitable[Any]]


@dataclass
class Reply:
    """What a route answers, before a framework puts it into its own response."""

    status: int = 200
    content: Any = None
    location: str | None = None

    @property
    def body(self) -> bytes:
        return json.dumps(self.content).encode()

    @property
    def headers(self) -> dict[str, str]:
        more = {} if self.location is None else {"Location": self.location}
        return {"Content-Type": "application/json", **more}


@dataclass
class Probe:
    """Its routes over one kind of verbs: coroutines of a loop, or those that never suspend."""

    counts: Mapping[str, int]
    verbs: Any
    sleep: Callable[[float], Awaitable[None]]
    commit: Callable[[Any], Awaitable[None]]

    async def answer(  # noqa: C901  (a table of routes)
        self, method: str, path: str, query: Mapping[str, str], body: bytes, opened: Open
    ) -> Reply:
        """Answer one request; ``opened`` gives the session, and only then it counts as used."""
        parts = path.strip("/").split("/")
        method = "GET" if method == "HEAD" else method
        match method, *parts:
            case "GET", "health" | "api", *_ if parts[-1] in {"health", "plain"}:
                return self._said()
            case "GET", "api", "counts":
                return self._said(**self.counts)
            case "GET", "api", "session":
                return self.read(await opened())
            case "PUT", "api", "session", key:
                session = await opened()
                session[key] = json.loads(body)
                return await self._written(session)
            case "DELETE", "api", "session", key:
                session = await opened()
                session.pop(key, None)
                return await self._written(session)
            case "POST", "api", "session", key, "append":
                session = await opened()
                session.setdefault(key, []).append(json.loads(body))
                return await self._written(session)
            case "PUT", "api", "slow", key:
                session = await opened()
                _ = key in session
                await self.sleep(int(query["ms"]) / 1000)
                session[key] = json.loads(body)
                return await self._written(session)
            case "PUT", "x", "held", key:
                return await self._held(await opened(), key, Path(query["at"]), body)
            case "POST", "api", "login", name:
                session = await opened()
                session.login(name)
                return self._said(principal=name)
            case "POST", "api", "logout":
                (await opened()).logout()
                return self._said(principal=None)
            case "POST", "api", "logout-everywhere":
                session = await opened()
                if session.principal is not None:
                    await self.verbs.end_all(session.principal)
                session.logout()
                return self._said(principal=None)
            case "POST", "api", "rotate":
                session = await opened()
                session.rotate()
                return self._said(principal=session.principal)
            case "GET", "api", "sessions":
                session = await opened()
                held = await self.verbs.held_by(session.principal) if session.principal else []
                return Reply(
                    content=[
                        {
                            "handle": one.handle,
                            "created_at": one.created_at.isoformat(),
                            "last_seen": one.last_seen.isoformat(),
                            "current": one.handle == session.handle,
                        }
                        for one in held
                    ]
                )
            case _, "x", *rest:
                return await self._other(rest, body, opened)
        return Reply(404, {"error": f"{method} {path}"})

    async def _other(self, rest: list[str], body: bytes, opened: Open) -> Reply:
        session = await opened()
        match rest:
            case ["mapping", name]:
                return self._said(result=(MAPPING | CHANGING)[name](session))
            case ["redirect"]:
                session["redirected"] = True
                return Reply(303, {}, "/api/session")
            case ["upload"]:
                session["size"] = len(body)
                return await self._written(session)
            case ["fail", "write"]:
                session["failed"] = True
                raise RuntimeError("the handler fails, as the test wants")
            case ["fail", "logout"]:
                session.logout()
                raise RuntimeError("the handler fails, as the test wants")
            case ["swallow"]:
                try:
                    session["a"] = 1
                except RetryableError:
                    return self._said(swallowed=True)
                return self._said(swallowed=False)
        return Reply(404, {"error": rest})

    async def _held(self, session: Any, key: str, at: Path, body: bytes) -> Reply:
        """Wait until the test lets go, with the session read: slow without a clock."""
        _ = key in session
        (at / f"in-{key}").touch()
        for _ in range(4000):
            if (at / "go").exists():
                break
            await self.sleep(0.005)
        session[key] = json.loads(body)
        return await self._written(session)

    def read(self, session: Any) -> Reply:
        """Answer everything that this server knows about the session."""
        return self._said(
            known=not session.is_new,
            principal=session.principal,
            handle=session.handle,
            version=session.version,
            data=dict(session.items()),
        )

    async def pieces(self, session: Any, how: str) -> AsyncIterator[bytes]:
        """A stream, with a change after its first piece."""
        yield b"one "
        if how in {"late", "commit"}:
            session[how] = True
        if how == "commit":
            await self.commit(session)
        yield b"two"

    async def afterwards(self, session: Any) -> None:
        """Work in the background, after the response."""
        session["late"] = 1
        await self.commit(session)

    async def _written(self, session: Any) -> Reply:
        await self.commit(session)
        return self._said(version=session.version)

    def _said(self, **more: object) -> Reply:
        return Reply(content={"server": SERVER, **more})


async def _sleep_blocking(seconds: float) -> None:
    time.sleep(seconds)


def on_loops(sessions: Sessions) -> Probe:
    """The probe for event loops."""
    return Probe(sessions.counts, sessions.loops, asyncio.sleep, sessions.commit)


def on_threads(sessions: Sessions) -> Probe:
    """The probe for threads; its coroutines never suspend."""
    core = sessions.threads
    return Probe(sessions.counts, core, _sleep_blocking, core.commit)


def stepped(pieces: AsyncIterator[bytes]) -> Iterator[bytes]:
    """An async generator that never suspends, as a generator."""

    async def following() -> bytes | None:
        return await anext(pieces, None)

    while (piece := ready(following())) is not None:
        yield piece
