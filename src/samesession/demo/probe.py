"""The probe application: JSON routes that read and write one session, for tests and measurements.

Paths, methods and keys are fixed; programs outside this repository drive them. A fault of the store
is not caught here: the middleware answers it with 503 and ``Retry-After``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from samesession import Sessions
from samesession.demo.answers import json_body, plain, session_of
from samesession.errors import SessionTooLargeError, ValueNotStorableError
from samesession.session import Session

SLOWEST_MS = 30_000
LONGEST_PRINCIPAL = 128


@dataclass(frozen=True, slots=True)
class Probe:
    """The routes of one server."""

    sessions: Sessions
    server: str

    def routes(self) -> list[BaseRoute]:
        """Return the table of routes."""
        return [
            Route("/health", self.plain),
            Route("/api/plain", self.plain),
            Route("/api/counts", self.counts),
            Route("/api/session", self.read),
            Route("/api/session/{key}", self.put, methods=["PUT"]),
            Route("/api/session/{key}", self.delete, methods=["DELETE"]),
            Route("/api/session/{key}/append", self.append, methods=["POST"]),
            Route("/api/slow/{key}", self.put_slowly, methods=["PUT"]),
            Route("/api/login/{principal}", self.login, methods=["POST"]),
            Route("/api/logout", self.logout, methods=["POST"]),
            Route("/api/logout-everywhere", self.logout_everywhere, methods=["POST"]),
            Route("/api/rotate", self.rotate, methods=["POST"]),
            Route("/api/sessions", self.held),
            WebSocketRoute("/api/socket", self.socket),
        ]

    async def plain(self, request: Request) -> JSONResponse:
        """Answer without a look at the session."""
        return self._answer()

    async def counts(self, request: Request) -> JSONResponse:
        """Answer what this process has counted so far."""
        return self._answer(**self.sessions.counts)

    async def read(self, request: Request) -> JSONResponse:
        """Answer everything that this server knows about the session."""
        session = session_of(request)
        ended = {} if session.ended is None else {"ended": session.ended}
        return self._answer(
            known=not session.is_new,
            principal=session.principal,
            handle=session.handle,
            version=session.version,
            data=plain(dict(session)),
            **ended,
        )

    async def put(self, request: Request) -> JSONResponse:
        """Set one key to the body's JSON value."""
        session = session_of(request)
        session[request.path_params["key"]] = await json_body(request)
        return await self._written(session)

    async def put_slowly(self, request: Request) -> JSONResponse:
        """Read the session, wait ``ms`` milliseconds, then set the key."""
        session = session_of(request)
        len(session)  # the first use: what other requests commit from here on is news to this one
        wait_ms = _milliseconds(request)
        value = await json_body(request)
        await asyncio.sleep(wait_ms / 1000)
        session[request.path_params["key"]] = value
        return await self._written(session)

    async def delete(self, request: Request) -> JSONResponse:
        """Remove one key; one that is not there is removed already."""
        session = session_of(request)
        session.pop(request.path_params["key"], None)
        return await self._written(session)

    async def append(self, request: Request) -> JSONResponse:
        """Append to a list inside the session, which notices that by itself."""
        session = session_of(request)
        key, value = request.path_params["key"], await json_body(request)
        items = session.get(key)
        if key not in session:
            items = session[key] = [value]
        elif isinstance(items, list):
            items.append(value)
        else:
            raise HTTPException(409, f"{key!r} holds {type(items).__name__}, not a list")
        try:
            return await self._written(session)
        except (SessionTooLargeError, ValueNotStorableError):
            items.pop()  # the answer commits too, and must not meet the same value again
            raise

    async def login(self, request: Request) -> JSONResponse:
        """Log in under any name; a real shop would ask for a password."""
        principal = request.path_params["principal"]
        if not principal.isprintable() or len(principal) > LONGEST_PRINCIPAL:
            raise HTTPException(400, f"a name has 1 to {LONGEST_PRINCIPAL} printable characters")
        session_of(request).login(principal)
        return self._answer(principal=principal)

    async def logout(self, request: Request) -> JSONResponse:
        """End this session on every server."""
        session_of(request).logout()
        return self._answer(principal=None)

    async def logout_everywhere(self, request: Request) -> JSONResponse:
        """End every session of the current principal, this one included."""
        session = session_of(request)
        if session.principal is not None:
            await self.sessions.end_all(session.principal)
        session.logout()
        return self._answer(principal=None)

    async def rotate(self, request: Request) -> JSONResponse:
        """Give the session a new identity with the same contents."""
        session = session_of(request)
        session.rotate()
        return self._answer(principal=session.principal)

    async def held(self, request: Request) -> JSONResponse:
        """Answer the current principal's sessions; nobody's are none."""
        return JSONResponse(await held_by_principal(self.sessions, session_of(request)))

    async def socket(self, websocket: WebSocket) -> None:
        """Say who is there, then echo; the middleware closes the socket when the session ends."""
        session = session_of(websocket)
        await websocket.accept()
        try:
            await websocket.send_json({"server": self.server, "principal": session.principal})
            while (message := await websocket.receive())["type"] == "websocket.receive":
                await websocket.send({**message, "type": "websocket.send"})
        except WebSocketDisconnect:
            return

    def _answer(self, **more: object) -> JSONResponse:
        return JSONResponse({"server": self.server, **more})

    async def _written(self, session: Session) -> JSONResponse:
        await self.sessions.commit(session)
        return self._answer(version=session.version)


async def held_by_principal(sessions: Sessions, session: Session) -> list[dict[str, object]]:
    """Return the sessions of this session's principal as JSON values; none for nobody."""
    if session.principal is None:
        return []
    return [
        {
            "handle": held.handle,
            "created_at": _iso(held.created_at),
            "last_seen": _iso(held.last_seen),
            "current": held.handle == session.handle,
        }
        for held in await sessions.held_by(session.principal)
    ]


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _milliseconds(request: Request) -> int:
    text = request.query_params.get("ms", "")
    if not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) <= SLOWEST_MS):
        raise HTTPException(400, f"ms must be a whole number from 0 to {SLOWEST_MS}, not {text!r}")
    return int(text)
