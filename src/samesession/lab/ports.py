"""Loopback ports that nobody else is given while we hold them."""

from __future__ import annotations

import socket
from typing import Self

from samesession.errors import ConfigError

LOOPBACK = "127.0.0.1"


class Port:
    """A port of 127.0.0.1, held for one of our own servers from now until ``close``.

    The socket is bound and never listens: while the server is down a client is refused at once,
    and no outgoing connection takes the number as its source port, which would keep a restarted
    server from getting its port back. Linux lets the server bind beside it, since both carry
    ``SO_REUSEADDR`` and only the server's socket listens.
    """

    def __init__(self, number: int = 0) -> None:
        """Take port ``number``, or any free one when it is 0.

        Raises:
            ConfigError: somebody listens on that port, or we may not have it.
        """
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if number:
                # Before binding: connections of an earlier run linger in TIME_WAIT on this port.
                self._share()
            self._socket.bind((LOOPBACK, number))
            # After binding to 0: with the option set, the kernel could pick a port held elsewhere.
            self._share()
        except OSError as error:
            self._socket.close()
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(
                f"port {number} of {LOOPBACK} is not to be had: {reason}; choose another one"
            ) from None
        self.number: int = self._socket.getsockname()[1]

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{LOOPBACK}:{self.number}"

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _share(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
