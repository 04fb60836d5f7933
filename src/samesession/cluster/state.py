"""What the parts of a replica share: the shelf with its digests, the era, and what goes out.

1. Every held copy is written here, so that a digest never differs from what is on the shelf.
2. A shard is *sure* while its era is the server's: its copies lack no ending that anybody
   acknowledged. Doubt raises the server's era, and with it makes every shard unsure.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Container, Mapping, Sequence

from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from samesession.cluster.copies import Item
from samesession.cluster.digest import Digest
from samesession.cluster.placement import shard_of
from samesession.cluster.settings import Ask, Now, Output, Reply, Said, Settings, Tell
from samesession.cluster.shelf import Copy, Self, ShardState, Shelf
from samesession.cluster.transport import ALL, mailbox
from samesession.cluster.wire import OLDEST, Answer, Codec, Committed, Fence, Message
from samesession.record import MARK_MS, Key, Mark

Replied = Callable[[Message | None], None]
_NEVER = ShardState()


class State:
    """One server's memory of itself."""

    def __init__(self, settings: Settings, shelf: Shelf) -> None:
        """Begin a new era: what happened since the last one, this server has not heard."""
        self.settings = settings
        self.shelf = shelf
        self.now = Now(0, 0)
        self.counts: Counter[str] = Counter()
        self.out: list[Output] = []
        self.sent: dict[str, list[int]] = {}
        """Frames and their bytes by the kind of message; one to all counts once."""
        self._codec = Codec(settings.name, settings.boot, protocol=settings.protocol)
        self.speaks: dict[str, int] = {}
        self._spoken = OLDEST
        self._shards = dict(shelf.shards())
        before = shelf.remembered()
        self.era = before.era + 1
        self.members = set(before.members)
        self.forgotten = set(before.forgotten)
        self._asks: dict[int, tuple[Replied, int]] = {}
        self._number = 0
        self._lately: deque[tuple[int, Key]] = deque()

    # -- the shelf -------------------------------------------------------------------------------

    def shard_of(self, key: Key | str) -> int:
        """The shard of a key."""
        return shard_of(key, self.settings.shards)

    def shard(self, shard: int) -> ShardState:
        """What is known of a shard."""
        return self._shards.get(shard, _NEVER)

    def sure(self, shard: int) -> bool:
        """Whether this server's copies of a shard lack no ending."""
        return self.shard(shard).era == self.era

    def save(
        self,
        shard: int,
        *,
        fence: Fence | None = None,
        seq: int | UnsetType = UNSET,
        era: int | UnsetType = UNSET,
        owners: tuple[str, ...] | UnsetType = UNSET,
        digest: Digest | UnsetType = UNSET,
        level: int | UnsetType = UNSET,
    ) -> ShardState:
        """Change what is known of a shard."""
        changes: dict[str, object] = {
            name: value
            for name, value in (
                ("seq", seq),
                ("era", era),
                ("owners", owners),
                ("digest", digest),
                ("level", level),
            )
            if value is not UNSET
        }
        if fence is not None:
            changes |= {"epoch": fence.epoch, "holder": fence.holder, "boot": fence.boot}
        state = replace(self.shard(shard), **changes)
        self._shards[shard] = state
        self.shelf.put_shard(shard, state)
        return state

    def held(self, key: Key) -> Item | None:
        """What an owner knows of a record; a mark counts wherever it came from."""
        copy = self.shelf.get(key)
        if copy is None or not (copy.held or copy.item.mark is not None):
            return None
        return copy.item

    def hold(self, shard: int, item: Item, *, seq: int | UnsetType = UNSET) -> None:
        """Keep an item as one of its owners."""
        self.save(shard, digest=self._holding(shard, (item,)), seq=seq)

    def hold_new(self, shard: int, items: Sequence[tuple[Item, Raw]]) -> None:
        """Keep a page of items that have no copy here, as they came; each key once."""
        self.shelf.add(shard, items)
        new = [item for item, _ in items]
        for item in new:
            self.remember_end(item)
        self.save(shard, digest=self.shard(shard).digest.added(new))

    def hold_all(self, shard: int, items: Sequence[Item], *, seq: int | UnsetType = UNSET) -> None:
        """Keep a page of items; each key once."""
        if items:
            self.save(shard, digest=self._holding(shard, items), seq=seq)

    def _holding(self, shard: int, items: Sequence[Item]) -> Digest:
        exchanged: list[tuple[Item | None, Item]] = []
        for item in items:
            before = self.shelf.get(item.key)
            self.shelf.put(shard, Copy(0, item))
            self.remember_end(item)
            counted = before.item if before is not None and before.held else None
            exchanged.append((counted, item))
        return self.shard(shard).digest.exchanged(exchanged)

    def remember_end(self, item: Item) -> None:
        """Remember for `MARK_MS` what ended lately, or keeps its contents for a retry."""
        mark = item.mark
        if mark is not None and (mark.final is not None or mark.at_ms + MARK_MS > self.now.wall_ms):
            self._lately.append((self.now.mono_ms + MARK_MS, item.key))

    def cache(self, item: Item, era: int) -> None:
        """Keep an item because it was used here; a mark is not replaced by it."""
        before = self.shelf.get(item.key)
        if before is None or not (before.held or before.item.mark is not None):
            self.shelf.put(self.shard_of(item.key), Copy(era, item))

    def forget(self, key: Key) -> None:
        """Drop a copy."""
        copy, shard = self.shelf.get(key), self.shard_of(key)
        if copy is not None:
            self.shelf.drop(shard, key)
            if copy.held:
                self.save(shard, digest=self.shard(shard).digest.exchanged([(copy.item, None)]))

    def forget_shard(self, shard: int) -> None:
        """Drop all held copies of a shard."""
        for key in [*self.shelf.keys(shard)]:
            self.shelf.drop(shard, key)
        self.save(shard, digest=Digest())

    def lately_ended(self, shards: Container[int]) -> list[Item]:
        """What ended in some shards during the last `MARK_MS`, as far as this server knows."""
        keys = dict.fromkeys(key for _, key in self._lately if self.shard_of(key) in shards)
        items = map(self.held, keys)
        return [item for item in items if item is not None and item.mark is not None]

    def trim(self) -> None:
        """Let go of the contents that marks keep for a retry."""
        while self._lately and self._lately[0][0] <= self.now.mono_ms:
            item = self.held(self._lately.popleft()[1])
            if item is not None and item.mark is not None and item.mark.final is not None:
                mark = replace(item.mark, final=None)
                self.hold(self.shard_of(item.key), replace(item, mark=mark))

    def remember(self) -> None:
        """Write down what a restart must know."""
        names = tuple(sorted(self.members)), tuple(sorted(self.forgotten))
        self.shelf.remember(Self(self.era, *names))

    # -- what goes out ---------------------------------------------------------------------------

    @property
    def codec(self) -> Codec:
        """Frames of this server."""
        return self._codec

    def learn_speech(self, server: str, speaks: int | None) -> None:
        """A server understands protocols up to this one; None: it has gone."""
        if self.speaks.get(server) == speaks:
            return
        if speaks is None:
            del self.speaks[server]
        else:
            self.speaks[server] = min(speaks, self.settings.protocol)
        self._spoken = min(self.speaks.values(), default=OLDEST)

    def tell(self, server: str, message: Message) -> None:
        """Send to one server."""
        protocol = self.speaks.get(server, OLDEST)
        self.out.append(Tell(mailbox(server), self._dumps(message, protocol)))

    def tell_all(self, message: Message, protocol: int | None = None) -> None:
        """Send to every server, in what all of them understand."""
        self.out.append(Tell(ALL, self._dumps(message, protocol or self._spoken)))

    def ask(self, server: str, message: Message, replied: Replied, *, within_ms: int) -> None:
        """Ask one server; ``replied`` is called once, with None when there is no reply in time."""
        self._number += 1
        self._asks[self._number] = replied, self.now.mono_ms + within_ms
        protocol = self.speaks.get(server, OLDEST)
        self.out.append(Ask(server, self._number, self._dumps(message, protocol), within_ms))

    def replied(self, number: int, message: Message | None) -> None:
        """Pass a reply on, if somebody still waits for it."""
        waiting = self._asks.pop(number, None)
        if waiting is not None:
            waiting[0](message)

    def expire(self) -> None:
        """Give up on what was not replied to."""
        now = self.now.mono_ms
        for number in [n for n, (_, until) in self._asks.items() if until <= now]:
            self.replied(number, None)

    def reply(self, question: int, message: Message, protocol: int) -> None:
        """Reply to a question in the protocol in which it was asked."""
        self.out.append(Reply(question, self._dumps(message, protocol)))

    def _dumps(self, message: Message, protocol: int) -> bytes:
        frame = self._codec.dumps(message, protocol)
        carries = isinstance(message, Committed) and message.carries is not None
        kind = "Carrying" if carries else type(message).__name__
        counted = self.sent.setdefault(kind, [0, 0])
        counted[0] += 1
        counted[1] += len(frame)
        return frame

    def said(self, ticket: int, answer: Answer) -> None:
        """Answer a worker."""
        self.out.append(Said(ticket, answer))

    def fence(self, shard: int) -> Fence:
        """What to say to whoever takes this server for a shard's authority."""
        state = self.shard(shard)
        return Fence(shard, state.epoch, state.holder, state.boot)


def without_contents(item: Item) -> Item:
    """An ended item as everybody may hear it: without what its mark keeps for a retry."""
    mark = item.mark
    if not isinstance(mark, Mark) or mark.final is None:
        return item
    return replace(item, mark=replace(mark, final=None))


Counts = Mapping[str, int]
