"""A private folder that is gone after the run, and one run later when the run was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (mkdtemp makes a name nobody knows)
_LOCK = "lock"


class RunFolder:
    """A folder (mode 0700) for sockets, configuration and local stores, locked while we live.

    It lies in memory where the system has such a place: local stores belong there, and the paths
    stay short enough for unix sockets (107 bytes).
    """

    def __init__(self) -> None:
        """Make the folder, and remove those whose process was killed before it could."""
        base = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        prefix = f"samesession-{os.getuid()}-"
        _remove_abandoned(base, prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
        # Locked before it has its name: whoever finds the name and can lock it knows we are gone.
        fresh = self.path / "lock.new"
        self._lock = os.open(fresh, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        fresh.rename(self.path / _LOCK)

    def remove(self) -> None:
        """Remove it with everything in it; a second call does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _remove_abandoned(base: Path, prefix: str) -> None:
    for path in base.glob(f"{prefix}*"):
        try:
            if path.lstat().st_uid != os.getuid():
                continue
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # no lock yet, or it vanished meanwhile
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)
