"""Which server has a key: always the same one, the one that the sentinels name, or a cluster's.

No input or output: whoever carries commands asks the question of one of the places after another
until an answer teaches the map something, and tells it when a server was lost or sent it elsewhere.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from samesession.stores.redis_target import Node, Target
from samesession.stores.redis_wire import Command, Reply

SLOTS = 16384


class Map(Protocol):
    """Where commands go."""

    question: Command
    """What teaches it; asked of one of its `places`."""

    moves: bool
    """Whether the server of a key can change; then a refused connection is worth a question."""

    by_sentinel: bool
    """Whether the places are sentinels, and a server must be asked whether it is a primary."""

    def node_of(self, command: Command) -> Node | None:
        """The server of a command's key; None when somebody has to be asked first."""
        ...

    def primaries(self) -> tuple[Node, ...]:
        """Every server that takes writes, as far as is known, in the order of their slots."""
        ...

    def places(self) -> Sequence[Node]:
        """Whom to ask, the likeliest first."""
        ...

    def learn(self, asked: Node, reply: Reply) -> bool:
        """Take an answer in; False when it says nothing."""
        ...

    def lost(self, node: Node) -> None:
        """A server does not answer, or is no primary any more: ask before it is used again."""
        ...

    def moved(self, slot: int, node: Node) -> None:
        """A server said that another one has this slot now."""
        ...


def map_of(target: Target) -> Map:
    """The map that a URL needs."""
    if target.topology == "sentinel":
        return Sentinels(target.nodes, target.service)
    return Cluster(target.nodes) if target.topology == "cluster" else Single(target.nodes[0])


class Single:
    """One server, wherever it was."""

    question: Command = ("PING",)
    moves = False
    by_sentinel = False

    def __init__(self, node: Node) -> None:
        """Know all."""
        self._node = node

    def node_of(self, command: Command) -> Node:
        """See `Map`."""
        return self._node

    def primaries(self) -> tuple[Node, ...]:
        """See `Map`."""
        return (self._node,)

    def places(self) -> Sequence[Node]:
        """See `Map`."""
        return (self._node,)

    def learn(self, asked: Node, reply: Reply) -> bool:
        """See `Map`."""
        return True

    def lost(self, node: Node) -> None:
        """See `Map`: there is no other one."""

    def moved(self, slot: int, node: Node) -> None:
        """See `Map`: a cluster's node, reached by a URL that is none of a cluster."""


class Sentinels:
    """The primary that sentinels name; the one that answered last is asked first."""

    moves = True
    by_sentinel = True

    def __init__(self, sentinels: Iterable[Node], service: str) -> None:
        """Know nothing yet."""
        self.question: Command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        self._sentinels = list(sentinels)
        self._primary: Node | None = None

    def node_of(self, command: Command) -> Node | None:
        """See `Map`."""
        return self._primary

    def primaries(self) -> tuple[Node, ...]:
        """See `Map`."""
        return () if self._primary is None else (self._primary,)

    def places(self) -> Sequence[Node]:
        """See `Map`."""
        return tuple(self._sentinels)

    def learn(self, asked: Node, reply: Reply) -> bool:
        """See `Map`."""
        if not reply:
            return False  # it knows no primary of this name
        host, port = reply
        self._primary = (_text(host), int(port))
        self._sentinels.remove(asked)
        self._sentinels.insert(0, asked)
        return True

    def lost(self, node: Node) -> None:
        """See `Map`; the next sentinel may know better."""
        if node == self._primary:
            self._primary = None
            self._sentinels.append(self._sentinels.pop(0))

    def moved(self, slot: int, node: Node) -> None:
        """See `Map`: sentinels have no slots."""


class Cluster:
    """A cluster's slots, each with its primary."""

    question: Command = ("CLUSTER", "SLOTS")
    moves = True
    by_sentinel = False

    def __init__(self, seeds: Sequence[Node]) -> None:
        """Know nothing but the seeds."""
        self._seeds = seeds
        self._slots: list[Node | None] = [None] * SLOTS
        self._primaries: tuple[Node, ...] = ()
        self._known: tuple[Node, ...] = ()
        self._lost: set[Node] = set()

    def node_of(self, command: Command) -> Node | None:
        """See `Map`."""
        node = self._slots[slot_of(key_of(command))]
        return None if node in self._lost else node

    def primaries(self) -> tuple[Node, ...]:
        """See `Map`."""
        return self._primaries

    def places(self) -> Sequence[Node]:
        """See `Map`: those that answer, then those that did not."""
        return sorted(dict.fromkeys((*self._known, *self._seeds)), key=self._lost.__contains__)

    def learn(self, asked: Node, reply: Reply) -> bool:
        """See `Map`."""
        slots: list[Node | None] = [None] * SLOTS
        known: dict[Node, None] = {}
        primaries: dict[Node, None] = {}
        for first, last, *nodes in sorted(reply, key=lambda row: int(row[0])):
            # An empty host is the one that was asked (cluster-preferred-endpoint-type unknown).
            places = [(_text(node[0]) or asked[0], int(node[1])) for node in nodes]
            slots[first : last + 1] = [places[0]] * (last + 1 - first)
            primaries[places[0]] = None
            known |= dict.fromkeys(places)
        if not known:
            return False  # it has been told of nobody
        self._slots, self._primaries, self._known = slots, tuple(primaries), tuple(known)
        self._lost.clear()
        return True

    def lost(self, node: Node) -> None:
        """See `Map`; the slots of the others are used on."""
        self._lost.add(node)

    def moved(self, slot: int, node: Node) -> None:
        """See `Map`."""
        self._slots[slot] = node
        self._lost.discard(node)


def key_of(command: Command) -> str | bytes | int:
    """The first key of a command of ours; nothing where it has none."""
    return command[3] if command[0] == "EVALSHA" else command[1] if len(command) > 1 else ""


def slot_of(key: str | bytes | int) -> int:
    """The slot of a key, by the part in braces if it has one (Redis Cluster specification)."""
    raw = key if isinstance(key, bytes) else str(key).encode()
    opened = raw.find(b"{")
    if opened >= 0:
        closed = raw.find(b"}", opened)
        if closed > opened + 1:
            raw = raw[opened + 1 : closed]
    return crc_hqx(raw, 0) % SLOTS


def replicas_in(role: Reply) -> int | None:
    """How many replicas a primary has, by its answer to ROLE; None from anybody else."""
    primary = _text(role[0]) == "master"
    return len(role[2]) if primary else None


def _text(word: Any) -> str:
    return word.decode() if isinstance(word, bytes) else str(word or "")
