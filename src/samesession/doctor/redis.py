"""What Redis or Valkey is like, by its own INFO; judged for sessions."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from samesession._bridge import ready
from samesession.doctor import probe
from samesession.doctor import redis_several as several
from samesession.doctor.finding import Finding, bad, clock, latency, note, ok, transport
from samesession.errors import ConfigError, SameSessionError, StoreUnavailableError
from samesession.settings import Url
from samesession.stores.redis import RedisStore, open_threads
from samesession.stores.redis_target import Node, Target, address
from samesession.stores.redis_threads import ThreadWire

NEAR = {"", "127.0.0.1", "::1", "localhost"}

LOOKED_AT = 2000
"""Keys, at most, that are asked whether they have a deadline."""


def examine(url: Url) -> list[Finding]:
    """Look at everything that sessions need, on every server that keeps them.

    Raises:
        ConfigError: nobody answers there, or not to us.
    """
    store = open_threads(url)
    assert isinstance(store, RedisStore)
    target = Target.of(url)
    wire = store._wire
    assert isinstance(wire, ThreadWire)
    try:
        primaries = ready(wire.primaries())
        found = several.around(wire, target)
        servers = [_server(store, node, target) for node in primaries]
    except StoreUnavailableError as error:
        raise ConfigError(f"{str(error).rstrip('.')}; {_way_out(str(error))}") from None
    finally:
        ready(wire.close())
    found += several.alike([address(node) for node in primaries], servers)
    way = f"use {url.scheme.replace('redis', 'rediss').replace('valkey', 'valkeys')}://, with ?ca="
    hosts = dict.fromkeys(host for host, _port in (*target.nodes, *primaries))
    far = [host for host in hosts if host not in NEAR] if target.kind == "tcp" else []
    found.append(transport(secure=target.kind != "tcp", host=", ".join(far), way=way))
    if all(finding.what != "role" for server in servers for finding in server):
        found.append(probe.rights(store))
    ready(store.close())
    return found


def _server(store: RedisStore, node: Node, target: Target) -> list[Finding]:
    def ask(*command: str | int) -> Any:
        return ready(store._wire.call_at(node, *command))

    trips = sorted(_timed(lambda: ask("PING")) for _ in range(21))[:20]  # the first connects
    info = _info(ask("INFO"))
    return [
        _version(info),
        *_lone(info, target),
        *_role(info),
        _persistence(info),
        _eviction(info),
        latency(trips, target.deadline_s * 1000),
        clock(_ahead_ms(ask)),
        _user(ask),
        _tracking(ask),
        _deadlines(store, ask),
    ]


def _way_out(error: str) -> str:
    hints = {
        "no such primary": "its name stands behind the hosts, as in their `sentinel monitor NAME`",
        "one node of a cluster": "with some of its servers as hosts",
        "username-password": "right user and password? of sentinels: sentinel_user, _password",
        "Authentication required": "write redis://user:password@…",
        "has this slot": "the cluster is not whole; see CLUSTER INFO",
        "certificate": "name its authority with ?ca=FILE",
    }
    found = (hint for words, hint in hints.items() if words in error)
    return next(found, "is it running, and the address right?")


def _version(info: Mapping[str, str]) -> Finding:
    valkey = info.get("valkey_version")
    text = f"Valkey {valkey}" if valkey else f"Redis {info.get('redis_version', '?')}"
    major = int((valkey or info.get("redis_version", "0")).split(".")[0] or 0)
    if major < 6:
        return bad("version", text, "RESP3 and users need Redis 6.2 or Valkey; upgrade")
    return ok("version", text)


def _lone(info: Mapping[str, str], target: Target) -> list[Finding]:
    if info.get("cluster_enabled") != "1" or target.topology == "cluster":
        return []
    text = "one server of a cluster, which has the keys of its own slots only"
    return [bad("cluster", text, "write redis+cluster:// and some of its servers")]


def _role(info: Mapping[str, str]) -> list[Finding]:
    if info.get("role") == "slave":
        primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
        return [bad("role", f"a read-only replica of {primary}", f"name the primary: {primary}")]
    replicas = int(info.get("connected_slaves", "0"))
    if not replicas:
        return [note("replicas", "none", "when this server dies, so do its sessions: add one")]
    lags = [int(lag) for lag in re.findall(r"lag=(\d+)", " ".join(info.values()))]
    text = f"{replicas}, the slowest {max(lags, default=0)} s behind"
    if max(lags, default=0) > 5:
        return [bad("replicas", text, "a failover would lose that much; see their logs")]
    return [ok("replicas", text)]


def _persistence(info: Mapping[str, str]) -> Finding:
    if info.get("aof_enabled") == "1":
        if info.get("aof_last_write_status", "ok") != "ok":
            return bad("persistence", "the append-only file cannot be written", "see its log, disk")
        return ok("persistence", "append-only file")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return bad("persistence", "the last snapshot failed", "see its log and its disk")
    changes = info.get("rdb_changes_since_last_save", "?")
    text = f"snapshots at most; {changes} changes since the last one would be lost"
    return note("persistence", text, "appendonly yes keeps sessions over a restart")


def _eviction(info: Mapping[str, str]) -> Finding:
    policy, limit = info.get("maxmemory_policy", "?"), info.get("maxmemory_human", "0B")
    if info.get("maxmemory") == "0":
        return ok("memory", f"no limit of its own ({info.get('used_memory_human', '?')} used)")
    if policy != "noeviction":
        return bad("memory", f"{policy} drops sessions at {limit}", "maxmemory-policy noeviction")
    used, most = int(info.get("used_memory", "0")), int(info.get("maxmemory", "0"))
    text = f"{used * 100 // most} % of {limit} used, noeviction"
    if used > most * 0.9:
        return bad("memory", text, "new sessions will be refused; raise maxmemory")
    return ok("memory", text)


def _ahead_ms(ask: Callable[..., Any]) -> float:
    before = time.time()
    seconds, micro = (int(part) for part in ask("TIME"))
    return (seconds + micro / 1e6 - (before + time.time()) / 2) * 1000


def _user(ask: Callable[..., Any]) -> Finding:
    try:
        name = ask("ACL", "WHOAMI")
        name = name.decode() if isinstance(name, bytes) else name
    except SameSessionError:
        return ok("user", "may not ask about itself, as it should be")
    try:
        about = ask("ACL", "GETUSER", name)
    except SameSessionError:
        return ok("user", f"{name}, restricted")
    pairs = about if isinstance(about, dict) else dict(zip(about[::2], about[1::2], strict=False))
    commands = pairs.get(b"commands", b"").decode()
    if b"nopass" in pairs.get(b"flags", ()):
        return note("user", f"{name} needs no password", "ACL SETUSER (see the how-to)")
    if "+@all" in commands:
        return note("user", f"{name} may do everything", "ours needs little (see the how-to)")
    return ok("user", f"{name}, {commands}")


def _tracking(ask: Callable[..., Any]) -> Finding:
    """Whether we may be told what changes, which a near cache needs."""
    try:
        ask("CLIENT", "TRACKING", "ON", "NOLOOP")
        ask("CLIENT", "TRACKING", "OFF")
    except SameSessionError as error:
        return note("near cache", f"impossible: {error}", "+client|tracking, if you want ?near=")
    return ok("near cache", "possible with ?near=16MB")


def _deadlines(store: RedisStore, ask: Callable[..., Any]) -> Finding:
    """Sample our keys: each must have an expiry, and be a hash."""
    cursor, keys = "0", list[str]()
    for _ in range(200):
        following, names = ask("SCAN", cursor, "MATCH", store._session + "*", "COUNT", 1000)
        keys += [name.decode() for name in names if name.isascii()]
        cursor = following.decode() if isinstance(following, bytes) else str(following)
        if cursor == "0" or len(keys) >= LOOKED_AT:
            break
    keys = keys[:LOOKED_AT]
    endless = [key for key in keys if ask("PTTL", key) == -1]
    foreign = [key for key in keys[:200] if ask("TYPE", key) not in {b"hash", "hash", b"none"}]
    text = f"{len(keys)} sessions looked at"
    if foreign:
        return bad("keys", f"{text}; {foreign[0]} is none of ours", "give each its own ?prefix=")
    if endless:
        return bad(
            "keys", f"{text}; {len(endless)} have no deadline: {endless[0]}", "who wrote it?"
        )
    return ok("keys", f"{text}, each with a deadline")


def _info(raw: bytes | str | Mapping[Any, Any]) -> Mapping[str, str]:
    if isinstance(raw, Mapping):
        return {str(name): str(value) for name, value in raw.items()}
    text = raw.decode() if isinstance(raw, bytes) else raw
    lines = (line.partition(":") for line in text.splitlines())
    return {name: value for name, colon, value in lines if colon}


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000
