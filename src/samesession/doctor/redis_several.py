"""Redis or Valkey on several servers: what the sentinels say, whether a cluster is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from samesession.doctor.finding import Finding, Level, bad, note, ok
from samesession.stores.redis_client import RedisError
from samesession.stores.redis_target import Target, address
from samesession.stores.redis_threads import ThreadWire

LONG_MS = 10_000
"""Down-after: requests are answered 503 for so long at least."""


def around(wire: ThreadWire, target: Target) -> list[Finding]:
    """What stands around the servers that keep sessions."""
    if target.topology == "sentinel":
        return _sentinels(wire, target)
    return [_cluster(wire, target)] if target.topology == "cluster" else []


def alike(names: Sequence[str], servers: Sequence[Sequence[Finding]]) -> list[Finding]:
    """The findings of several servers: where all are well one line, else one for each that is not.

    Args:
        names: the servers'.
        servers: their findings.
    """
    if len(servers) == 1:
        return list(servers[0])
    found: list[Finding] = []
    for what in dict.fromkeys(finding.what for server in servers for finding in server):
        named = [
            (name, finding)
            for name, server in zip(names, servers, strict=True)
            for finding in server
            if finding.what == what
        ]
        ill = [(name, finding) for name, finding in named if finding.level is not Level.OK]
        if not ill:
            found.append(ok(what, f"{named[0][1].text} ({names[0]}; {len(names) - 1} more are ok)"))
        found += [
            Finding(finding.level, what, f"{name}: {finding.text}", finding.way_out)
            for name, finding in ill
        ]
    return found


def _sentinels(wire: ThreadWire, target: Target) -> list[Finding]:
    answers: dict[str, Mapping[str, str]] = {}
    silent: list[str] = []
    quorum: Finding | None = None
    for place in target.nodes:
        name = address(place)
        try:
            reply = wire.ask_place(
                place, "SENTINEL", "MASTER", target.service, within_s=target.deadline_s
            )
            answers[name] = _fields(reply)
        except (RedisError, OSError) as error:
            silent.append(f"{name} ({error})")
            continue
        quorum = quorum or _quorum(wire, target, place)
    found = [_who_answers(target, answers, silent)]
    if quorum is not None:
        found.append(quorum)
    places = {f"{told.get('ip')}:{told.get('port')}" for told in answers.values()}
    if len(places) > 1:
        text = f"they name different primaries: {', '.join(sorted(places))}"
        found.append(bad("primary", text, "can they reach each other? see their logs"))
    slow = max(
        (int(told.get("down-after-milliseconds", 0)) for told in answers.values()), default=0
    )
    if slow > LONG_MS:
        text = f"a primary that dies is replaced after {slow / 1000:g} s"
        way = f"SENTINEL SET {target.service} down-after-milliseconds 1000 to 5000"
        found.append(note("down-after", text, way))
    return found


def _who_answers(
    target: Target, answers: Mapping[str, Mapping[str, str]], silent: Sequence[str]
) -> Finding:
    known = max(int(told.get("num-other-sentinels", 0)) + 1 for told in answers.values())
    text = f"{len(answers)} of {len(target.nodes)} answer"
    if silent:
        text += f"; not {', '.join(silent)}"
    if 2 * len(answers) <= max(known, len(target.nodes)):
        return bad("sentinels", text, "no majority is left to agree on a failover")
    if silent:
        return note("sentinels", text, "start it again")
    if known < 3:
        return note("sentinels", f"{text}, and know of no more", "three outvote one that dies")
    if known > len(target.nodes):
        return note("sentinels", f"{text}; there are {known}", "name them all in the URL")
    return ok("sentinels", text)


def _quorum(wire: ThreadWire, target: Target, place: tuple[str, int]) -> Finding:
    ask = ("SENTINEL", "CKQUORUM", target.service)
    try:
        reply = wire.ask_place(place, *ask, within_s=target.deadline_s)
    except (RedisError, OSError) as error:
        return bad("quorum", str(error), "no failover can happen; start the other sentinels")
    return ok("quorum", _text(reply).removeprefix("OK "))


def _cluster(wire: ThreadWire, target: Target) -> Finding:
    trouble = ""
    for place in target.nodes:
        try:
            raw = wire.ask_place(place, "CLUSTER", "INFO", within_s=target.deadline_s)
        except (RedisError, OSError) as error:
            trouble = f"{address(place)}: {error}"
            continue
        told = dict(line.split(":", 1) for line in _text(raw).splitlines() if ":" in line)
        slots = f"{told.get('cluster_slots_ok', '?')} of 16384 slots are served"
        text = f"{slots}, by {told.get('cluster_size', '?')} primaries"
        if told.get("cluster_state") != "ok" or not slots.startswith("16384 "):
            return bad("cluster", f"{text}; state {told.get('cluster_state')}", "see CLUSTER NODES")
        return ok("cluster", text)
    return note("cluster", f"may not be asked how it is ({trouble})", "grant +cluster|info")


def _fields(reply: Any) -> Mapping[str, str]:
    pairs = (
        reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    )
    return {_text(name): _text(value) for name, value in pairs}


def _text(word: Any) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)
