"""Signing out everywhere, where a principal has very many sessions in Redis (L3; SQL: test_sql)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from samesession._bridge import ready
from samesession.lab import engines
from samesession.record import Mark, Reason
from samesession.stores.redis import RedisStore
from samesession.stores.redis_fields import arguments
from samesession.stores.redis_scripts import COMMIT
from samesession.stores.redis_wire import Command
from samesession.strategies import strategy_of
from samesession.testing import created, ending, fresh_key

THOUSANDS = 100_000 if os.environ.get("SAMESESSION_PROVE") == "1" else 5000


def test_ending_thousands_of_sessions_of_one_principal_takes_a_moment(
    record_property: Callable[[str, object], None],
) -> None:
    with engines.start() as engine:
        store = strategy_of(f"{engine.url}?deadline=10s").open_threads()
        assert isinstance(store, RedisStore)
        deltas = [created(fresh_key(), "ann", n=b"1") for _ in range(THOUSANDS)]
        for at in range(0, THOUSANDS, 1000):
            commands: list[Command] = []
            for delta in deltas[at : at + 1000]:
                name = store._session + delta.key
                commands.append(("EVAL", COMMIT, 1, name, *arguments(delta)))
                commands.append(("ZADD", store._principal + "ann", 9e12, delta.key))  # type: ignore[arg-type]
            ready(store._wire.many(commands))
        began = time.monotonic()
        assert len(ready(store.held_by("ann"))) == THOUSANDS
        listed = time.monotonic() - began
        # One went on elsewhere just before, and another had been ended: neither counts twice.
        moved, over, successor = deltas[0].key, deltas[1].key, fresh_key()
        ready(store.commit(created(successor, "ann")))
        ready(store.end(moved, ending(Reason.ROTATED, successor)))
        ready(store.end(over, ending()))
        began = time.monotonic()
        assert ready(store.end_all("ann", ending(Reason.REVOKED))) == THOUSANDS - 1
        ended = time.monotonic() - began
        assert ready(store.held_by("ann")) == []
        assert isinstance(ready(store.load(successor)), Mark)
        assert ready(store._wire.call("EXISTS", store._principal + "ann")) == 0
        ready(store.close())
    record_property(
        "figure",
        f"10 redis: {THOUSANDS} sessions of one principal listed in {listed:.2f} s, "
        f"ended in {ended:.2f} s",
    )
