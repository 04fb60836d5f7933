"""What a ``cluster://`` URL says: members, copies, acknowledgement, certificates, where to listen.

URL: ``cluster://host1[:7420],host2,…`` with every server of the cluster, or one name that resolves
to all of them, or ``cluster://`` alone for servers of one machine that are given ``seeds=`` by
whoever starts them. A path names the folder of the local stores, as in ``sticky:///folder``.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from samesession.errors import ConfigError
from samesession.settings import Url
from samesession.stores.lmdb_map import default_folder, server_name

DEFAULT_PORT = 7420

PARAMETERS = (
    "ack",
    "affinity",
    "copies",
    "deadline",
    "discover",
    "listen",
    "partition",
    "size",
    "tls",
)

LISTEN = "SAMESESSION_LISTEN"
SERVER = "SAMESESSION_SERVER"

LONGEST_SOCKET = 107
"""Bytes of a unix socket's path (unix(7)); one that is longer lies beside, under a hash."""

_REPLICATED = re.compile(r"replicated(?:\(([1-9])\))?")

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Options:
    """A cluster as one of its servers sees it.

    Attributes:
        server: this server's name in the cluster; stable, and no other server's.
        seeds: every server, or names that resolve to them, as written.
        listen: where this server's agent listens; None is chosen by `listening`.
        copies: owners of a record; 0 means every server.
        ack: owners beside the authority that hold a commit before it is answered.
        refuse: whether the minority of a partition answers 503 (``partition=refuse``).
        tls: folder with ``ca.pem``, ``cert.pem`` and ``key.pem``.
        multicast: whether servers are also looked for by multicast (``discover=multicast``).
        folder: of this server's map and its agent's socket.
        size: of the map in bytes.
        deadline_ms: of one step, seen from a worker.
    """

    server: str
    seeds: tuple[Address, ...]
    listen: Address | None
    copies: int
    ack: int
    refuse: bool
    tls: Path | None
    multicast: bool
    folder: Path
    size: int
    deadline_ms: int
    text: str

    @classmethod
    def of(cls, url: Url, env: Mapping[str, str] = os.environ) -> Options:
        """Read a URL and this server's environment.

        Raises:
            ConfigError: naming the part, its value and the way out.
        """
        url.only(*PARAMETERS)
        chosen = url.parameters
        listen = chosen.get("listen") or env.get(LISTEN)
        where = "cluster://?listen" if "listen" in chosen else LISTEN
        server = server_name(env) if env.get(SERVER) else _host_name()
        root = Path(url.path) if url.path.strip("/") else default_folder()
        return cls(
            server=server,
            seeds=tuple((host, port or DEFAULT_PORT) for host, port in url.hosts),
            listen=None if not listen else _address(listen, where),
            copies=0 if chosen.get("copies") == "all" else url.count("copies", 3),
            ack=_ack(chosen.get("ack", "replicated(1)")),
            refuse=_one_of(url, "partition", "accept", "refuse") == "refuse",
            tls=_tls(chosen.get("tls")),
            multicast=_one_of(url, "discover", "listed", "multicast") == "multicast",
            folder=root / "cluster" / server,
            size=url.size_bytes("size", 64 << 20),
            deadline_ms=url.duration_ms("deadline", 250),
            text=url.text,
        )

    @property
    def socket(self) -> Path:
        """Where the agent answers this server's workers."""
        path = self.folder / "agent.sock"
        if len(os.fsencode(path)) <= LONGEST_SOCKET:
            return path
        name = blake2b(os.fsencode(self.folder), digest_size=12).hexdigest()
        return default_folder() / f"{name}.sock"

    @property
    def lock(self) -> Path:
        """Held (flock) by this server's agent for as long as it lives."""
        return self.folder / "agent.lock"

    def listening(self) -> Address:
        """Where this server listens: as set, or the one listed address that is this machine's.

        Raises:
            ConfigError: none or several of the listed ones are, or it is beyond loopback
                without TLS.
        """
        address = self.listen or self._own()
        if address[0] in {"0.0.0.0", "::"}:  # noqa: S104  (refused)
            raise ConfigError(
                f"cluster:// cannot listen on {shown(address)}: the other servers must be told one "
                f"address; write the one by which they reach this server, as {LISTEN} or ?listen="
            )
        if self.tls is None and not is_loopback(address[0]):
            raise ConfigError(
                f"cluster:// will not listen on {shown(address)} without TLS: sessions would "
                "travel in clear, and anybody could join; add ?tls=FOLDER (samesession keys tls)"
            )
        return address

    def _own(self) -> Address:
        if not self.seeds:
            return ("127.0.0.1", DEFAULT_PORT)
        found = {address for address in resolve(self.seeds) if _is_ours(address[0])}
        if len(found) == 1:
            return found.pop()
        problem = "none" if not found else ", ".join(shown(one) for one in sorted(found))
        raise ConfigError(
            f"cluster://: of the listed servers {problem} "
            f"{'is' if not found else 'are'} this machine; say which address is this server's: "
            f"{LISTEN}=host:{DEFAULT_PORT} or ?listen="
        )


def resolve(seeds: tuple[Address, ...]) -> list[Address]:
    """Every address that the seeds stand for at this moment; names unknown now are left out."""
    found: dict[Address, None] = {}
    for host, port in seeds:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:  # its server may not be there yet
            continue
        for *_, address in answers:
            found[str(address[0]), int(address[1])] = None
    return list(found)


def shown(address: Address) -> str:
    """``host:port``, with brackets where the host is IPv6."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether nobody outside this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_ours(host: str) -> bool:
    """Whether this machine has the address: the kernel binds to no other."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] or "server"


def _address(text: str, where: str) -> Address:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+)(?::(\d{1,5}))?", text)
    port = int(match[2] or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise ConfigError(f"{where}={text!r} is no address; write 10.0.0.1:{DEFAULT_PORT}")
    return match[1].strip("[]"), port


def _ack(text: str) -> int:
    if text == "authority":
        return 0
    match = _REPLICATED.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"cluster://?ack={text!r}: write replicated(1), with the number of servers that hold "
            "a commit beside the one that decided it, or authority"
        )
    return int(match[1] or 1)


def _one_of(url: Url, name: str, *values: str) -> str:
    """The parameter, one of a few words; the first is the default."""
    text = url.parameters.get(name, values[0])
    if text not in values:
        raise ConfigError(f"cluster://?{name}={text!r}: write {' or '.join(values)}")
    return text


def _tls(text: str | None) -> Path | None:
    if text is None:
        return None
    folder = Path(text)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"cluster://?tls={text!r}: {name} is not in it; it needs ca.pem, cert.pem and "
                "key.pem (samesession keys tls FOLDER makes them for development)"
            )
    return folder.absolute()
