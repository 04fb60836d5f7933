"""The page that `make prove` writes."""

from __future__ import annotations

import pytest
from proof import HEAD, proved_by, section, with_sections


def report(name: str, outcome: str = "passed", *figures: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=name,
        location=(name, 0, name),
        keywords={},
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=None,
        when="call",
        user_properties=[("figure", text) for text in figures],
        duration=2.0,
    )


def test_a_file_says_what_passed_what_failed_and_what_was_measured() -> None:
    reports = [
        report("tests/a.py::test_one", "passed", "0 of 9 lost"),
        report("tests/a.py::test_two", "failed", "0 of 9 lost"),
        report("tests/b.py::test_one"),
    ]
    found = proved_by(reports)
    assert list(found) == ["tests/a.py", "tests/b.py"]
    words = section(found["tests/a.py"], "abc", {"SAMESESSION_PROVE": "1"})
    assert "commit abc: 1 passed, 1 failed in 4 s with `SAMESESSION_PROVE=1`." in words
    assert words.count("- 0 of 9 lost") == 1


def test_a_part_that_is_proved_anew_leaves_what_others_say() -> None:
    first = with_sections("", {"tests/b.py": "old\n\n- 1 of 2", "tests/a.py": "stands"})
    again = with_sections(first, {"tests/b.py": "new"})
    assert again == f"{HEAD}\n## tests/a.py\n\nstands\n\n## tests/b.py\n\nnew\n"
