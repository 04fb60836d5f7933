"""One agent per server: whoever finds none takes the lock, and hands it to the agent it spawns.

The lock (``flock``) belongs to the open file, which the agent inherits: it is never free between
the worker that took it and the agent, and the kernel frees it when the agent is gone, however that
came about. Spawned, never forked: a zenoh session does not survive a fork (MEASURED 7).
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from samesession.cluster.options import LISTEN, SERVER, Options, shown
from samesession.errors import StoreUnavailableError

log = logging.getLogger("samesession")

LOCK_FD = "SAMESESSION_AGENT_LOCK"
URL = "SAMESESSION_AGENT_URL"
RUNTIME = "(rx: (worker_threads: 16))"
"""With zenoh's two threads a silently dead peer stalls the traffic of the others (MEASURED 7)."""

_KEPT_BACK = "SAMESESSION_KEYS"
"""The agent sees no cookie and needs no key, so it gets none."""

_spawned: list[subprocess.Popen[bytes]] = []


def take(lock: Path) -> int | None:
    """Take the lock: its file descriptor, or None while an agent lives.

    Raises:
        StoreUnavailableError: the folder cannot be made or written.
    """
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailableError(f"the cluster's folder {lock.parent}: {error}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # an agent lives, or another worker is about to spawn it
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)  # it named the last holder
    return descriptor


def sign(descriptor: int, pid: int) -> None:
    """Write whose the lock is, for `holder`."""
    os.pwrite(descriptor, str(pid).encode(), 0)


def ensure(options: Options) -> bool:
    """Spawn this server's agent unless it has one; True when this call did.

    It stays in the process group of its server, so that what kills a server kills its agent too,
    and it outlives the worker that spawned it, since workers come and go.
    """
    _reap()
    descriptor = take(options.lock)
    if descriptor is None:
        return False
    try:
        agent = subprocess.Popen(
            [sys.executable, "-m", "samesession.cluster.agent"],
            env={
                "ZENOH_RUNTIME": RUNTIME,
                **{k: v for k, v in os.environ.items() if not k.startswith(_KEPT_BACK)},
                URL: options.text,
                SERVER: options.server,
                LISTEN: shown(options.listening()),
                LOCK_FD: str(descriptor),
            },
            stdin=subprocess.DEVNULL,
            pass_fds=(descriptor,),
        )
        _spawned.append(agent)
        sign(descriptor, agent.pid)
    except OSError:
        log.exception("the cluster's agent cannot be started")
        return False
    finally:
        os.close(descriptor)
    return True


def holder(lock: Path) -> int | None:
    """The agent's process id, as it wrote it into the lock; None when no agent lives."""
    with suppress(OSError, ValueError):
        descriptor = take(lock)
        if descriptor is None:
            return int(lock.read_text())
        os.close(descriptor)
    return None


def _reap() -> None:
    """Wait for agents of ours that ended, so that they do not stay as zombies."""
    _spawned[:] = [agent for agent in _spawned if agent.poll() is None]


def _forget() -> None:
    _spawned.clear()  # a fork's parent waits for them


os.register_at_fork(after_in_child=_forget)
