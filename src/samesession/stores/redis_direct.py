"""redis-py's connections with a shorter way for commands and answers.

redis-py connects, greets, signs in and speaks TLS. After that a command is bytes out and an answer
bytes in, and its checks cost more than the command: each socket call with a Python time-out polls
first (which hands the interpreter to another thread), and an asyncio stream wakes a task for every
answer. So here a blocking socket has the kernel's time-out, and a loop's transport speaks to our
own protocol.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable
from typing import Any

import hiredis
import redis
import redis.asyncio as redis_asyncio
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.exceptions import ConnectionError as BrokenError
from redis.exceptions import TimeoutError as SlowError

_pack = hiredis.pack_command
_timeval = struct.Struct("@ll").pack
_SLACK_S = 0.005  # a time-out that is so much too long is not worth a system call

# What an answer may be beside data; one look for all three.
_SPECIAL = (Exception, hiredis.PushNotification)


class _Thread:
    """For a blocking connection: mixed into one of redis-py's."""

    _parser: Any
    _sock: Any
    _armed_s = 0.0

    def pack_commands(self, commands: Iterable[tuple[Any, ...]]) -> bytes:
        """As redis-py does; names of commands are one word here."""
        return b"".join([_pack(command) for command in commands])

    def send_packed_command(
        self, command: bytes | Iterable[bytes], check_health: bool = True
    ) -> None:
        """As redis-py does, at once."""
        sock = self._sock
        if sock is None:
            self.connect()  # type: ignore[attr-defined]
            sock = self._sock
        try:
            sock.sendall(command if isinstance(command, bytes) else b"".join(command))
        except BaseException as error:
            self._give_up(error, "write")
            raise

    def read_response(
        self,
        disable_decoding: bool = False,
        *,
        timeout: Any = None,
        disconnect_on_error: bool = True,
        push_request: bool = False,
    ) -> Any:
        """As redis-py does, for at most ``timeout`` seconds without an answer's next byte."""
        parser, sock = self._parser, self._sock
        if sock is None:
            raise BrokenError("closed")
        reader = parser._reader
        try:
            if type(timeout) is float:
                self._arm(sock, timeout)
            while (reply := reader.gets()) is NOT_ENOUGH_DATA:
                read = sock.recv_into(parser._buffer)
                if not read:
                    raise BrokenError("the server closed the connection")
                reader.feed(parser._buffer, 0, read)
        except BaseException as error:
            self._give_up(error, "read")
            raise
        if isinstance(reply, _SPECIAL):
            if isinstance(reply, Exception):
                raise reply
            told = parser.handle_push_response(reply)
            return told if push_request else self.read_response(timeout=timeout)
        return reply

    def _give_up(self, error: BaseException, what: str) -> None:
        """Close the socket, for its next answer would be somebody else's; say why in our words."""
        self.disconnect()  # type: ignore[attr-defined]
        if isinstance(error, TimeoutError | BlockingIOError):
            raise SlowError(f"time-out at a {what}") from None
        if isinstance(error, OSError):
            raise BrokenError(f"cannot {what}: {error}") from None

    def _arm(self, sock: Any, timeout_s: float) -> None:
        if not 0 <= self._armed_s - timeout_s < _SLACK_S:
            sock.settimeout(timeout_s)
            self._armed_s = timeout_s


class _KernelTimeout(_Thread):
    """The kernel keeps the time-out, so no call polls first; TLS cannot, since it reads ahead."""

    socket_timeout: float

    def _connect(self) -> Any:
        sock = super()._connect()  # type: ignore[misc]
        sock.settimeout(None)
        self._armed_s = 0.0
        self._arm(sock, self.socket_timeout)
        return sock

    def _arm(self, sock: Any, timeout_s: float) -> None:
        if not 0 <= self._armed_s - timeout_s < _SLACK_S:
            value = _timeval(int(timeout_s), int(timeout_s % 1 * 1e6) or 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
            self._armed_s = timeout_s


class _ThreadTcp(_KernelTimeout, redis.Connection):  # type: ignore[misc]
    pass


class _ThreadUnix(_KernelTimeout, redis.UnixDomainSocketConnection):  # type: ignore[misc]
    pass


class _ThreadTls(_Thread, redis.SSLConnection):
    pass


class _Stream(asyncio.Protocol):
    """Receives for a connection in place of asyncio's stream."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.broken: Exception | None = None
        self._more: asyncio.Future[None] | None = None

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.broken = BrokenError(f"cannot read: {exc}" if exc else "closed by the server")
        self._wake()

    async def more(self) -> None:
        """Wait for the next bytes, or for the end."""
        if self.broken is not None:
            raise self.broken
        self._more = asyncio.get_running_loop().create_future()
        await self._more

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)


class _Loop:
    """For an event loop's connection: mixed into one of redis-py's."""

    _parser: Any
    _writer: Any
    _direct: _Stream | None = None

    async def connect(self) -> None:
        """As redis-py does, and then receive ourselves."""
        await super().connect()  # type: ignore[misc]
        self._direct = _Stream(self._parser._reader)
        self._writer.transport.set_protocol(self._direct)

    def pack_commands(self, commands: Iterable[tuple[Any, ...]]) -> bytes:
        """As redis-py does; names of commands are one word here."""
        return b"".join([_pack(command) for command in commands])

    async def send_packed_command(
        self, command: bytes | Iterable[bytes], check_health: bool = True
    ) -> None:
        """As redis-py does, without waiting: whoever is not answered in time stops sending."""
        if self._direct is None:
            await super().send_packed_command(command, check_health)  # type: ignore[misc]
        else:
            transport = self._writer.transport
            if transport.is_closing():
                raise BrokenError("closed")
            transport.write(command if isinstance(command, bytes) else b"".join(command))

    async def read_response(self, *args: Any, push_request: bool = False, **options: Any) -> Any:
        """As redis-py does, for as long as it takes."""
        stream = self._direct
        if stream is None:
            return await super().read_response(*args, push_request=push_request, **options)  # type: ignore[misc]
        while True:
            reply = stream.reader.gets()
            if reply is NOT_ENOUGH_DATA:
                await stream.more()
            elif not isinstance(reply, _SPECIAL):
                return reply
            elif isinstance(reply, Exception):
                raise reply
            else:
                told = await self._parser.handle_push_response(reply)
                if push_request:
                    return told

    async def disconnect(self, *args: Any, **options: Any) -> None:
        """As redis-py does, without TLS' farewell, which a loop that ends would cut short."""
        if self._direct is not None:
            self._direct = None
            self._writer.transport.abort()
        await super().disconnect(*args, **options)  # type: ignore[misc]


class _LoopTcp(_Loop, redis_asyncio.Connection):  # type: ignore[misc]
    pass


class _LoopUnix(_Loop, redis_asyncio.UnixDomainSocketConnection):  # type: ignore[misc]
    pass


class _LoopTls(_Loop, redis_asyncio.SSLConnection):  # type: ignore[misc]
    pass


THREAD = {"tcp": _ThreadTcp, "unix": _ThreadUnix, "tls": _ThreadTls}
"""Blocking connections, by the kind of a target."""

LOOP = {"tcp": _LoopTcp, "unix": _LoopUnix, "tls": _LoopTls}
"""Connections for event loops."""
