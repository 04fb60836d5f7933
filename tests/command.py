"""The command as tests run it (fixture ``run``), and what they look for in what it prints."""

from __future__ import annotations

import re
from collections.abc import Callable

Run = Callable[..., tuple[int, str]]
"""Its exit code and all that it printed."""


def line(printed: str, what: str) -> str:
    """The one line about something."""
    (found,) = [text for text in printed.splitlines() if re.match(rf"\w+ +{what}\b", text)]
    return found
