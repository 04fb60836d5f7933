"""Figures as cells, and cells as a table in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.figures import Spread

NONE = "–"


def spread(of: Spread) -> str:
    """Return a figure, and in brackets what single rounds gave."""
    return f"{of.value:.2f} ({of.least:.2f} – {of.greatest:.2f})"


def commands(per_request: dict[str, float]) -> str:
    """Return the names of commands, with their number where it is not one."""
    return (
        ", ".join(
            name if number == 1 else f"{number:g} {name}" for name, number in per_request.items()
        )
        or NONE
    )


def table(rows: Iterable[Sequence[str]]) -> str:
    """Render rows, the first of which is the head; everything but the names to the right."""
    head, *body = rows
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))
