"""When something ended, told by this server's clock wherever it was told by another's.

A request is quiet for 30 s after the end (S6). Clocks that differ, as they may by a minute, would
make that longer or shorter: a logout that was told of a rotation under way would take it for long
ago, and leave alone what it moved to. A mark's time is in no digest, so each server has it by its
own clock. Deadlines are as whoever set them meant them.
"""

from __future__ import annotations

from typing import TypeVar

from msgspec.structs import replace

from samesession.cluster.copies import Item
from samesession.cluster.wire import Committed, End, EndMany, Loaded, Marked, Message
from samesession.record import Ending, Mark

E = TypeVar("E", Mark, Ending)


def item_by_our_clock(item: Item, ahead_ms: int) -> Item:
    """An item that came from a server whose clock is ahead by so much."""
    if item.mark is None or not ahead_ms:
        return item
    return replace(item, mark=_earlier(item.mark, ahead_ms))


def question_by_our_clock(asked: Message, ahead_ms: int) -> Message:
    """What such a server asks for: an end is of the time by which it is decided here."""
    match asked:
        case End() | EndMany():
            return replace(asked, ending=_earlier(asked.ending, ahead_ms))
    return asked


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


def _earlier(ended: E, by_ms: int) -> E:
    return replace(ended, at_ms=max(0, ended.at_ms - by_ms))
