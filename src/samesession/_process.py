"""Which process this is, without asking the kernel at each request.

What belongs to one process (an LMDB map, connections, drawn tokens) must not be used in a fork of
it, and servers fork in C too (uWSGI), where Python's hooks do not run. So the kernel is asked to
empty one page of memory in every child: madvise(2), MADV_WIPEONFORK.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress

_WIPE_ON_FORK = 18  # Linux 4.14; Python has no name for it


def _wiped_on_fork() -> mmap.mmap | None:
    with suppress(OSError, AttributeError, ValueError):  # another system, or an old kernel
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_WIPE_ON_FORK)
        return page
    return None


_page = _wiped_on_fork()
_known: mmap.mmap | bytes = _page or b"\0"  # its first byte: whether `_pid` is this process
_pid = 0


def pid() -> int:
    """Return `os.getpid`, for the price of looking at one byte."""
    global _pid  # noqa: PLW0603  (what the page remembers)
    if not _known[0]:
        _pid = os.getpid()
        if _page is not None:
            _page[0] = 1
    return _pid
