"""Each rule is needed, and the simulator notices when it is missing."""

from __future__ import annotations

import re

import pytest

from tests.cluster.histories import BrokenError, replay
from tests.cluster.known_bad import BUILDS

TRIES = 150


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", BUILDS)
def test_the_simulator_catches_a_replica_that(name: str) -> None:
    build, kind, sign = BUILDS[name]
    for seed in range(TRIES):
        try:
            replay(seed, build, kind, loss=0.08)
        except BrokenError as broken:
            if re.search(sign, str(broken).partition("\n")[0]):
                return
    pytest.fail(f"a replica that {name} passed {TRIES} histories")
