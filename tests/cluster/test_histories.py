"""Thousands of simulated histories, in each of which servers are hurt while browsers go on.

``SAMESESSION_HISTORIES=100000 make test ARGS=tests/cluster/test_histories.py`` runs more; without
failures in N histories, fewer than 3 in N break a promise (95 %).
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.cluster.histories import KINDS, BrokenError, replay

HISTORIES = int(os.environ.get("SAMESESSION_HISTORIES", "2000"))
FIRST = int(os.environ.get("SAMESESSION_FIRST_SEED", "0"))
PROCESSES = int(os.environ.get("SAMESESSION_PROCESSES", os.cpu_count() or 1))
BATCH = 100
_played: Counter[str] = Counter()


def collect_seldom() -> None:
    """Histories are large circles that live for a moment: looking for them all the time is dear."""
    gc.freeze()
    gc.set_threshold(200_000, 5, 5)


def played(seed: int) -> tuple[str, int, int, str]:
    """A history's kind, its requests, what was checked, and what broke."""
    try:
        history = replay(seed)
    except BrokenError as broken:
        return "", 0, 0, str(broken)
    return history.kind, history.requests, history.checked, ""


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(
        PROCESSES, mp_context=get_context("spawn"), initializer=collect_seldom
    ) as pool:
        yield pool


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(FIRST, FIRST + HISTORIES, BATCH))
def test_every_promise_holds_in_every_history(first: int, processes: ProcessPoolExecutor) -> None:
    seeds = range(first, min(first + BATCH, FIRST + HISTORIES))
    kinds: Counter[str] = Counter()
    requests = checked = 0
    for kind, asked, looked, broken in processes.map(played, seeds, chunksize=5):
        assert not broken, broken
        kinds[kind] += 1
        requests += asked
        checked += looked
    if len(seeds) == BATCH:
        assert set(kinds) == set(KINDS), kinds
    assert requests > 20 * len(seeds)
    assert checked > 100 * len(seeds)
    _played.update(kinds, requests=requests, checked=checked)


def test_the_histories_add_up(figure: Callable[[str], None]) -> None:
    told = _played.copy()
    requests, checked = told.pop("requests"), told.pop("checked")
    if not told:
        pytest.skip("no history was played in this process")
    assert told.total() == HISTORIES
    figure(
        f"{HISTORIES} histories from seed {FIRST} ({', '.join(map(str, sorted(told)))}): "
        f"{requests} requests, {checked} checks, 0 broken"
    )


def test_a_seed_is_a_history() -> None:
    """A failure can be replayed: nothing but the seed decides."""
    one, other = replay(4711), replay(4711)
    assert one.log == other.log
    assert one.log
