"""From slices to figures: pure arithmetic.

What counts is a slice's CPU per request *as a multiple of the baseline slices right before and
right after it*, and of these multiples the median. The least of a few long slices, the usual way,
does not work on a host whose neighbours come and go: there the same baseline took 70 µs in 7 % of
the short slices and 115 µs in most others (2 cores of a Firecracker VM, 5 to 20 % stolen), and
whoever meets the lucky ones wins. Over four repeats of 40 slices, the signed cookie's added R cost
was 0.21 to 0.30 of starsessions' by the least, 0.21 to 0.24 by such medians.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.contestants import Contestant
from bench.load import Slice
from bench.workloads import Workload


@dataclass(frozen=True)
class Compared:
    """A contestant's slice between two slices of the baseline."""

    before: Slice
    own: Slice
    after: Slice
    round: int

    @property
    def whole(self) -> float:
        """Return the whole request's cost as a multiple of the same request without a session."""
        return 2 * self.own.app_us / (self.before.app_us + self.after.app_us)


def compared(slices: Sequence[Slice], round_number: int) -> list[Compared]:
    """Return the comparisons in a row: baseline, contestant, baseline, …, baseline."""
    rows = zip(slices[::2], slices[1::2], slices[2::2], strict=False)
    return [Compared(before, own, after, round_number) for before, own, after in rows]


@dataclass(frozen=True)
class Spread:
    """A figure from all slices, and the extremes that a single round would have given."""

    value: float
    least: float
    greatest: float


@dataclass(frozen=True)
class Figures:
    """What all comparisons with one number of connections say."""

    compared: Sequence[Compared]

    def baseline_us(self, workload: Workload) -> float:
        """Return the application's CPU per request without a session, in microseconds."""
        return median(one.before.app_us for one in self.compared if one.own.workload is workload)

    def added_us(self, contestant: Contestant, workload: Workload) -> float:
        """Return what the session adds to that."""
        return (self.whole(contestant, workload).value - 1) * self.baseline_us(workload)

    def whole(self, contestant: Contestant, workload: Workload) -> Spread:
        """Return the whole request's cost as a multiple of the same request without a session."""
        return self._spread(lambda some: _whole(some, contestant, workload))

    def ratio(self, contestant: Contestant, rival: Contestant, workload: Workload) -> Spread:
        """Return the added cost as a multiple of the rival's."""
        return self._spread(
            lambda some: (
                (_whole(some, contestant, workload) - 1) / (_whole(some, rival, workload) - 1)
            )
        )

    def least_us(self, contestant: Contestant, workload: Workload) -> float:
        """Return the application's CPU per request in the luckiest slice."""
        return min(one.app_us for one in self._slices(contestant, workload))

    def engine_us(self, contestant: Contestant, workload: Workload) -> float:
        """Return the engine's CPU per request."""
        return median(one.engine_us for one in self._slices(contestant, workload))

    def p50_us(self, contestant: Contestant, workload: Workload) -> float:
        """Return the median latency."""
        return median(one.p50_us for one in self._slices(contestant, workload))

    def _slices(self, contestant: Contestant, workload: Workload) -> list[Slice]:
        slices = (one for compared in self.compared for one in (compared.before, compared.own))
        return [one for one in slices if (one.contestant, one.workload) == (contestant, workload)]

    def _spread(self, figure: Callable[[Sequence[Compared]], float]) -> Spread:
        rounds = {one.round for one in self.compared}
        single = [
            figure([one for one in self.compared if one.round == number]) for number in rounds
        ]
        return Spread(figure(self.compared), min(single), max(single))


def _whole(compared: Sequence[Compared], contestant: Contestant, workload: Workload) -> float:
    return median(
        one.whole
        for one in compared
        if (one.own.contestant, one.own.workload) == (contestant, workload)
    )
