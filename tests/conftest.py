"""What every test shares."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest
from command import Run
from hypothesis import settings

# Cut cables, paused machines and wrong clocks need minutes and an idle machine: `make prove`.
PROVE = os.environ.get("SAMESESSION_PROVE") == "1"
LONG = [
    *(f"agents/test_{name}.py" for name in ("faults", "machines", "partition", "rogue")),
    *(f"scenarios/test_{name}.py" for name in ("clocks", "restarts", "silence")),
]
collect_ignore = [] if PROVE else LONG

# A shared machine pauses: the time of a single example says nothing about the code.
settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run ``@pytest.mark.anyio`` tests on asyncio, the loop that the library supports."""
    return "asyncio"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command; its exit code and all that it printed."""
    from samesession import cli  # not every test pays for it

    def run(*arguments: str) -> tuple[int, str]:
        code = cli.main(arguments)
        told = capsys.readouterr()
        assert "Traceback" not in told.out + told.err
        return code, told.out + told.err

    return run


@pytest.fixture(scope="module", autouse=True)
def _leaves_nothing_open() -> Iterator[None]:
    """Blame the file that forgot to close something, not the one in which it is collected.

    Warnings are errors here, and an open socket is told of when it is collected: that failed
    whichever test ran then, when a file before it had failed and left its sockets behind.
    """
    yield
    sys.last_value = sys.last_traceback = None  # pytest keeps a failed test's frames here
    sys.last_exc = None
    gc.collect()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests noted with ``record_property("figure", …)``, each with its N."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    figures = [
        text
        for report in reports
        for name, text in getattr(report, "user_properties", ())
        if name == "figure" and report.when == "call"
    ]
    if figures:
        terminalreporter.section("figures")
        for text in dict.fromkeys(sorted(map(str, figures))):
            terminalreporter.write_line(text)
