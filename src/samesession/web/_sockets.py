"""Websockets end with their session: one look at the store for all of a process's sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from samesession.errors import ResponseStartedError, RetryableError, StoreCorruptError
from samesession.lifecycle import Lifecycle
from samesession.record import Key
from samesession.session import Session
from samesession.web._http import unavailable

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOOK_EVERY_S = 0.5
"""PROMISES 14: a socket closes within 1 s of the logout on another server."""

POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013


class Sockets:
    """The sockets of this process whose session is being watched."""

    def __init__(self, core: Lifecycle) -> None:
        """Watch nothing yet."""
        self._core = core
        self._open: set[_Socket] = set()
        self._looking: asyncio.Task[None] | None = None

    async def run(
        self,
        app: Callable[..., Awaitable[None]],
        session: Session,
        scope: Any,
        receive: Receive,
        send: Send,
    ) -> None:
        """Run one socket's handler; its session's end closes it with 1008."""
        socket = _Socket(self._core, session, scope, receive, send)
        self._open.add(socket)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        try:
            await socket.run(app)
        finally:
            self._open.discard(socket)
            if not self._open and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def _look(self) -> None:
        while self._open:
            await asyncio.sleep(LOOK_EVERY_S)
            by_key: dict[Key, list[_Socket]] = {}
            for socket in self._open:
                if socket.watched is not None:
                    by_key.setdefault(socket.watched, []).append(socket)
            for sockets in by_key.values():
                if await self._over(sockets[0].session):
                    await asyncio.gather(*(socket.close() for socket in sockets))

    async def _over(self, session: Session) -> bool:
        try:
            return await self._core.ended(session)
        except (RetryableError, StoreCorruptError):
            return False  # nobody knows; the next look may


class _Socket:
    """One websocket: what the handler receives and sends, until its session ends."""

    def __init__(
        self, core: Lifecycle, session: Session, scope: Any, receive: Receive, send: Send
    ) -> None:
        self.session = session
        self.watched: Key | None = None
        self._core = core
        self._scope = scope
        self._receive = receive
        self._send = send
        self._over = asyncio.Event()

    async def run(self, app: Callable[..., Awaitable[None]]) -> None:
        try:
            await app(self._scope, self.receive, self.send)
        except RetryableError as error:
            if self._over.is_set():
                return
            await self._refuse(error)
            return
        if self._core.uncommitted(self.session):
            raise ResponseStartedError(
                "the session was changed in a websocket and nobody committed it; "
                "call `await sessions.commit(session)` after the change"
            )

    async def receive(self) -> Message:
        if self.watched is None:
            return await self._receive()
        message = asyncio.ensure_future(self._receive())
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({message, over}, return_when=asyncio.FIRST_COMPLETED)
            if message.done():
                return message.result()
        finally:
            over.cancel()
            if not message.done():
                message.cancel()
        return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}

    async def send(self, message: Message) -> None:
        if self._over.is_set():
            # As a server says it when the client has gone: Starlette turns it into a disconnect.
            raise OSError("the session of this websocket has ended")
        await self._send(message)
        if message["type"] == "websocket.accept" and self.session._life.record is not None:
            self.watched = self.session._life.record.key

    async def close(self) -> None:
        if not self._over.is_set():
            self._over.set()
            await self._send({"type": "websocket.close", "code": POLICY_VIOLATION})

    async def _refuse(self, error: RetryableError) -> None:
        accepted = self.session._life.started
        if accepted or "websocket.http.response" not in self._scope.get("extensions", {}):
            await self._send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
            return
        headers, body = unavailable(error)
        await self._send(
            {"type": "websocket.http.response.start", "status": 503, "headers": headers}
        )
        await self._send({"type": "websocket.http.response.body", "body": body})
