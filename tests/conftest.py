"""What every test shares."""

from __future__ import annotations

import pytest
from hypothesis import settings

# A shared machine pauses: the time of a single example says nothing about the code.
settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run ``@pytest.mark.anyio`` tests on asyncio, the loop that the library supports."""
    return "asyncio"
