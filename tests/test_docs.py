"""Every Python block of the documentation runs, in the order of its page."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.ko.md"]
PAGES = [*READMES, *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMESESSION_URL", "memory://")
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # frameworks look up annotations there
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page.name} block {number + 1}", "exec"), vars(module))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_readme_says_the_same_in_korean() -> None:
    """Its code, links, commands and figures; the words are up to whoever changes one of them."""
    for same in (
        r"^```python\n.*?^```",
        r"\]\((.*?)\)",
        r"^    (make .*?)(?=  #|$)",
        r"\d+ µs",
        r"`[^`\n]+`",
    ):
        english, korean = (
            sorted(re.findall(same, page.read_text(), re.DOTALL | re.MULTILINE)) for page in READMES
        )
        assert [text for text in english if "README" not in text] == [
            text for text in korean if "README" not in text
        ]
