"""Where the sessions of a run live: the URL for its servers, and the engine started for it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from samesession.errors import ConfigError
from samesession.lab.engines import answers, quoted
from samesession.lab.ports import LOOPBACK, Port
from samesession.settings import Url, redacted

DEFAULT_PORT = 6379
ENGINES = ("redis", "valkey")
NEAR_S = 0.25  # a server on this machine answers at once or not at all
FAR_S = 2.0  # name resolution and a long way included


@dataclass(frozen=True, slots=True)
class Authority:
    """The URL for the servers, and what must be held or started for it.

    Attributes:
        port: of the engine that must be started, with its ``settings``.
        listen: of each server's agent, in a cluster.
    """

    url: str
    port: Port | None = None
    settings: Mapping[str, str] | None = None
    listen: Mapping[str, Port] = field(default_factory=dict)


MAP = "size=16MB"


def authority_for(url: str, folder: Path, names: Sequence[str] = ()) -> Authority:
    """Complete a strategy's URL; everything that its user wrote stays.

    Args:
        folder: private to this run, for the stores of ``sticky://`` and ``cluster://``.
        names: the servers', each of which needs an address in a cluster.

    Raises:
        ConfigError: a Redis on another machine does not answer, or a port is somebody else's.
    """
    parsed = Url.parse(url)
    if parsed.scheme == "cluster":
        return _cluster(parsed, folder, names)
    if parsed.scheme == "sticky" and not parsed.host and parsed.path in ("", "/"):
        return Authority(f"sticky://{folder / 'store'}?{_with_size(parsed)}")
    if parsed.scheme not in ENGINES:
        return Authority(url)
    port = parsed.port or DEFAULT_PORT
    near = _is_loopback(parsed.host)
    if answers(parsed.host or LOOPBACK, port, within=NEAR_S if near else FAR_S):
        return Authority(url)
    if not near:
        raise ConfigError(
            f"{redacted(url)}: nobody answers a PING at {parsed.host}:{port}; start it, or let "
            f"{parsed.scheme}:// without a host start an engine on this machine"
        )
    try:
        held = Port(parsed.port or 0)
    except ConfigError as error:
        raise ConfigError(f"{redacted(url)}: nobody answers a PING there, but {error}") from None
    return Authority(_at(url, held), held, _credentials(parsed))


def _cluster(url: Url, folder: Path, names: Sequence[str]) -> Authority:
    """A port of its own for each server, and the same list of all of them in the URL."""
    if url.hosts:
        raise ConfigError(
            f"{redacted(url.text)!r} names hosts; here every server is on this machine and gets an "
            "address of its own: write cluster:// and the parameters only"
        )
    listen = {name: Port() for name in names}
    hosts = ",".join(port.address for port in listen.values())
    place = url.path.rstrip("/") or str(folder / "store")
    return Authority(f"cluster://{hosts}{place}?{_with_size(url)}", listen=listen)


def _with_size(url: Url) -> str:
    """A map is allocated at once, and a container's /dev/shm often has 64 MB for all of them."""
    given = urlsplit(url.text).query
    return "&".join(part for part in (given, "" if "size" in url.parameters else MAP) if part)


def _is_loopback(host: str) -> bool:
    try:
        return host in ("", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _at(url: str, port: Port) -> str:
    """Put the engine's address into the URL, and leave the rest as it was written."""
    parts = urlsplit(url)
    credentials, separator, _ = parts.netloc.rpartition("@")
    rest = url.partition("://")[2].removeprefix(parts.netloc)
    return f"{parts.scheme}://{credentials}{separator}{port.address}{rest}"


def _credentials(url: Url) -> Mapping[str, str]:
    """Let the engine know the user and the password that the servers will come with."""
    if url.password is None:
        return {}
    if url.username in (None, "default"):
        return {"requirepass": quoted(url.password)}
    return {"user": f"{quoted(str(url.username))} on {quoted('>' + url.password)} ~* &* +@all"}
