"""An LMDB map in shared memory, opened once in each process that uses it.

Nothing is synced: what is in it outlives every process, not the machine. The whole file is
allocated when the map is opened, because a sparse one dies by SIGBUS when somebody else fills the
file system (MEASURED 6).
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import lmdb

from samesession._process import pid
from samesession.errors import ConfigError, StoreUnavailableError

Transaction = lmdb.Transaction
MapError = lmdb.Error
MapFullError = lmdb.MapFullError

MOST_READERS = 2048
"""Shared by all processes; LMDB's own 126 are used up by a few servers with threads."""


class Map:
    """One map, opened at its first use in each process, since LMDB forbids one across a fork."""

    def __init__(self, folder: Path, size: int, remedy: str) -> None:
        """Name the map.

        Args:
            folder: holds the map's two files, and nothing else of LMDB's.
            size: of the map in bytes, rounded down to whole pages.
            remedy: what its user should set when it cannot be opened, as in a URL.
        """
        page = os.sysconf("SC_PAGE_SIZE")
        self.folder = folder
        self.size = max(size, 1 << 20) // page * page
        self._remedy = remedy
        self._opening = Lock()
        self._opened: lmdb.Environment | None = None
        self._pid = 0

    def __str__(self) -> str:
        return f"{self.folder} ({self.size >> 20} MB)"

    def here(self) -> lmdb.Environment:
        """The map as this process has it.

        Raises:
            StoreUnavailableError: there is no room for it, or no right to it.
        """
        if self._opened is None or self._pid != pid():
            return self._open()
        return self._opened

    def used(self) -> float:
        """The share that is in use."""
        pages = self.here().stat()
        used = pages["branch_pages"] + pages["leaf_pages"] + pages["overflow_pages"]
        return float(used * pages["psize"] / self.size)

    def forget_the_dead(self) -> None:
        """Free the places of readers that were killed: what they read could not be used again."""
        self.here().reader_check()

    def close(self) -> None:
        """Let go of it; a later use opens it again."""
        with self._opening:
            if self._opened is not None and self._pid == pid():
                self._opened.close()
            self._opened = None

    def _open(self) -> lmdb.Environment:
        with self._opening:
            if self._opened is not None:
                if self._pid == pid():
                    return self._opened
                self._opened.close()  # a fork's: LMDB opens a map once a process
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._opened = lmdb.open(
                    os.fspath(self.folder),
                    map_size=self.size,
                    mode=0o600,
                    max_readers=MOST_READERS,
                    writemap=True,
                    sync=False,
                    metasync=False,
                    readahead=False,
                )
                data = os.open(self.folder / "data.mdb", os.O_RDWR)
                try:
                    os.posix_fallocate(data, 0, self.size)
                finally:
                    os.close(data)
            except (OSError, lmdb.Error) as error:
                if self._opened is not None:
                    self._opened.close()
                    self._opened = None
                raise StoreUnavailableError(
                    f"the local store {self} cannot be opened: {error}; "
                    f"make room, or name another folder: {self._remedy}"
                ) from None
            self._opened.reader_check()
            self._pid = pid()
            return self._opened


def server_name(env: Mapping[str, str] = os.environ) -> str:
    """This server's name, which also selects its folder (``SAMESESSION_SERVER``).

    Raises:
        ConfigError: it holds anything but letters, digits, - and _.
    """
    server = env.get("SAMESESSION_SERVER", "server")
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", server) is None:
        raise ConfigError(f"SAMESESSION_SERVER={server!r}; use letters, digits, - and _")
    return server


def default_folder() -> Path:
    """Where maps lie unless the URL says so: shared memory, private to this user."""
    shared = Path("/dev/shm")  # noqa: S108  (tmpfs; the folder below it is private, 0700)
    root = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return root / f"samesession-{os.getuid()}"
