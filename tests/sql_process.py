"""A process of its own over one database: ``python -m sql_process URL SEED``; what the test starts.

It makes, changes and ends sessions, signs one principal in within a quota, signs it out everywhere,
and sweeps after each write; anything that was refused or logged ends it with an error.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import sys
import time

from samesession._bridge import ready
from samesession.record import Applied, Delta, Ended, Ending, Key, Origin, Reason
from samesession.settings import Quota
from samesession.stores import sql
from samesession.stores.sql import SqlStore
from samesession.strategies import strategy_of

STEPS = 400 if os.environ.get("SAMESESSION_PROVE") == "1" else 40
QUOTA = Quota(3)


class Said(logging.Handler):
    """Whatever our log says is too much."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage())


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# Not those of samesession.testing: importing pytest takes longer than the test.
def created(key: Key, principal: str) -> Delta:
    now = now_ms()
    origin = Origin(now, now + 60_000, principal, now)
    token = secrets.token_bytes(8)
    return Delta(key, token, now, now + 30_000, {"n": b"0"}, origin=origin)


def changed(key: Key) -> Delta:
    return Delta(key, secrets.token_bytes(8), now_ms(), sets={"n": b"1"})


def main(url: str, seed: int) -> None:
    chance = random.Random(seed)
    logging.getLogger("samesession").addHandler(Said())
    logging.raiseExceptions = True
    sql.SWEEP_BATCH = 20
    store = strategy_of(url).open_threads()
    assert isinstance(store, SqlStore)
    for number in range(STEPS):
        store._sweep_at = 0
        key = Key(secrets.token_hex(16))
        if chance.random() < 0.4:
            assert isinstance(ready(store.commit(created(key, "other"))), Applied)
            store._sweep_at = 0
            assert isinstance(ready(store.commit(changed(key))), Applied)
        elif chance.random() < 0.8:
            assert ready(store.admit("ann", key, now_ms() + 60_000, quota=QUOTA)) is not None
            outcome = ready(store.commit(created(key, "ann")))
            assert isinstance(outcome, Applied | Ended)
        else:
            ready(store.end_all("ann", Ending(Reason.REVOKED, now_ms(), secrets.token_bytes(8))))
        if number % 10 == 0:
            assert len(ready(store.held_by("ann"))) <= QUOTA.most
    ready(store.close())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
