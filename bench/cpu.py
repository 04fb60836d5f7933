"""CPU time of another process, and which core does what."""

from __future__ import annotations

import os
import time

CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h: the scheduler's own count, in nanoseconds


def cpu_ns(pid: int) -> int:
    """Return the CPU time that a process has used so far, in nanoseconds.

    User and system, all threads, ended ones included: this is clock_getcpuclockid(3).
    /proc/<pid>/stat counts ticks of 10 ms, and /proc/<pid>/schedstat only the main thread.
    """
    return time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)


def cores() -> tuple[int, int]:
    """Return the core of the application servers and the core of load generator and engines."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise SystemExit("bench needs two cores: one for the application, one for load and engines")
    return available[0], available[1]
