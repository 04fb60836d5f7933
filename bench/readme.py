"""The README's table of costs, written anew from a whole run."""

from __future__ import annotations

from pathlib import Path

from bench.contestants import (
    MEMORY,
    REDIS,
    SIGNED_COOKIE,
    STARSESSIONS,
    STICKY,
    Contestant,
)
from bench.markdown import NONE
from bench.rounds import Measured
from bench.workloads import Workload

README = Path(__file__).resolve().parent.parent / "README.md"
HEAD = "| | read one key | change one key |"
NAMES = (
    (SIGNED_COOKIE, "Starlette's signed cookie"),
    (STARSESSIONS, "starsessions, Redis"),
    (MEMORY, "samesession `memory://`"),
    (STICKY, "samesession `sticky://`"),
    (REDIS, "samesession `redis://`"),
)


def write(measured: Measured) -> None:
    """Replace the rows below the table's head; the rest of the page is left alone.

    Raises:
        ValueError: the README has no such table.
    """
    lines = README.read_text(encoding="utf-8").split("\n")
    starts = [number for number, line in enumerate(lines) if line.startswith(HEAD)]
    if len(starts) != 1:
        raise ValueError(f"{README} has {len(starts)} tables that begin with {HEAD!r}; keep one")
    first = last = starts[0] + 2  # after the rule
    while lines[last].startswith("|"):
        last += 1
    lines[first:last] = [_row(measured, contestant, name) for contestant, name in NAMES]
    README.write_text("\n".join(lines), encoding="utf-8")


def _row(measured: Measured, contestant: Contestant, name: str) -> str:
    reads, writes = (
        f"{measured.many.added_us(contestant, workload):.0f} µs"
        for workload in (Workload.R, Workload.W)
    )
    return f"| {name} | {reads} | {writes} | {_commands(measured, contestant)} |"


def _commands(measured: Measured, contestant: Contestant) -> str:
    sent = [" ".join(cost.sent) for cost in measured.costs if cost.contestant is contestant]
    return " / ".join(sent) or NONE
