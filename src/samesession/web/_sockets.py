"""Websockets end with their session: one look at the store for all of a process's sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Protocol

from samesession.errors import AnsweredError, StoreCorruptError
from samesession.lifecycle import Lifecycle
from samesession.record import Key
from samesession.session import Session
from samesession.web._http import nothing_left, refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOOK_EVERY_S = 0.5
"""PROMISES 14: a socket closes within 1 s of the logout on another server."""

POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013


class Watched(Protocol):
    """A websocket as the watch sees it."""

    session: Session
    watched: Key | None

    async def close(self) -> None:
        """Tell the client that its session is over; may be asked again."""
        ...


class Sockets:
    """The sockets of this process whose session is being watched."""

    def __init__(self, core: Lifecycle) -> None:
        """Watch nothing yet."""
        self._core = core
        self._open: set[Watched] = set()
        self._looking: asyncio.Task[None] | None = None

    async def run(
        self,
        app: Callable[..., Awaitable[None]],
        session: Session,
        scope: Any,
        receive: Receive,
        send: Send,
        committing: Send,
    ) -> None:
        """Run one socket's handler; its session's end closes it with 1008.

        Args:
            app: the application.
            session: the socket's.
            scope: the socket's.
            receive: the server's.
            send: the server's.
            committing: commits the session with the handshake's answer, and sends.
        """
        socket = _Socket(self._core, session, scope, receive, send, committing)
        self.enter(socket)
        try:
            await socket.run(app)
        finally:
            self.leave(socket)

    def enter(self, socket: Watched) -> None:
        """Watch a socket's session, as soon as it has one to watch."""
        self._open.add(socket)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())

    def leave(self, socket: Watched) -> None:
        """Watch it no longer."""
        self._open.discard(socket)
        if not self._open and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self) -> None:
        while self._open:
            await asyncio.sleep(LOOK_EVERY_S)
            by_key: dict[Key, list[Watched]] = {}
            for socket in self._open:
                if socket.watched is not None:
                    by_key.setdefault(socket.watched, []).append(socket)
            for sockets in by_key.values():
                if await self._over(sockets):
                    # One client that has gone already must not keep the others' sockets open.
                    closings = (socket.close() for socket in sockets)
                    await asyncio.gather(*closings, return_exceptions=True)

    async def _over(self, sockets: list[Watched]) -> bool:
        if any(socket.session._life.record is None for socket in sockets):
            return True  # one of the handlers ended it itself
        try:
            return await self._core.ended(sockets[0].session)
        except (AnsweredError, StoreCorruptError):
            return False  # nobody knows; the next look may


class _Socket:
    """One websocket: what the handler receives and sends, until its session ends."""

    def __init__(
        self,
        core: Lifecycle,
        session: Session,
        scope: Any,
        receive: Receive,
        send: Send,
        committing: Send,
    ) -> None:
        self.session = session
        self.watched: Key | None = None
        self._core = core
        self._scope = scope
        self._receive = receive
        self._send = send
        self._committing = committing
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._received: asyncio.Future[Message] | None = None
        self._closed = self._ending = False

    async def run(self, app: Callable[..., Awaitable[None]]) -> None:
        life = self.session._life
        try:
            await app(self._scope, self.receive, self.send)
        except Exception as error:
            with suppress(AnsweredError):  # a logout counts
                await self._core.finish(self.session, failed=True)
            retryable = isinstance(error, AnsweredError)
            failure = error if retryable else life.failure if life.failed else None
            told = failure is not None and await self._refuse(failure)
            if not (retryable and told):
                raise
            return
        finally:
            if self._received is not None:
                self._received.cancel()
        if life.failed and not life.started:
            await self._refuse(life.failure)  # also when the handler swallowed it
        elif self._core.uncommitted(self.session):
            await nothing_left(self._core, self.session)

    async def receive(self) -> Message:
        if self.watched is None:
            return self._noted(await self._receive())
        if self._received is None:
            self._received = asyncio.ensure_future(self._receive())
        # Kept when this wait is cancelled (a handler's time-out): no message is lost.
        either: set[asyncio.Future[Any]] = {self._received, self._over}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._ending:
            await self._over  # a handler that returns before the close is sent would lose its code
            return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}
        message, self._received = self._received, None
        return self._noted(message.result())

    async def send(self, message: Message) -> None:
        if self._ending:
            # As a server says it when the client has gone: Starlette turns it into a disconnect.
            raise OSError("the session of this websocket has ended")
        await self._committing(self._noted(message))
        if message["type"] == "websocket.accept" and self.session._life.record is not None:
            self.watched = self.session._life.record.key

    async def close(self) -> None:
        if self._ending or self._closed:
            return
        self._ending = True
        if self._received is not None:
            self._received.cancel()  # granian sends no close while somebody receives
        try:
            await self._send({"type": "websocket.close", "code": POLICY_VIOLATION})
        finally:
            self._over.set_result(None)

    def _noted(self, message: Message) -> Message:
        if message["type"] in _LAST:
            self._closed = True
        return message

    async def _refuse(self, error: Exception | None) -> bool:
        """Say that something was not done; False when nobody is there to hear it."""
        if self._closed or self._ending:
            return self._ending
        accepted = self.session._life.started
        if accepted or "websocket.http.response" not in self._scope.get("extensions", {}):
            await self._send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
            return True
        status, headers, body = refusal(error)
        await self._send(
            {"type": "websocket.http.response.start", "status": status, "headers": headers}
        )
        await self._send({"type": "websocket.http.response.body", "body": body})
        return True


_LAST = frozenset({"websocket.close", "websocket.disconnect", "websocket.http.response.start"})
