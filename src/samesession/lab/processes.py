"""Child processes that never outlive the process that started them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1  # linux/prctl.h

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

# Asks the kernel and becomes the command (35 ms). A preexec_fn would be quicker, but runs Python
# between fork and exec, which Python 3.12 and later warn of in a process that has threads.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; "
    f"ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {signal.SIGKILL:d}, 0, 0, 0); "
    "os.getppid() == int(sys.argv[1]) or os._exit(1); "  # it died before the kernel watched
    "os.execvp(sys.argv[2], sys.argv[2:])"
)

# The kernel watches the thread that forked, not its process. Worker threads come and go, so
# whoever is not the main thread forks from this one, which lives as long as the process.
_forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="samesession-fork")


def die_with_server() -> None:
    """Have the kernel kill this worker when the one that started it is gone (Linux only)."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The server leads a group that its workers are in. If it died before the kernel began to
    # watch, a stranger has adopted us.
    group = os.getpgrp()
    if group not in (os.getpid(), os.getpgid(os.getppid())):
        os._exit(1)


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start ``argv`` in a session of its own, out of reach of the terminal's Ctrl-C.

    It is killed when this process is gone, however that came about (Linux only).

    Args:
        env: the whole environment; None hands on ours.
        output: where its stdout and stderr go, together.
    """
    if _libc is not None:
        argv = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *argv]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    if threading.current_thread() is threading.main_thread():
        return start()
    return _forker.submit(start).result()


def freeze_group(pid: int) -> None:
    """Send SIGSTOP to a child of ours and its workers; return when it has stopped (or ended)."""
    signal_group(pid, signal.SIGSTOP)
    if sys.platform == "linux":
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def others_in_group(pid: int) -> list[int]:
    """Who else lives in the group that a child of ours leads (Linux; elsewhere nobody is seen)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            # proc_pid_stat(5): the name may hold spaces and brackets; then state, parent, group
            state, _, group, *_ = stat.read_text().rpartition(")")[2].split()
            other = int(stat.parent.name)
            if int(group) == pid and other != pid and state != "Z":
                found.append(other)
    return found


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to a child of ours and to its own workers; a child that is gone is no error.

    Every child leads a process group of its own (``start_new_session``), so this reaches nobody
    else.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
