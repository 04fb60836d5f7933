"""What a Redis or Valkey URL says: which server, who we are to it, and how long a step may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from samesession.errors import ConfigError
from samesession.settings import Url


@dataclass(frozen=True, slots=True)
class Target:
    """Which server, and how long it may take.

    Attributes:
        options: of redis-py's connection.
        deadline_s: of one step, connecting included.
    """

    name: str
    kind: str
    options: dict[str, Any]
    deadline_s: float
    pool: int

    @classmethod
    def of(cls, url: Url) -> Target:
        """Read a URL's parts.

        Raises:
            ConfigError: an unknown parameter, or a database that is no number.
        """
        kind = {"redis+unix": "unix", "rediss": "tls", "valkeys": "tls"}.get(url.scheme, "tcp")
        known = {"tcp": ("deadline", "prefix", "pool"), "tls": ("deadline", "prefix", "pool", "ca")}
        url.single()
        url.only(*known.get(kind, ("deadline", "prefix", "pool", "db")))
        database = url.parameters.get("db", "0") if kind == "unix" else url.path.strip("/") or "0"
        if not database.isdecimal():
            raise ConfigError(f"{url.scheme}://…/{database}: the database is a number, such as /0")
        options: dict[str, Any] = {
            "db": int(database),
            "username": url.username,
            "password": url.password,
            "protocol": 3,
        }
        if kind == "unix":
            options["path"] = url.path
            name = url.path
        else:
            options["host"] = url.host or "127.0.0.1"
            options["port"] = url.port or 6379
            name = f"{options['host']}:{options['port']}"
            if "ca" in url.parameters:
                options["ssl_ca_certs"] = url.parameters["ca"]
        deadline_s = url.duration_ms("deadline", 250) / 1000
        return cls(name, kind, options, deadline_s, url.count("pool", 50))
