"""One thing that the doctor found, and the judgements that all engines share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what it is like, and the way out when that is not good."""

    level: Level
    what: str
    text: str
    way_out: str = ""


def ok(what: str, text: str) -> Finding:
    """As it should be."""
    return Finding(Level.OK, what, text)


def note(what: str, text: str, way_out: str = "") -> Finding:
    """Worth knowing, or not to be seen."""
    return Finding(Level.NOTE, what, text, way_out)


def bad(what: str, text: str, way_out: str) -> Finding:
    """Sessions are lost, or will be."""
    return Finding(Level.BAD, what, text, way_out)


def latency(trips_ms: Sequence[float], deadline_ms: float) -> Finding:
    """A step's round trip beside the deadline that it must keep."""
    middle, worst = median(trips_ms), max(trips_ms)
    text = f"median {middle:.2f} ms, worst {worst:.2f} ms of {len(trips_ms)} round trips"
    if worst > deadline_ms / 5:
        return note(
            "latency", text, f"near the deadline of {deadline_ms:.0f} ms; be closer, or ?deadline="
        )
    return ok("latency", text)


def clock(ahead_ms: float) -> Finding:
    """The engine's clock beside ours; it orders nothing, but it cleans up."""
    text = f"{abs(ahead_ms) / 1000:.1f} s {'ahead of' if ahead_ms > 0 else 'behind'} this machine"
    if abs(ahead_ms) > 5000:
        return bad("clock", text, "run a time service (chrony) on both")
    return ok("clock", "the same as this machine's" if abs(ahead_ms) < 500 else text)


def transport(*, secure: bool, host: str, way: str) -> Finding:
    """Whether sessions cross a network in clear."""
    if secure:
        return ok("TLS", "on")
    if host in {"", "127.0.0.1", "::1", "localhost"}:
        return ok("TLS", "off, on this machine")
    return bad("TLS", f"off: sessions cross the network to {host} in clear", way)
