"""What every balancer is told: the servers, who comes back to the same one, the health URL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from samesession.errors import ConfigError
from samesession.strategies import Affinity

AFFINITY_COOKIE = "SRV"

# Both end up in configuration files, so nothing may end a word or a line there.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):\d{1,5}")
_PATH = re.compile(r"/[A-Za-z0-9._~/-]*")


@dataclass(frozen=True, slots=True)
class Server:
    """One application server.

    Attributes:
        name: a stable label such as ``s1``; clients see it in the affinity cookie, which therefore
            never tells an address.
        address: ``host:port``.
    """

    name: str
    address: str

    def __post_init__(self) -> None:
        """Refuse what would not stay one word in a configuration file."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"server name {self.name!r} must be letters, digits, - and _ (s1)")
        if not _ADDRESS.fullmatch(self.address):
            raise ConfigError(f"address {self.address!r} of {self.name} must be host:port")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One application behind one balancer.

    Attributes:
        affinity: ``cookie`` (the balancer's own), ``ip`` (the client's address) or ``none``. Never
            a hash of our session id, which is made after the login was routed: 22 to 36 % found.
        listen: ``host:port`` where clients arrive.
        health: answers 200 (up), 404 (draining: its users stay, nobody new comes), 503 (gone).
        secure: clients come over https, so the affinity cookie is ``Secure``.
        control: where the balancer listens for commands (a unix socket); None: nowhere.
    """

    servers: tuple[Server, ...]
    affinity: Affinity
    listen: str = "127.0.0.1:8080"
    health: str = "/health"
    secure: bool = False
    control: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what no balancer could serve."""
        names = [server.name for server in self.servers]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"a site needs servers with different names, not {names}")
        if self.affinity not in ("cookie", "ip", "none"):
            raise ConfigError(f"affinity {self.affinity!r} must be cookie, ip or none")
        if not _ADDRESS.fullmatch(self.listen):
            raise ConfigError(f"listen address {self.listen!r} must be host:port")
        if not _PATH.fullmatch(self.health):
            raise ConfigError(f"health path {self.health!r} must begin with / and hold no blanks")
