"""What a server knows of a shard that it claims or serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Side:
    """What an authority knows of one server's copy of a shard."""

    era: int
    before: int
    sure: bool
    owners: tuple[str, ...]
    holds: bool
    merged: bool = False
    level: bool = False


@dataclass(slots=True)
class Role:
    """A shard that this server claims or serves.

    Attributes:
        doubted: what waits for the other owners to say that they still obey.
        base: the latest epoch that this one follows upon.
        waiting: who has not answered yet, or whose copies are not merged yet.
        knew: the last known owners, and in which epoch, unless this server is sure.
    """

    epoch: int
    base: int
    sure: bool
    knew: tuple[int, tuple[str, ...]]
    waiting: set[str]
    serving: bool = False
    sides: dict[str, Side] = field(default_factory=dict)
    doubted: list[Doubt] = field(default_factory=list)
    handed_ms: int = -1_000_000
    claimed_ms: int = 0


@dataclass(slots=True, eq=False)
class Doubt:
    """Told True once everybody answered a claim after ``since``, False if one does not obey."""

    since: int
    waiting: set[str]
    told: Callable[[bool], None]
