"""redis-py's connections with a shorter way for commands and answers.

redis-py connects, greets, signs in and speaks TLS. After that a command is bytes out and an answer
bytes in, and its checks cost more than the command: each socket call with a Python time-out polls
first (which hands the interpreter to another thread), and an asyncio stream wakes a task for every
answer. So here a blocking socket has the kernel's time-out, and a loop's transport speaks to our
own protocol.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

import hiredis
import redis
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.exceptions import ConnectionError as BrokenError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as SlowError

_pack = hiredis.pack_command
_timeval = struct.Struct("@ll").pack
_SLACK_S = 0.005  # a time-out that is so much too long is not worth a system call

Message = hiredis.PushNotification
"""What a connection brings though nobody has asked."""

# What an answer may be beside data; one look for all three.
_SPECIAL = (Exception, Message)


class _Thread:
    """For a blocking connection: mixed into one of redis-py's."""

    _parser: Any
    _sock: Any
    _armed_s = 0.0

    def ask(self, command: tuple[Any, ...], timeout_s: float) -> Any:
        """Send one command where nothing else is on its way, and return its answer or its error.

        Most answers come in one piece, for which this is all there is to do.
        """
        parser, sock = self._parser, self._sock
        if sock is None:
            raise BrokenError("closed")
        reader, buffer = parser._reader, parser._buffer
        try:
            if self._armed_s != timeout_s:
                self._arm(sock, timeout_s)
            sock.sendall(_pack(command))
            read = sock.recv_into(buffer)
            if not read:
                raise BrokenError("the server closed the connection")
            reader.feed(buffer, 0, read)
            reply = reader.gets()
        except BaseException as error:
            self._give_up(error, "command")
            raise
        if reply is NOT_ENOUGH_DATA or isinstance(reply, Message):
            try:
                return self.read_response(timeout=timeout_s)
            except ResponseError as error:
                return error
        return reply

    def pack_commands(self, commands: Iterable[tuple[Any, ...]]) -> bytes:
        """As redis-py does; names of commands are one word here."""
        return b"".join(map(_pack, commands))

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
        """As redis-py does, for at most ``timeout`` seconds, however slowly the answer comes."""
        reply = self.read(timeout if type(timeout) is float else None)
        if isinstance(reply, _SPECIAL):
            if isinstance(reply, Exception):
                raise reply
            told = self._parser.handle_push_response(reply)
            return told if push_request else self.read_response(timeout=timeout)
        return reply

    def read(self, within_s: float | None) -> Any:
        """The next answer, or its error, or a `Message`."""
        parser, sock = self._parser, self._sock
        if sock is None:
            raise BrokenError("closed")
        reader, until = parser._reader, 0.0
        try:
            while (reply := reader.gets()) is NOT_ENOUGH_DATA:
                if within_s is not None:
                    now = monotonic()
                    until = until or now + within_s
                    self._arm(sock, until - now)
                read = sock.recv_into(parser._buffer)
                if not read:
                    raise BrokenError("the server closed the connection")
                reader.feed(parser._buffer, 0, read)
        except BaseException as error:
            self._give_up(error, "read")
            raise
        return reply

    def arrived(self) -> bool:
        """Whether something can be read at once."""
        return bool(self.can_read(timeout=0))  # type: ignore[attr-defined]

    def _give_up(self, error: BaseException, what: str) -> None:
        """Close the socket, for its next answer would be somebody else's; say why in our words."""
        self.disconnect()  # type: ignore[attr-defined]
        if isinstance(error, TimeoutError | BlockingIOError):
            raise SlowError(f"time-out at a {what}") from None
        if isinstance(error, OSError):
            raise BrokenError(f"cannot {what}: {error}") from None

    def _connect(self) -> Any:
        sock = super()._connect()  # type: ignore[misc]
        self._armed_s = 0.0
        return sock

    def _arm(self, sock: Any, timeout_s: float) -> None:
        """Have the socket's calls end in time."""
        if 0 <= self._armed_s - timeout_s < _SLACK_S:
            return
        if timeout_s <= 0:
            raise TimeoutError
        self._set_timeout(sock, timeout_s)
        self._armed_s = timeout_s

    def _set_timeout(self, sock: Any, timeout_s: float) -> None:
        sock.settimeout(timeout_s)


class _KernelTimeout(_Thread):
    """The kernel keeps the time-out, so no call polls first; TLS cannot, since it reads ahead."""

    socket_timeout: float
    _poll: select.poll

    def _connect(self) -> Any:
        sock = super()._connect()
        sock.settimeout(None)
        self._arm(sock, self.socket_timeout)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        return sock

    def arrived(self) -> bool:
        """See above; the kernel is asked once."""
        return self._parser._reader.has_data() or bool(self._poll.poll(0))

    def _set_timeout(self, sock: Any, timeout_s: float) -> None:
        value = _timeval(int(timeout_s), int(timeout_s % 1 * 1e6) or 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


class _ThreadTcp(_KernelTimeout, redis.Connection):  # type: ignore[misc]
    pass


class _ThreadUnix(_KernelTimeout, redis.UnixDomainSocketConnection):  # type: ignore[misc]
    pass


class _ThreadTls(_Thread, redis.SSLConnection):
    pass


THREAD = {"tcp": _ThreadTcp, "unix": _ThreadUnix, "tls": _ThreadTls}
"""Blocking connections, by the kind of a target."""


class Talk(asyncio.Protocol):
    """Commands out and answers in, in an event loop, over a connection that redis-py has made.

    Attributes:
        over: fails when the connection breaks.
    """

    def __init__(
        self,
        connection: Any,
        answered: Callable[[Any], object],
        pushed: Callable[[list[Any]], object] | None,
    ) -> None:
        """Take the connection over from redis-py, which has read all that it asked for.

        Args:
            answered: is given each answer when it arrives, in order; an error is one, too.
            pushed: is given each message that answers nothing.
        """
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answered = answered
        self._pushed = pushed
        self._reader = connection._parser._reader
        self._transport = connection._writer.transport
        self._transport.set_protocol(self)
        if self._transport.is_closing() or connection._reader.at_eof():
            self.connection_lost(None)
        self.data_received(bytes(connection._reader._buffer))

    def send(self, commands: Iterable[tuple[Any, ...]]) -> None:
        """Write commands; what cannot be sent is noticed by whoever waits for its answer."""
        if self._transport.is_closing():
            return  # uvloop raises at a write then, where asyncio says nothing
        self._transport.write(b"".join([_pack(command) for command in commands]))

    def close(self) -> None:
        """Hang up, without TLS' farewell: a loop that ends would cut it short."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not NOT_ENOUGH_DATA:
                if type(reply) is Message:
                    if self._pushed is not None:
                        self._pushed(reply)
                else:
                    self._answered(reply)
        except RedisError as error:
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._end(BrokenError(f"cannot read: {exc}" if exc else "the server hung up"))

    def _end(self, error: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(error)
        self._transport.abort()
