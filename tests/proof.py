"""``docs/proof.md``: what each file of tests proved, when, and of which build."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.machine import revision

HEAD = """\
# What was proved, when, and of which build

Written by `make prove`, which runs every trial that the promises name; `make prove
ARGS=tests/agents` proves a part anew and leaves what other parts say. Without failures in N trials
the rate is below 3 in N (95 %); N stands with each figure.
"""


@dataclass
class Proved:
    """What one file of tests showed.

    Attributes:
        outcomes: how many tests passed, failed, were skipped.
        figures: what they measured, each with its N.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    figures: list[str] = field(default_factory=list)
    took_s: float = 0.0


def proved_by(reports: Iterable[pytest.TestReport]) -> dict[str, Proved]:
    """Sum up the reports of a run by the files of their tests."""
    files: dict[str, Proved] = {}
    for report in reports:
        proved = files.setdefault(report.nodeid.partition("::")[0], Proved())
        proved.took_s += report.duration
        if report.when == "call" or not report.passed:
            proved.outcomes[report.outcome] += 1
        if report.when == "call":
            figures = [str(text) for name, text in report.user_properties if name == "figure"]
            proved.figures += [text for text in figures if text not in proved.figures]
    return files


def section(proved: Proved, build: str, settings: Mapping[str, str]) -> str:
    """The page's words on one file."""
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in proved.outcomes.items())
    day = datetime.now(UTC).date()
    said = " ".join(f"{name}={value}" for name, value in sorted(settings.items()))
    line = f"{day}, commit {build}: {outcomes} in {proved.took_s:.0f} s"
    lines = [f"{line} with `{said}`." if said else f"{line}."]
    if proved.figures:
        lines += ["", *(f"- {text}" for text in sorted(proved.figures))]
    return "\n".join(lines)


def with_sections(page: str, sections: Mapping[str, str]) -> str:
    """The page with these sections anew, and all others as they were."""
    found = re.findall(r"^## (\S+)\n\n(.*?)(?=\n## |\Z)", page, re.MULTILINE | re.DOTALL)
    both = {name: text.strip() for name, text in found} | dict(sections)
    told = [f"## {name}\n\n{text}\n" for name, text in sorted(both.items())]
    return "\n".join([HEAD, *told])


def write(page: Path, reports: Iterable[pytest.TestReport], environment: Mapping[str, str]) -> None:
    """Bring the page up to date with a run."""
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    settings = {k: v for k, v in environment.items() if k.startswith("SAMESESSION_")}
    build = revision()
    sections = {n: section(p, build, settings) for n, p in proved_by(reports).items()}
    page.write_text(with_sections(before, sections), encoding="utf-8")
