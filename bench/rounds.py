"""The interleaving: slices of baseline and contestants alternate, so that noise meets all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.contestants import BASELINE, Contestant
from bench.counts import Cost, count
from bench.figures import Compared, Figures, compared
from bench.load import browsers, hang_up, run_slice
from bench.servers import Server, server
from bench.workloads import Workload
from samesession.lab.engines import Engine

SLICE_REQUESTS = 640  # 0.05 to 0.5 s: shorter than most of the host's moods, 20 per connection
LONE_REQUESTS = 200  # a connection alone waits for each answer


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        turns: slices per round, contestant, workload and number of connections.
        connections: how many at the same time.
        baseline: the same application without a session.
        lone: workloads that one connection alone is measured with as well.
    """

    rivals: Sequence[Contestant]
    rounds: int
    turns: int
    connections: int
    baseline: Contestant = BASELINE
    lone: Sequence[Workload] = (Workload.R, Workload.W)


@dataclass(frozen=True)
class Measured:
    """Everything that one run measured."""

    plan: Plan
    many: Figures
    lone: Figures
    costs: Sequence[Cost]


async def measure(
    plan: Plan, engine: Engine, *, core: int, tell: Callable[[str], None]
) -> Measured:
    """Run every round, then count the commands.

    Servers start anew in each round: hash seeds and memory layout make a process a few percent
    faster or slower for as long as it lives, and the run should not judge by one throw of the dice.
    """
    many: list[Compared] = []
    lone: list[Compared] = []
    for number in range(plan.rounds):
        with _servers(plan, engine, core) as running:
            crowds = {one: await browsers(running[one], plan.connections) for one in running}
            loners = {one: await browsers(running[one], 1) for one in running}
            for turn in range(plan.turns):
                order = _alternating(plan, turn)
                for workload in Workload:
                    row = [
                        await run_slice(running[one], crowds[one], workload, SLICE_REQUESTS, engine)
                        for one in order
                    ]
                    many += compared(row, number)
                for workload in plan.lone:
                    row = [
                        await run_slice(running[one], loners[one], workload, LONE_REQUESTS, engine)
                        for one in order
                    ]
                    lone += compared(row, number)
            hang_up(*crowds.values(), *loners.values())
        tell(f"round {number + 1} of {plan.rounds}")
    with _servers(plan, engine, core) as running:
        costs = [
            await count(running[rival], workload, engine.port)
            for rival in plan.rivals
            if rival.uses_redis
            for workload in (Workload.R, Workload.W)
        ]
    return Measured(plan, Figures(many), Figures(lone), costs)


@contextmanager
def _servers(plan: Plan, engine: Engine, core: int) -> Iterator[dict[Contestant, Server]]:
    with ExitStack() as stack:
        yield {
            one: stack.enter_context(server(one, engine=engine, core=core))
            for one in (plan.baseline, *plan.rivals)
        }


def _alternating(plan: Plan, turn: int) -> list[Contestant]:
    """Return baseline, rival, baseline, rival, …, baseline; another rival goes first each time."""
    first = turn % len(plan.rivals)
    order = [plan.baseline]
    for rival in (*plan.rivals[first:], *plan.rivals[:first]):
        order += [rival, plan.baseline]
    return order
