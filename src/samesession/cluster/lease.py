"""When a copy may answer without asking anybody, and when an end may be acknowledged (S16).

1. A server's lease runs L from its own timestamp that a peer echoed, if it has all the news that
   the peer had said by the echo; it is the earliest over every peer that could contradict it.
2. An end is acknowledged when every server has its news, or said farewell, or L has passed since
   its last echo without it: whoever lacks the news has no lease any more.
3. A lease belongs to an era. Whenever a server may have missed news for good, a new era begins,
   and what it holds is as good as lapsed until an authority levelled it.
4. A mark needs no lease: what has ended stays ended.
"""

from __future__ import annotations

from samesession.cluster.shelf import Copy, Lease
from samesession.record import Mark, Record, Version


def answer(
    copy: Copy | None,
    shard_era: int,
    lease: Lease,
    *,
    now_ms: int,
    wall_ms: int,
    at_least: Version | None,
) -> Record | Mark | None:
    """What a copy says by itself, or None: ask the agent.

    Args:
        copy: from the shelf.
        shard_era: of the copy's shard, from the same read transaction, as is ``lease``.
        now_ms: CLOCK_BOOTTIME, which runs on while a machine or a process is paused.
        wall_ms: milliseconds since the epoch; a copy whose idle deadline has passed asks, since
            somebody may have touched it elsewhere.
        at_least: the version from the cookie.
    """
    if copy is None:
        return None
    item = copy.item
    if item.mark is not None:
        return item.mark
    record = item.record
    era = shard_era if copy.held else copy.era
    if record is None or era != lease.era or now_ms >= lease.until_ms:
        return None
    if record.ends_ms <= wall_ms or (at_least is not None and not record.covers(at_least)):
        return None
    return record
