"""Where this process stands: which server it is, over which strategy, behind which affinity."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, urlencode

STRATEGIES = {"memory": "memory", "sticky": "sticky", "cluster": "clustering"}

# Options that tell a reader something and can hold no secret; every other one stays hidden.
SHOWN_OPTIONS = {"ack", "affinity", "copies", "near", "partition", "stale"}


@dataclass(frozen=True, slots=True)
class Place:
    """What the page says about the server that answered.

    Attributes:
        server: name of this server, ``SAMESESSION_SERVER``.
        url: the strategy's URL, without user, password and unknown options.
        affinity: ``cookie``, ``ip`` or ``none``; None when no balancer told us.
        stoppable: whether ``samesession up`` runs this server and would start it again.
    """

    server: str = "s1"
    url: str = "memory://"
    affinity: str | None = None
    stoppable: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read the variables that ``samesession up`` sets for each of its servers."""
        return cls(
            server=environ.get("SAMESESSION_SERVER") or "s1",
            url=without_secrets(environ.get("SAMESESSION_URL") or "memory://"),
            affinity=environ.get("SAMESESSION_AFFINITY") or None,
            stoppable=environ.get("SAMESESSION_UP") == "1",
        )

    @property
    def strategy(self) -> str:
        """Name the strategy that the URL selects."""
        return STRATEGIES.get(self.url.partition(":")[0], "external store")


def without_secrets(url: str) -> str:
    """Return the URL as it may be shown: no user, no password, only options known to be harmless.

    Everything up to the last ``@`` goes, also where an unescaped password contains ``/`` or ``?``.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return scheme.partition(":")[0]
    address, _, query = rest.rpartition("@")[2].partition("#")[0].partition("?")
    if address.startswith("/") or scheme == "cluster":  # a folder of this machine is its own affair
        address = address.partition("/")[0]
    shown = [(name, value) for name, value in parse_qsl(query) if name in SHOWN_OPTIONS]
    return f"{scheme}://{address}" + (f"?{urlencode(shown)}" if shown else "")
