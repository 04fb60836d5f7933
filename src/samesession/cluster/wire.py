"""What servers say to one another, and what workers say to their agent: frames and messages.

The rules:

1. A frame is [protocol, sender, boot, message] in msgpack; a message is an array with a number
   for its kind. Names of keys and principals travel, cookies and ids never do.
2. A build understands its own protocol and the one before, and speaks to each peer in the highest
   that both know: a `Beat` tells it, and until one came it is the one before. Inside a protocol,
   fields are only added at an end, with a default, and new kinds are skipped by who does not know
   them.
3. What is malformed, oversized, of another protocol or of an unknown kind is a `Refusal`, which
   is counted; never an exception, and never an answer.
4. Asking again is harmless: everything that changes something carries a token, an epoch or a
   number.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta, Raw, Struct

from samesession.cluster.copies import Change, Item
from samesession.record import (
    Absent,
    Applied,
    Commit,
    Delta,
    Ended,
    Ending,
    Key,
    Lost,
    Mark,
    Outcome,
    Record,
    Taken,
    Version,
)

PROTOCOL = CARRIES = 2
"""2: a `Committed` may carry what the asker, an owner itself, is to keep."""

OLDEST = 1
"""The earliest protocol still understood: the one before `PROTOCOL`."""

LARGEST = 8 << 20
"""Bytes of a frame; a record may have 64 KiB by default, and pages have at most `PAGE` items."""

PAGE = 100
"""Items in one message."""

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Sum = Annotated[int, Meta(ge=0)]
Shard = Annotated[int, Meta(ge=0, le=0xFFFF)]


class _Message(Struct, frozen=True, array_like=True, gc=False):
    """One message; subclasses have numbers, which never change their meaning."""


# -- between agents, by `publish` -----------------------------------------------------------------


class Echo(Struct, frozen=True, array_like=True, gc=False):
    """What one server last heard from another: its boot, its beat's stamp, its news."""

    boot: Count
    stamp_ms: Count
    news: int


class Beat(_Message, frozen=True, tag=1):
    """I am here (to all, every `Settings.beat_ms`).

    Attributes:
        stamp_ms: my CLOCK_BOOTTIME, to be echoed.
        wall_ms: my clock, to report skew.
        news: the number of my last news.
        settled: whether I may become an authority.
        leaving: whether I am handing over.
        settled_peers: those that I am linked with and that are settled.
        echoes: of each server that I heard.
        era: changes when I doubt what I have.
        speaks: the highest protocol that I understand.
    """

    stamp_ms: Count
    wall_ms: int
    news: Count
    settled: bool
    leaving: bool
    settled_peers: tuple[Name, ...]
    echoes: Mapping[str, Echo]
    era: Count = 0
    speaks: Count = 1


class ClaimOf(Struct, frozen=True, array_like=True, gc=False):
    """A shard, and the epoch in which somebody is its authority."""

    shard: Shard
    epoch: Count


class News(_Message, frozen=True, tag=2):
    """What everybody must hear: endings, and who became an authority (to all, numbered).

    Attributes:
        number: of these; the ones before have been said already.
        whole: nothing in between can be told any more; ``claims`` are all that I hold.
    """

    number: Count
    endings: tuple[Item, ...] = ()
    claims: tuple[ClaimOf, ...] = ()
    whole: bool = False


class Heard(_Message, frozen=True, tag=3):
    """I have all your news up to this one."""

    boot: Count
    number: Count


class Missed(_Message, frozen=True, tag=4):
    """I lack your news after this one (-1: I know none)."""

    boot: Count
    number: int


class Offer(Struct, frozen=True, array_like=True, gc=False):
    """One shard that a server is, or wants to be, the authority of; ``whole`` is its digest."""

    shard: Shard
    epoch: Count
    whole: Sum


class Claim(_Message, frozen=True, tag=5):
    """I am the authority of these from now on, or still; do you hold the same as I do?"""

    number: Count
    offers: tuple[Offer, ...]


class Holding(Struct, frozen=True, array_like=True, gc=False):
    """How somebody's copy of a shard stands, in answer to an offer.

    Attributes:
        before: the last epoch in which it was the authority, or level with it.
        sure: whether its copies lack no ending that was ever acknowledged to it.
        owners: the last known ones, where it is not sure.
        sums: its digest; empty if equal to the offer's.
    """

    shard: Shard
    epoch: Count
    before: Count
    sure: bool
    owners: tuple[str, ...] = ()
    sums: tuple[Sum, ...] = ()


class Fence(Struct, frozen=True, array_like=True, gc=False):
    """A shard has a higher epoch, and whose it is."""

    shard: Shard
    epoch: Count
    holder: str
    boot: Count


class Claimed(_Message, frozen=True, tag=6):
    """The answer to a `Claim`: promises for each shard, or fences."""

    number: Count
    era: Count
    holdings: tuple[Holding, ...]
    fences: tuple[Fence, ...] = ()


class Put(_Message, frozen=True, tag=7):
    """One commit, for an owner that holds what was before; ``number`` is to be acknowledged."""

    number: Count
    shard: Shard
    epoch: Count
    change: Change


class Fill(_Message, frozen=True, tag=8):
    """Whole items, for an owner; packed, since they are kept as they come and sent as they lie."""

    number: Count
    shard: Shard
    epoch: Count
    items: tuple[Raw, ...]


class Ack(_Message, frozen=True, tag=9):
    """These puts and fills are on my shelf; these puts did not fit what I hold."""

    numbers: tuple[Count, ...]
    unfit: tuple[Count, ...] = ()


class Fenced(_Message, frozen=True, tag=10):
    """I obey higher epochs than the one of your put, fill or claim."""

    fences: tuple[Fence, ...]


class Level(_Message, frozen=True, tag=11):
    """You lack nothing of these shards that I had when your era was this one."""

    era: Count
    claims: tuple[ClaimOf, ...]


class Hand(_Message, frozen=True, tag=12):
    """Claim these: I am their authority in these epochs, and you are first in line."""

    claims: tuple[ClaimOf, ...]


class Release(_Message, frozen=True, tag=13):
    """You are no owner of these any more, and all owners hold them: forget them."""

    claims: tuple[ClaimOf, ...]


class Farewell(_Message, frozen=True, tag=14):
    """I have handed over, and no worker of mine answers any more."""


class Forget(_Message, frozen=True, tag=15):
    """An operator says that these servers never come back: wait for none of them."""

    names: tuple[Name, ...]


# -- between agents, by `query` -------------------------------------------------------------------


class Listing(_Message, frozen=True, tag=20):
    """Which items have you in these buckets of a shard?"""

    shard: Shard
    buckets: tuple[Annotated[int, Meta(ge=0, le=15)], ...]


class Listed(_Message, frozen=True, tag=21):
    """Keys and their sums."""

    era: Count
    sums: Mapping[Key, Sum]


class Fetch(_Message, frozen=True, tag=22):
    """Show me these items (`PAGE` at most)."""

    shard: Shard
    keys: tuple[Key, ...]


class Fetched(_Message, frozen=True, tag=23):
    """Those of them that I have."""

    items: tuple[Item, ...]


# -- requests: from a worker to its agent, and from an agent to the authority ---------------------


class Load(_Message, frozen=True, tag=30):
    """`Store.load`."""

    key: Key
    at_least: Version | None = None


class CommitDelta(_Message, frozen=True, tag=31):
    """`Store.commit`."""

    delta: Delta


class End(_Message, frozen=True, tag=32):
    """`Store.end`."""

    key: Key
    ending: Ending


class Admit(_Message, frozen=True, tag=33):
    """`Store.admit`: to the authority of the principal's own shard.

    Attributes:
        most: sessions that the principal may have; 0 for no limit, answered by `Done`.
    """

    principal: str
    key: Key
    until_ms: Count = 0
    replaces: Key | None = None
    most: Count = 0
    evicts: bool = True


class HeldBy(_Message, frozen=True, tag=34):
    """`Store.held_by`."""

    principal: str


class EndAll(_Message, frozen=True, tag=35):
    """`Store.end_all`."""

    principal: str
    ending: Ending
    keep: Key | None = None


class Admissions(_Message, frozen=True, tag=36):
    """Who was admitted lately (agents only)?"""

    principal: str


class Holders(_Message, frozen=True, tag=37):
    """Which records of a principal are in the shards that you are the authority of?

    Attributes:
        only_keys: of records that may be a hundred thousand.
    """

    principal: str
    only_keys: bool = False


class EndMany(_Message, frozen=True, tag=38):
    """End each of these (agents only; `PAGE` at most)."""

    shard: Shard
    keys: tuple[Key, ...]
    ending: Ending


# -- answers --------------------------------------------------------------------------------------


class NotMine(_Message, frozen=True, tag=40):
    """I am not, or not yet, the authority: this one is, as far as I know."""

    fence: Fence


class Loaded(_Message, frozen=True, tag=41):
    """What is stored; ``stale`` when it was served without the authority (``stale=accept``)."""

    record: Record | None
    mark: Mark | None
    stale: bool = False
    item: Item | None = None


class Committed(_Message, frozen=True, tag=42):
    """What became of a delta; exactly one is set, or ``taken``, or none (absent).

    Attributes:
        carries: what the asker, an owner itself, is to keep before it tells its worker: it is the
            copy that the delta wants, and saves two messages on the way to the answer.
    """

    applied: Applied | None = None
    ended: Mark | None = None
    lost: tuple[Commit, ...] | None = None
    taken: bool = False
    weak: bool = False
    carries: Put | Fill | None = None

    @classmethod
    def of(
        cls, outcome: Outcome, *, weak: bool = False, carries: Put | Fill | None = None
    ) -> Committed:
        """Pack an outcome; ``weak``: fewer copies than wanted hold it."""
        match outcome:
            case Applied():
                # Without the record: the asker knows what it changed, and a session may be large.
                applied = Applied(outcome.commits, outcome.seen_ms, outcome.idle_until_ms)
                return cls(applied=applied, weak=weak, carries=carries)
            case Ended():
                return cls(ended=outcome.mark, weak=weak)
            case Lost():
                return cls(lost=outcome.commits, weak=weak)
            case Taken():
                return cls(taken=True, weak=weak)
        return cls(weak=weak)

    @property
    def outcome(self) -> Outcome:
        """Unpack it."""
        if self.applied is not None:
            return self.applied
        if self.ended is not None:
            return Ended(self.ended)
        if self.lost is not None:
            return Lost(self.lost)
        return Taken() if self.taken else Absent()


class Marked(_Message, frozen=True, tag=43):
    """The mark that stands."""

    mark: Mark
    weak: bool = False


class Done(_Message, frozen=True, tag=44):
    """Admitted or dismissed."""


class Displaced(_Message, frozen=True, tag=51):
    """Admitted within a quota, when these had been ended; or refused."""

    keys: tuple[Key, ...]
    refused: bool = False


class Records(_Message, frozen=True, tag=45):
    """The live records of a principal."""

    records: tuple[Record, ...]


class Ends(_Message, frozen=True, tag=46):
    """How many were alive and ended."""

    number: Count


class Admitted(_Message, frozen=True, tag=47):
    """Those admitted in the last minute."""

    keys: tuple[Key, ...]


class Held(_Message, frozen=True, tag=48):
    """A principal's records, or their keys and where others moved to, in these shards (bits)."""

    shards: bytes
    records: tuple[Record, ...]
    keys: tuple[Key, ...] = ()


class EndedMany(_Message, frozen=True, tag=49):
    """The marks that stand, in the order asked, without what they keep; and who was alive."""

    marks: tuple[Mark, ...]
    alive: Count


class Unavailable(_Message, frozen=True, tag=50):
    """Nobody could say; what was asked for may have happened, or happen yet."""

    why: str


Message = (
    Beat | News | Heard | Missed | Claim | Claimed | Put | Fill | Ack | Fenced | Level | Hand
    | Release | Farewell | Forget | Listing | Listed | Fetch | Fetched | Load | CommitDelta | End
    | Admit | HeldBy | EndAll | Admissions | Holders | EndMany | NotMine | Loaded | Committed
    | Marked | Done | Displaced | Records | Ends | Admitted | Held | EndedMany | Unavailable
)  # fmt: skip
Request = Load | CommitDelta | End | Admit | HeldBy | EndAll
"""What a worker asks its agent."""

Answer = Loaded | Committed | Marked | Done | Displaced | Records | Ends | Unavailable
"""What a worker hears."""


class Frame(Struct, frozen=True, array_like=True):
    """A message, who sent it, and in which of its lives."""

    protocol: int
    sender: Name
    boot: Count
    message: Message


class Refusal(StrEnum):
    """Why a frame was not read; names of counters."""

    OVERSIZED = "oversized"
    MALFORMED = "malformed"
    PROTOCOL = "wrong_protocol"


class Codec:
    """Frames of one server."""

    _encoder: ClassVar[msgspec.msgpack.Encoder] = msgspec.msgpack.Encoder()
    _frame: ClassVar[msgspec.msgpack.Decoder[Frame]] = msgspec.msgpack.Decoder(Frame)
    _head: ClassVar = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw, msgspec.Raw, msgspec.Raw])

    def __init__(self, sender: str, boot: int, *, protocol: int = PROTOCOL) -> None:
        """Sign what is sent with a name and a boot number; understand up to ``protocol``."""
        self._sender = sender
        self._boot = boot
        self._protocol = protocol

    def dumps(self, message: Message, protocol: int = PROTOCOL) -> bytes:
        """A frame."""
        return self._encoder.encode(Frame(protocol, self._sender, self._boot, message))

    def loads(self, frame: bytes) -> Frame | Refusal:
        """Read any bytes whatever."""
        if len(frame) > LARGEST:
            return Refusal.OVERSIZED
        try:
            read = self._frame.decode(frame)
        except (ValueError, RecursionError, msgspec.MsgspecError):
            return self._why(frame)
        return read if OLDEST <= read.protocol <= self._protocol else Refusal.PROTOCOL

    def _why(self, frame: bytes) -> Refusal:
        try:
            protocol = self._head.decode(frame)[0]
        except (ValueError, RecursionError, msgspec.MsgspecError):
            return Refusal.MALFORMED
        return Refusal.MALFORMED if OLDEST <= protocol <= self._protocol else Refusal.PROTOCOL


_answer = msgspec.msgpack.Decoder(Answer)
_request = msgspec.msgpack.Decoder(Request)
_pack = msgspec.msgpack.Encoder().encode


def pack(message: Message) -> bytes:
    """A message without a frame, for the socket between a worker and its agent."""
    return _pack(message)


def unpack_request(raw: bytes) -> Request | Refusal:
    """What a worker asked."""
    try:
        return _request.decode(raw) if len(raw) <= LARGEST else Refusal.OVERSIZED
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return Refusal.MALFORMED


def unpack_names(raw: bytes) -> list[str]:
    """Names of servers, as JSON; none if these are no names."""
    try:
        return msgspec.json.decode(raw, type=list[Name])
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return []


def unpack_answer(raw: bytes) -> Answer | Refusal:
    """What the agent answered."""
    try:
        return _answer.decode(raw) if len(raw) <= LARGEST else Refusal.OVERSIZED
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return Refusal.MALFORMED
