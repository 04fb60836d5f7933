"""What copies weigh is what they take, whatever they hold, and with what was decoded of them."""

from __future__ import annotations

import gc
import secrets
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from samesession.codec import encode
from samesession.known import builds_on
from samesession.life import Client, Life
from samesession.record import Commit, Key, Origin, Record
from samesession.session import Session
from samesession.stores.near_copies import Copies, Witness

LIMIT = 1 << 19
CONTENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "a number": lambda: {"n": 5000},
    "a shop's": lambda: {
        "user": secrets.token_hex(30),
        "basket": [{"sku": secrets.token_hex(4), "n": n} for n in range(5)],
        "token": secrets.token_hex(60),
        "seen": 1_795_366_800,
    },
    "a long list": lambda: {"list": list(range(1000, 1500))},
    "nested lists": lambda: {"list": [[] for _ in range(500)]},
    "a long text": lambda: {"text": secrets.token_hex(5000)},
    "wide characters": lambda: {"text": "\U0001f600" + secrets.token_hex(2500)},
    "many keys": lambda: {f"key{number}": number + 1000 for number in range(300)},
}


def a_record(contents: dict[str, Any]) -> Record:
    commits = tuple(Commit(number, secrets.token_bytes(8)) for number in range(1, 5))
    agent = secrets.token_hex(64)
    origin = Origin(1, 2, secrets.token_hex(16), 3, agent, "10.0.0.0/24")
    values = {"".join(key): encode(key, value) for key, value in contents.items()}
    return Record(Key(secrets.token_hex(16)), origin, commits, 1, 2, values)


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("kind", CONTENTS)
def test_copies_take_no_more_memory_than_the_limit(kind: str, written: bool) -> None:
    """What a commit has replaced is kept until the next read, so then it may be twice as much."""
    make = CONTENTS[kind]
    a_record(make())  # what is made once
    gc.collect()
    tracemalloc.start()
    copies = Copies(LIMIT)
    witness = Witness(listening=True)
    while True:
        before = len(copies)
        record = a_record(make())
        life = Life(0, 1 << 20, Client)
        life.record = record
        assert dict(Session(life)).keys() == record.values.keys()  # and keeps what it decoded
        assert record.__dict__
        if written:
            after = a_record(make())
            builds_on(after, record, None, 0)
            record = after
        errand = copies.begin(record.key)
        copies.asked(record.key, witness)
        copies.keep(errand, record)
        copies.over(errand)
        if len(copies) == before:
            break
    record = life = errand = after = None  # type: ignore[assignment]
    gc.collect()
    taken, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.1 * LIMIT < taken < LIMIT * (2 if written else 1), (
        f"{len(copies)} copies take {taken} bytes"
    )
