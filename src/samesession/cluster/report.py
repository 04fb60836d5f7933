"""What one server tells of itself and of its cluster: plain data, for people and programs."""

from __future__ import annotations

from samesession.cluster.claims import Claims
from samesession.cluster.members import Members
from samesession.cluster.settings import COUNTER_SHIFT, Now
from samesession.cluster.state import State


def of(
    state: State, members: Members, claims: Claims, now: Now, *, ready: bool
) -> dict[str, object]:
    """Return what `samesession cluster status` shows."""
    shards = range(state.settings.shards)
    roles = claims.roles
    return {
        "server": state.settings.name,
        "settled": members.settled,
        "ready": ready,
        "clock_off": members.skewed(),
        "lease_ms": max(0, members.until_ms - now.mono_ms),
        "era": state.era,
        "news": members.news,
        "members": {
            name: {
                "settled": peer.settled,
                "leaving": peer.leaving,
                "silent_ms": peer.silent_ms,
                "skew_ms": peer.skew_ms,
                "news": peer.have,
                "heard_ours": peer.acked,
            }
            for name, peer in members.peers.items()
        },
        "authority_of": sum(role.serving for role in roles.values()),
        "waits_for": sorted(claims.missed() | members.expected.keys()),
        "claiming": sum(not role.serving for role in roles.values()),
        "level_in": sum(state.sure(shard) for shard in shards if shard not in roles),
        "shards": {shard: _shard(shard, state, claims) for shard in shards},
        "counts": dict(state.counts),
        "sent": [
            {"sent": kind.lower(), "frames": frames, "bytes": size}
            for kind, (frames, size) in sorted(state.sent.items())
        ],
    }


def _shard(shard: int, state: State, claims: Claims) -> dict[str, object]:
    """Return whose it is, what is here, and how many sessions the others lack."""
    known, role, held_by = state.shard(shard), claims.roles.get(shard), claims.owners(shard)
    if role is not None:
        here = "authority" if role.serving else "claiming"
    elif state.settings.name in held_by:
        here = "level" if state.sure(shard) else "behind"
    else:
        here = "no copy"
    return {
        "authority": known.holder or None,
        "epoch": known.epoch >> COUNTER_SHIFT,
        "here": here,
        "owners": [*held_by],
        "lag": {name: claims.followers.behind(name, shard) for name in role.sides} if role else {},
    }
