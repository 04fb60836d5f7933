"""When something ended, told by this server's clock wherever it was told by another's.

1. An end is of the moment in which its authority decides it, by that one's clock. A mark's time is
   in no digest, so everybody else has it by his own, from the first that he is told.
2. How much a server's clock is ahead its beats tell. A mark from one of which none has come yet
   waits, to be sent again.

A request is quiet for 30 s after the end (S6). Clocks that differ, as they may by a minute, would
make that longer or shorter: a logout that was told of a rotation under way would take it for long
ago, and leave alone what it moved to. Deadlines are as whoever set them meant them.
"""

from __future__ import annotations

from msgspec.structs import replace

from samesession.cluster.copies import Item
from samesession.cluster.wire import Committed, Loaded, Marked, Message
from samesession.record import Mark


def item_by_our_clock(item: Item, ahead_ms: int) -> Item:
    """An item that came from a server whose clock is ahead by so much."""
    if item.mark is None or not ahead_ms:
        return item
    return replace(item, mark=_earlier(item.mark, ahead_ms))


def answer_by_our_clock(answer: Message, ahead_ms: int) -> Message:
    """What such a server answers; of the marks in `EndedMany` nobody asks the time."""
    match answer:
        case Loaded(mark=Mark() as mark):
            return replace(answer, mark=_earlier(mark, ahead_ms))
        case Marked():
            return replace(answer, mark=_earlier(answer.mark, ahead_ms))
        case Committed(ended=Mark() as mark):
            return replace(answer, ended=_earlier(mark, ahead_ms))
    return answer


def _earlier(mark: Mark, by_ms: int) -> Mark:
    return replace(mark, at_ms=max(0, mark.at_ms - by_ms))
