"""What Memcached is like, by its own statistics; judged for sessions."""

from __future__ import annotations

import time

from samesession._bridge import ready
from samesession.doctor import probe
from samesession.doctor.finding import Finding, bad, clock, latency, note, ok, transport
from samesession.errors import ConfigError, StoreUnavailableError
from samesession.settings import Url
from samesession.stores.memcached import MemcachedStore, open_threads


def examine(url: Url) -> list[Finding]:
    """Look at everything that sessions need.

    Raises:
        ConfigError: nobody answers there.
    """
    store = open_threads(url)
    assert isinstance(store, MemcachedStore)
    try:
        return _examined(store, url, float(url.duration_ms("deadline", 250)))
    finally:
        ready(store.close())


def _examined(store: MemcachedStore, url: Url, deadline_ms: float) -> list[Finding]:
    wire = store._wire
    try:
        ready(wire.stats())  # connects
        trips = []
        for _ in range(20):
            began = time.perf_counter()
            ready(wire.gets("samesession:doctor"))
            trips.append((time.perf_counter() - began) * 1000)
        stats = ready(wire.stats())
    except StoreUnavailableError as error:
        raise ConfigError(f"{error}; is it running?") from None
    return [
        ok("version", f"Memcached {stats.get('version', '?')}"),
        note("persistence", "none: a restart loses every session", "redis:// and SQL keep them"),
        _eviction(stats),
        latency(trips, deadline_ms),
        clock((int(stats.get("time", "0")) - time.time()) * 1000),
        transport(
            secure=False, host=url.host, way="keep it on a private network, or use rediss://"
        ),
        probe.rights(store),
    ]


def _eviction(stats: dict[str, str]) -> Finding:
    evicted, most = int(stats.get("evictions", "0")), int(stats.get("limit_maxbytes", "0"))
    used = int(stats.get("bytes", "0"))
    text = f"{used >> 20} of {most >> 20} MB used, {evicted} evicted since it started"
    if evicted:
        return bad("memory", f"{text}: each one was a lost session", "start it with more: -m 1024")
    return ok("memory", text)
