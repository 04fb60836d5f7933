"""How many sessions a principal may have, and who makes room for the next one: a pure decision.

A store takes it in one atomic step over all that it knows of the principal (DESIGN S15). Whoever is
displaced is ended before the new record is made, so there are never more than the quota says.
"""

from __future__ import annotations

from collections.abc import Mapping

from samesession.record import Key
from samesession.settings import Quota

MAKING_MS = 60_000
"""How long a login may take from its admission to its record; until then it counts as one."""


def displaced(
    held: Mapping[Key, int],
    moving: Mapping[Key, Key],
    key: Key,
    replaces: Key | None,
    quota: Quota,
) -> tuple[Key, ...] | None:
    """Say who makes room for one more session.

    Args:
        held: the principal's records, live or being made, by absolute deadline: the earliest is
            the oldest session, since rotations keep it.
        moving: records that are being rotated, and what each goes on as; the two count once.
        key: the record that is to be made.
        replaces: the record whose place it takes, if it is a rotation or signs in again.
        quota: what is allowed.

    Returns:
        Whom to end, with what each of them is moving out of; None when it is refused.
    """
    if key in held or replaces in held:
        return ()
    counted = [one for one in held if moving.get(one) not in held]
    over = len(counted) + 1 - quota.most
    if over <= 0:
        return ()
    if not quota.evicts:
        return None
    going = sorted(counted, key=lambda one: (held[one], one))[:over]
    for one in going:  # grows meanwhile: a rotation of a rotation
        going += [old for old, new in moving.items() if new == one and old in held]
    return tuple(going)
