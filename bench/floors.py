"""The floors of issue 2, 'Must hold': what must be true of every run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.contestants import MEMORY, NEAR, REDIS, SIGNED_COOKIE, STARSESSIONS, STICKY, Contestant
from bench.counts import Cost
from bench.figures import Figures
from bench.workloads import Workload

R, W = Workload.R, Workload.W

# contestant, workload, rival, greatest allowed multiple of the rival's added CPU
RATIOS: tuple[tuple[Contestant, Workload, Contestant, float], ...] = (
    (STICKY, R, SIGNED_COOKIE, 0.4),
    (STICKY, W, SIGNED_COOKIE, 0.4),
    (MEMORY, R, STICKY, 1.0),
    (MEMORY, W, STICKY, 1.0),
    (REDIS, R, STARSESSIONS, 0.5),
    (REDIS, W, STARSESSIONS, 0.6),
    (NEAR, R, MEMORY, 1.5),
)
# contestant, workload, greatest number of commands that the application sends per request
COMMANDS: tuple[tuple[Contestant, Workload, int], ...] = (
    (REDIS, R, 1),
    (REDIS, W, 2),
)


@dataclass(frozen=True)
class Floor:
    """One claim and what was measured of it."""

    claim: str
    measured: str
    holds: bool


def floors(
    figures: Figures, costs: Sequence[Cost], measured: Sequence[Contestant]
) -> Iterator[Floor]:
    """Yield every floor whose contestants have been measured."""
    for contestant, workload, rival, most in RATIOS:
        if contestant in measured and rival in measured:
            ratio = figures.ratio(contestant, rival, workload).value
            claim = (
                f"{contestant.name} {workload.name}: added CPU at most {most} times {rival.name}"
            )
            yield Floor(claim, f"{ratio:.3f}", ratio <= most)
    for contestant, workload, most_commands in COMMANDS:
        for cost in costs:
            if (cost.contestant, cost.workload) == (contestant, workload):
                sent = sum(cost.sent.values())
                claim = (
                    f"{contestant.name} {workload.name}: at most {most_commands} command(s) sent"
                )
                yield Floor(claim, f"{sent:g}", sent <= most_commands)
