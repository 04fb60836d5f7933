"""Where and with what a run was made: figures without it mean nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    *("samesession", "starlette", "uvicorn", "uvloop", "httptools", "itsdangerous", "starsessions"),
    *("redis", "hiredis", "lmdb", "msgspec", "eclipse-zenoh"),
)


def machine() -> str:
    """Return cores, processor, system and Python in one line."""
    processor = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.partition(":")[2].strip() for line in processor if line.startswith("model name"))
    model = next(named, platform.machine())
    system = f"{platform.system()} {platform.release()}"
    return f"{os.cpu_count()} cores of {model}, {system}, Python {platform.python_version()}"


def versions(packages: Sequence[str] = PACKAGES) -> str:
    """Return the versions of everything that took part; an absent package says so."""
    return ", ".join(f"{package} {_version(package)}" for package in packages)


def revision() -> str:
    """Return the commit that was measured, and whether the checkout differed from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    answer = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
