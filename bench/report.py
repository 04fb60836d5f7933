"""The page with the results, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bench.contestants import BASELINE, SIGNED_COOKIE, STARSESSIONS, Contestant
from bench.counts import REQUESTS, Cost
from bench.figures import Figures
from bench.floors import Floor, floors
from bench.markdown import NONE, commands, spread, table
from bench.rounds import Measured, Plan
from bench.workloads import Workload

Counted = Mapping[Contestant, Mapping[Workload, float]]

RWM = (Workload.R, Workload.W, Workload.M)
RW = RWM[:2]

LEGEND = """\
R reads one key, W changes one, M is 9 R to 1 W; the session has 8 keys, 575 bytes as JSON.
Every contestant serves the same Starlette application under uvicorn (one process, uvloop,
httptools, no access log), alone on one core; load generator and Redis share the other.
CPU is the application process's own (all its threads, counted by the scheduler) divided by
requests; *adds* is that minus the same application without a session.
Short slices of baseline and contestant alternate, and each contestant's slice is divided by the
baseline's right before and after it; the figure is the median of these multiples over all rounds,
and the range in brackets is what single rounds gave. *Least* is the luckiest slice. Servers start
anew in each round. Every answer was checked: each read returned the browser's own last write.
Each browser reads once before its slice begins, because a near cache's lease (250 ms) lapses while
others are measured.
A touch (one more guarded step of samesession, at most once per idle/20 and session) is too rare to
show. Compare inside a run, never across runs."""


def report(
    measured: Measured, *, facts: Sequence[tuple[str, str]], counted: Counted
) -> tuple[str, bool]:
    """Return the page, and whether every floor that could be judged holds.

    Args:
        facts: what the head of the page says about the run.
        counted: instructions a request, where there was a valgrind to count them.
    """
    plan = measured.plan
    judged = list(floors(measured.many, measured.costs, plan.rivals))
    parts = [
        "# What a session costs per request",
        "\n".join(f"- {name}: {value}" for name, value in facts),
        LEGEND,
        f"## Application CPU, {plan.connections} connections",
        table(_cpu_rows(measured.many, plan)),
        "## The whole request as a multiple of the same request without a session",
        table(_whole_rows(measured.many, plan)),
    ]
    for rival in (SIGNED_COOKIE, STARSESSIONS):
        if rival in plan.rivals:
            parts += [
                f"## What the session adds, as a multiple of what {rival.name} adds",
                table(_ratio_rows(measured.many, plan, rival)),
            ]
    parts += ["## One connection alone", table(_lone_rows(measured.lone, plan))]
    if measured.costs:
        parts += [
            f"## What Redis sees per request, counted over {REQUESTS} of them, one after another",
            table(_cost_rows(measured.costs)),
        ]
    if counted:
        parts += [
            "## Instructions of the application's process (callgrind; the kernel's are not in it)",
            table(_instruction_rows(counted)),
        ]
    if judged:
        parts += ["## Floors", table(_floor_rows(judged))]
    return "\n\n".join(parts) + "\n", all(floor.holds for floor in judged)


def _cpu_rows(figures: Figures, plan: Plan) -> Iterator[Sequence[str]]:
    yield (
        *("contestant", "R adds µs", "W adds µs", "M adds µs"),
        *("least R µs", "least W µs", "least M µs"),
        *("Redis CPU R µs", "Redis CPU W µs", "Redis CPU M µs"),
    )
    yield (
        f"{BASELINE.name} (whole request)",
        *(f"{figures.baseline_us(workload):.1f}" for workload in RWM),
        *(f"{figures.least_us(BASELINE, workload):.1f}" for workload in RWM),
        *(NONE for _ in RWM),
    )
    for rival in plan.rivals:
        yield (
            rival.name,
            *(f"{figures.added_us(rival, workload):+.1f}" for workload in RWM),
            *(f"{figures.least_us(rival, workload):.1f}" for workload in RWM),
            *(
                f"{figures.engine_us(rival, workload):.1f}" if rival.uses_redis else NONE
                for workload in RWM
            ),
        )


def _whole_rows(figures: Figures, plan: Plan) -> Iterator[Sequence[str]]:
    yield ("contestant", "R", "W", "M")
    for contestant in plan.rivals:
        yield (contestant.name, *(spread(figures.whole(contestant, workload)) for workload in RWM))


def _ratio_rows(figures: Figures, plan: Plan, rival: Contestant) -> Iterator[Sequence[str]]:
    yield ("contestant", "R", "W", "M")
    for contestant in plan.rivals:
        if contestant is not rival:
            yield (
                contestant.name,
                *(spread(figures.ratio(contestant, rival, workload)) for workload in RWM),
            )


def _lone_rows(figures: Figures, plan: Plan) -> Iterator[Sequence[str]]:
    yield (
        "contestant",
        "R adds µs",
        "W adds µs",
        "R whole",
        "W whole",
        "R latency p50 µs",
        "W latency p50 µs",
    )
    yield (
        f"{BASELINE.name} (whole request)",
        *(f"{figures.baseline_us(workload):.1f}" for workload in RW),
        *("1", "1"),
        *(f"{figures.p50_us(BASELINE, workload):.0f}" for workload in RW),
    )
    for rival in plan.rivals:
        yield (
            rival.name,
            *(f"{figures.added_us(rival, workload):+.1f}" for workload in RW),
            *(spread(figures.whole(rival, workload)) for workload in RW),
            *(f"{figures.p50_us(rival, workload):.0f}" for workload in RW),
        )


def _cost_rows(costs: Sequence[Cost]) -> Iterator[Sequence[str]]:
    yield ("contestant", "workload", "commands sent", "run inside scripts", "bytes in", "bytes out")
    for cost in costs:
        yield (
            cost.contestant.name,
            cost.workload.name,
            commands(cost.sent),
            commands(cost.scripted),
            f"{cost.bytes_in:.1f}",
            f"{cost.bytes_out:.1f}",
        )


def _instruction_rows(counted: Counted) -> Iterator[Sequence[str]]:
    """Less noise than time, but not the same: caches and branches that miss do not count."""
    rivals = [rival for rival in (SIGNED_COOKIE, STARSESSIONS) if rival in counted]
    of = [f"{workload.name} of {rival.name}" for rival in rivals for workload in RW]
    yield ("contestant", "R adds", "W adds", *of)
    none = counted[BASELINE]
    yield (
        f"{BASELINE.name} (whole request)",
        *(f"{none[workload]:,.0f}" for workload in RW),
        *(NONE for _ in of),
    )
    added = {
        contestant: {workload: count[workload] - none[workload] for workload in RW}
        for contestant, count in counted.items()
        if contestant is not BASELINE
    }
    for contestant, count in added.items():
        yield (
            contestant.name,
            *(f"{count[workload]:+,.0f}" for workload in RW),
            *(
                NONE if rival is contestant else f"{count[workload] / added[rival][workload]:.2f}"
                for rival in rivals
                for workload in RW
            ),
        )


def _floor_rows(judged: Sequence[Floor]) -> Iterator[Sequence[str]]:
    yield ("floor", "measured", "verdict")
    for floor in judged:
        yield (floor.claim, floor.measured, "pass" if floor.holds else "**FAIL**")
