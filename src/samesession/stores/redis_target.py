"""What a Redis or Valkey URL says: which servers, who we are to them, how long a step may take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from samesession.errors import ConfigError
from samesession.settings import Url

Node: TypeAlias = tuple[str, int]
"""A host and its port; of a unix socket its path, and 0."""

Topology = Literal["single", "sentinel", "cluster"]

_PORTS: Mapping[Topology, int] = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_COMMON = ("deadline", "prefix", "pool", "wait", "affinity", "near", "stale")
_OF_TLS = ("ca", "cert", "key")
_OF_SENTINEL = ("sentinel_user", "sentinel_password")
_TLS_FILES = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}


@dataclass(frozen=True, slots=True)
class Target:
    """Which servers, and how long they may take.

    Attributes:
        name: for messages.
        nodes: the server; or the sentinels that know it; or some of a cluster's.
        service: what the sentinels call the primary.
        options: of redis-py's connections, the address left out.
        sentinel_options: the same towards a sentinel.
        deadline_s: of one step, connecting included.
        wait_s: for a replica to have what a login, a rotation or an end wrote.
        pool: connections to one server, for threads.
    """

    name: str
    kind: Literal["tcp", "tls", "unix"]
    topology: Topology
    nodes: tuple[Node, ...]
    service: str
    options: Mapping[str, Any] = field(repr=False)
    sentinel_options: Mapping[str, Any] = field(repr=False)
    deadline_s: float
    wait_s: float
    pool: int

    @property
    def probe_s(self) -> float:
        """How long a server that failed is left alone; another one may take over meanwhile."""
        return 0.5 if self.topology == "single" else 0.2

    def called(self, node: Node) -> str:
        """What messages call one of the servers."""
        return self.name if self.topology == "single" else address(node)

    @classmethod
    def of(cls, url: Url) -> Target:
        """Read a URL's parts.

        Raises:
            ConfigError: an unknown parameter, a database that is no number, no name of a primary.
        """
        base, _, way = url.scheme.partition("+")
        tls = base in {"rediss", "valkeys"}
        topology: Topology = "sentinel" if way == "sentinel" else "single"
        if way == "cluster":
            topology = "cluster"
        unix = way == "unix"
        url.only(
            *_COMMON,
            *(_OF_TLS if tls else ()),
            *(_OF_SENTINEL if topology == "sentinel" else ()),
            *(("db",) if unix else ()),
        )
        service, database = _path(url, topology, unix=unix)
        nodes = ((url.path, 0),) if unix else _nodes(url, topology)
        security = {
            option: _file(url, name)
            for name, option in _TLS_FILES.items()
            if name in url.parameters
        }
        options = {
            "db": database,
            "username": url.username,
            "password": url.password,
            **security,
        }
        sentinel_options = {
            "username": url.parameters.get("sentinel_user"),
            "password": url.parameters.get("sentinel_password"),
            **security,
        }
        return cls(
            name=f"{service} of {url.scheme}://" if service else ", ".join(map(address, nodes)),
            kind="unix" if unix else "tls" if tls else "tcp",
            topology=topology,
            nodes=nodes,
            service=service,
            options=options,
            sentinel_options=sentinel_options,
            deadline_s=url.duration_ms("deadline", 250) / 1000,
            wait_s=url.duration_ms("wait", 500) / 1000,
            pool=url.count("pool", 50),
        )


def address(node: Node) -> str:
    """``host:port``, or a unix socket's path."""
    host, port = node
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _file(url: Url, name: str) -> str:
    """A parameter that names a file of TLS's."""
    file = url.parameters[name]
    if not os.access(file, os.R_OK):
        raise ConfigError(f"{url.scheme}://?{name}={file!r} cannot be read")
    return file


def _path(url: Url, topology: Topology, *, unix: bool) -> tuple[str, int]:
    """The primary's name, and the database."""
    service, database = "", url.path.strip("/")
    if unix:
        database = url.parameters.get("db", "")
    elif topology == "sentinel":
        service, _, database = database.partition("/")
        if not service:
            raise ConfigError(
                f"{url.scheme}://…/ names no primary; write it as the sentinels do, "
                f"such as {url.scheme}://host1,host2,host3/mymaster"
            )
    if not (database or "0").isdecimal():
        raise ConfigError(f"{url.scheme}://…/{database}: the database is a number, such as /0")
    if topology == "cluster" and int(database or 0):
        raise ConfigError(f"{url.scheme}://…/{database}: a cluster has database 0 only; leave it")
    return service, int(database or 0)


def _nodes(url: Url, topology: Topology) -> tuple[Node, ...]:
    if topology == "single":
        url.single()
    port = _PORTS[topology]
    hosts = url.hosts or (("127.0.0.1", None),)
    return tuple((host or "127.0.0.1", own or port) for host, own in hosts)
