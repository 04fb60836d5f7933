"""Every key of a Redis, a Valkey or a cluster of them, page by page."""

from __future__ import annotations

from samesession.record import Key
from samesession.stores.redis_target import address
from samesession.stores.redis_wire import Wire


async def scanned(wire: Wire, prefix: str, cursor: str, most: int) -> tuple[list[Key], str]:
    """One server after another, in the order of their slots: ``number@address@its cursor``."""
    match = "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in prefix) + "*"
    servers = await wire.primaries()
    number, where, at = cursor.split("@") if cursor else ("0", "", "0")
    if int(number) >= len(servers):
        return [], ""
    server = servers[int(number)]
    if where != address(server):
        at = "0"  # a replica has taken over, and its cursors are its own
    following, names = await wire.call_at(
        server, "SCAN", at, "MATCH", match, "COUNT", most, "TYPE", "hash"
    )
    keys = [Key(name.decode()[len(prefix) :]) for name in names if name.isascii()]
    after = following.decode() if isinstance(following, bytes) else str(following)
    if after != "0":
        return keys, f"{number}@{address(server)}@{after}"
    return keys, f"{int(number) + 1}@@0" if int(number) + 1 < len(servers) else ""
