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

ROOT = Path(__file__).resolve().parent.parent
PAGES = {  # head of the table, and what it calls Starlette's signed cookie
    "README.md": ("| | read one key | change one key |", "Starlette's signed cookie"),
    "README.ko.md": ("| | 키 하나 읽기 | 키 하나 바꾸기 |", "Starlette의 서명 쿠키"),
}
OTHERS = (
    (STARSESSIONS, "starsessions, Redis"),
    (MEMORY, "samesession `memory://`"),
    (STICKY, "samesession `sticky://`"),
    (REDIS, "samesession `redis://`"),
)


def write(measured: Measured) -> None:
    """Replace the rows below the table's head on each page; the rest is left alone.

    Raises:
        ValueError: a page has no such table.
    """
    for name, (head, signed_cookie) in PAGES.items():
        page = ROOT / name
        lines = page.read_text(encoding="utf-8").split("\n")
        starts = [number for number, line in enumerate(lines) if line.startswith(head)]
        if len(starts) != 1:
            raise ValueError(f"{page} has {len(starts)} tables that begin with {head!r}; keep one")
        first = last = starts[0] + 2  # after the rule
        while lines[last].startswith("|"):
            last += 1
        names = ((SIGNED_COOKIE, signed_cookie), *OTHERS)
        lines[first:last] = [_row(measured, contestant, said) for contestant, said in names]
        page.write_text("\n".join(lines), encoding="utf-8")


def _row(measured: Measured, contestant: Contestant, name: str) -> str:
    reads, writes = (
        f"{measured.many.added_us(contestant, workload):.0f} µs"
        for workload in (Workload.R, Workload.W)
    )
    return f"| {name} | {reads} | {writes} | {_commands(measured, contestant)} |"


def _commands(measured: Measured, contestant: Contestant) -> str:
    sent = [" ".join(cost.sent) for cost in measured.costs if cost.contestant is contestant]
    return " / ".join(sent) or NONE
