"""What every test shares."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import proof
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
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Note a measured figure, with its N: printed after the run, kept by ``--proof``."""
    return lambda text: record_property("figure", text)


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
    """Print the figures that tests noted, each with its N; ``--proof`` keeps them on a page."""
    found = [report for reports in terminalreporter.stats.values() for report in reports]
    reports = [report for report in found if isinstance(report, pytest.TestReport)]
    figures = {text for proved in proof.proved_by(reports).values() for text in proved.figures}
    if figures:
        terminalreporter.section("figures")
        for text in sorted(figures):
            terminalreporter.write_line(text)
    page = terminalreporter.config.getoption("--proof")
    if page is not None:
        proof.write(Path(page), reports, os.environ)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Name the page that `make prove` writes."""
    parser.addoption("--proof", metavar="FILE", help="write there what each file of tests proved")
