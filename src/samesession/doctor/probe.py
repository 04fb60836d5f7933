"""One session's life against a store: every command that we use, with the rights we were given."""

from __future__ import annotations

import logging
import secrets
import time

from samesession._bridge import ready
from samesession.doctor.finding import Finding, bad, note, ok
from samesession.errors import ConfigError, SameSessionError
from samesession.record import (
    TOKEN_BYTES,
    Applied,
    Delta,
    Ending,
    Mark,
    Origin,
    Reason,
    Record,
)
from samesession.settings import Quota
from samesession.store import Store
from samesession.token import key_of

PRINCIPAL = "samesession-doctor"
LIFE_MS = 60_000

# What an engine says that would let us, if it were well.
_ILL = {
    "NOREPLICAS": "start its replicas, or lower min-replicas-to-write",
    "'maxmemory'": "raise maxmemory",
    "MISCONF": "it cannot write its snapshot: see its log and its disk",
    "unknown command": "it was renamed or disabled (rename-command): take that back",
    "is locked": "another program is writing and does not come to an end",
    "is full": "make room",
    "readonly": "its file or folder may not be written by us",
    "read-only": "name the primary",
    "did not answer": "is it overloaded? see latency; ?deadline= gives it more time",
}


def rights(store: Store) -> Finding:
    """Make, load, change, list and end a session of our own; what is refused is named."""
    key, now = key_of(secrets.token_urlsafe(16)), time.time_ns() // 1_000_000
    token = [secrets.token_bytes(TOKEN_BYTES) for _ in range(3)]
    until = now + LIFE_MS
    origin = Origin(now, until, PRINCIPAL, now)
    limited: Finding | None = None
    step = "make"
    log = logging.getLogger("samesession")
    log.disabled, was = True, log.disabled  # what is refused is said below
    try:
        quota = Quota(1000) if store.limits else None  # the commands of a limit, too
        ready(store.admit(PRINCIPAL, key, until, quota=quota))
        made = Delta(key, token[0], now, until, {"doctor": b"\xc3"}, (), origin)
        if not isinstance(ready(store.commit(made)), Applied):
            return bad("rights", "a new session was not kept", "see the engine's log")
        step = "change"
        ready(store.commit(Delta(key, token[1], now, sets={"seen": b"\xc3"})))
        step = "load"
        found = ready(store.load(key))
        if not isinstance(found, Record) or len(found.values) != 2:
            return bad("rights", "a session came back other than it went in", "is it a proxy?")
        step = "list"
        try:
            listed = [record.key for record in ready(store.held_by(PRINCIPAL))]
        except ConfigError as error:
            limited = note("rights", "sessions can be made, loaded, changed and ended", str(error))
        else:
            if key not in listed:
                return bad("rights", "a principal's session is not listed", "is it a replica?")
        step = "end"
        mark = ready(store.end(key, Ending(Reason.LOGOUT, now, token[2])))
        if not isinstance(ready(store.load(key)), Mark) or mark.reason is not Reason.LOGOUT:
            return bad("rights", "an ended session is not marked", "is it a replica?")
        ready(store.dismiss(PRINCIPAL, key))
    except SameSessionError as error:
        return bad("rights", f"may not {step} a session: {error}", _way_out(str(error)))
    finally:
        log.disabled = was
    return limited or ok("rights", "sessions can be made, loaded, changed, listed and ended")


def _way_out(error: str) -> str:
    found = (way for words, way in _ILL.items() if words in error)
    return next(found, "grant it (see the how-to)")
