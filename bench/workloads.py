"""What a browser does: R reads one key, W changes one key, M is nine R and one W."""

from __future__ import annotations

from enum import Enum

CYCLE = 10  # requests after which M repeats


class Step(Enum):
    """One request of a browser; the value is its request line."""

    LOGIN = b"POST /login?start=%d HTTP/1.1\r\n"
    READ = b"GET /read HTTP/1.1\r\n"
    WRITE = b"POST /write HTTP/1.1\r\n"


class Workload(Enum):
    """A repeated sequence of steps."""

    R = (Step.READ,) * CYCLE
    W = (Step.WRITE,) * CYCLE
    M = (Step.WRITE,) + (Step.READ,) * (CYCLE - 1)

    def steps(self, *, requests: int, shift: int) -> list[Step]:
        """Return `requests` steps; `shift` spreads the writes of parallel browsers over time."""
        return [self.value[(position + shift) % CYCLE] for position in range(requests)]
