"""A worker of a server without its web server: verbs in as JSON lines, answers out as JSON lines.

The store is opened from SAMESESSION_URL as an application would; times are CLOCK_MONOTONIC, which
every process of a machine shares.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any

from samesession._bridge import ready
from samesession.errors import StoreUnavailableError
from samesession.record import (
    TOKEN_BYTES,
    Applied,
    Delta,
    Ended,
    Ending,
    Key,
    Mark,
    Origin,
    Outcome,
    Reason,
    Record,
    Version,
)
from samesession.strategies import strategy_of

HOUR_MS = 3_600_000
store: Any = strategy_of(os.environ["SAMESESSION_URL"]).open_threads()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def told(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Applied):
        version = outcome.commits[-1].version
        return {"is": "applied", "number": version.number, "tag": version.tag.hex()}
    if isinstance(outcome, Ended):
        return {"is": "ended", "reason": outcome.mark.reason}
    return {"is": type(outcome).__name__.lower()}


def create(key: str, principal: str | None = None, **values: str) -> dict[str, Any]:
    now = now_ms()
    delta = Delta(
        key=Key(key),
        token=secrets.token_bytes(TOKEN_BYTES),
        now_ms=now,
        idle_until_ms=now + HOUR_MS // 2,
        sets={name: value.encode() for name, value in values.items()},
        origin=Origin(now, now + HOUR_MS, principal, now if principal else None),
    )
    if principal is not None:
        ready(store.admit(principal, Key(key), now + HOUR_MS))
    return told(ready(store.commit(delta)))


def put(key: str, **values: str) -> dict[str, Any]:
    sets = {name: value.encode() for name, value in values.items()}
    token = secrets.token_bytes(TOKEN_BYTES)
    return told(ready(store.commit(Delta(key=Key(key), token=token, now_ms=now_ms(), sets=sets))))


def load(key: str, number: int = 0, tag: str = "") -> dict[str, Any]:
    seen = Version(number, bytes.fromhex(tag)) if number else None
    found = ready(store.load(Key(key), at_least=seen))
    if isinstance(found, Record):
        version = found.version
        values = {name: value.decode() for name, value in found.values.items()}
        return {"is": "record", "number": version.number, "values": values}
    return {"is": "mark" if isinstance(found, Mark) else "absent"}


def end(key: str) -> dict[str, Any]:
    token = secrets.token_bytes(TOKEN_BYTES)
    mark = ready(store.end(Key(key), Ending(Reason.LOGOUT, now_ms(), token)))
    return {"is": "mark", "ours": mark.token == token}


def held_by(principal: str) -> dict[str, Any]:
    return {"is": "held", "keys": [record.key for record in ready(store.held_by(principal))]}


def end_all(principal: str) -> dict[str, Any]:
    ending = Ending(Reason.REVOKED, now_ms(), secrets.token_bytes(TOKEN_BYTES))
    return {"is": "ended", "number": ready(store.end_all(principal, ending))}


def join(within_s: float = 15) -> dict[str, Any]:
    ready(store.ready(within_s))
    return {"is": "ready"}


def many(number: int, size: int = 500, principal: str | None = None) -> dict[str, Any]:
    """Make so many sessions; those that were acknowledged."""
    made = []
    for _ in range(number):
        key = secrets.token_hex(16)
        try:
            if create(key, principal, a="x" * size)["is"] == "applied":
                made.append(key)
        except StoreUnavailableError:
            continue
    return {"is": "made", "keys": made}


def present(keys: list[str]) -> dict[str, Any]:
    """How many of these are there."""
    found = 0
    for key in keys:
        for _ in range(20):
            try:
                found += load(key)["is"] == "record"
                break
            except StoreUnavailableError:
                time.sleep(0.1)
    return {"is": "present", "number": found}


def writing(keys: list[str], seconds: float, rate: float) -> dict[str, Any]:
    """Write at a steady rate; each write's start, how long it took, and whether it was applied."""
    began, writes, number = time.monotonic(), [], 0
    while (due := began + number / rate) < began + seconds:
        time.sleep(max(0, due - time.monotonic()))
        started = time.monotonic()
        key = keys[number % len(keys)]
        try:
            done = put(key, n=str(number))["is"] == "applied"
        except StoreUnavailableError:
            done = False
        writes.append((started, time.monotonic() - started, done, key, number))
        number += 1
    return {"is": "written", "writes": writes}


VERBS: dict[str, Callable[..., dict[str, Any]]] = {
    verb.__name__: verb
    for verb in (create, put, load, end, held_by, end_all, join, many, present, writing)
}


def main() -> None:
    for line in sys.stdin:
        verb, arguments = json.loads(line)
        began = time.monotonic()
        try:
            answer = VERBS[verb](**arguments)
        except StoreUnavailableError as error:
            answer = {"is": "unavailable", "why": str(error)}
        answer["s"] = time.monotonic() - began
        print(json.dumps(answer), flush=True)
    ready(store.close())


if __name__ == "__main__":
    main()
