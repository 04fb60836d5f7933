"""The session is a dict in every respect, and what changed is found whoever changed it."""

from __future__ import annotations

import copy
import json
import pickle
from collections import ChainMap, OrderedDict
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from samesession import Session
from samesession.codec import encode
from samesession.contents import Changes
from samesession.errors import (
    StoreUnavailableError,
)
from samesession.life import Client, Life
from samesession.record import Commit, Key, Origin, Record

DATA = {"name": "ann", "cart": [1, {"tea": 2}], "seen": {1, 2}, "n": 1, "nothing": None}
NO_CHANGES = Changes({}, ())


def loaded(
    limit: int = 64 * 1024, raw: Mapping[str, bytes] | None = None, /, **data: Any
) -> Session:
    """A session as it comes from a store."""
    values = {key: encode(key, value) for key, value in data.items()} | dict(raw or {})
    life = Life(0, limit, Client)
    origin = Origin(0, 10**13)
    life.record = Record(Key("k"), origin, (Commit(1, b"12345678"),), 0, 10**13, values)
    return Session(life)


def broken() -> Session:
    """A session whose store did not answer."""
    life = Life(0, 1000, Client)
    life.failure = StoreUnavailableError("no answer")
    return Session(life)


@pytest.fixture
def session() -> Session:
    return loaded(**DATA)


def keywords(**given: Any) -> dict[str, Any]:
    return given


# -- reading ---------------------------------------------------------------------------------------

READS: dict[str, Callable[[Any], Any]] = {
    "isinstance": lambda s: (isinstance(s, dict), isinstance(s, MutableMapping)),
    "dict()": dict,
    "{**s}": lambda s: {**s},
    "f(**s)": lambda s: keywords(**s),
    "[*s]": lambda s: [*s],
    "json": lambda s: json.dumps({k: v for k, v in s.items() if k != "seen"}),
    "repr": repr,
    "str": str,
    "f-string": lambda s: f"{s}",
    "sorted": sorted,
    "list": list,
    "len": len,
    "bool": bool,
    "in": lambda s: ("cart" in s, "no" in s, 1 in s),
    "iter": lambda s: next(iter(s)),
    "reversed": lambda s: list(reversed(s)),
    "getitem": lambda s: s["cart"],
    "get": lambda s: (s.get("cart"), s.get("no"), s.get("no", 7), s.get(1)),
    "keys": lambda s: (list(s.keys()), s.keys() & {"cart", "no"}, list(reversed(s.keys()))),
    "values": lambda s: list(s.values()),
    "items": lambda s: (list(s.items()), ("n", 1) in s.items()),
    "copy": lambda s: s.copy(),
    "copy.copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda s: [pickle.loads(pickle.dumps(s, p)) for p in range(pickle.HIGHEST_PROTOCOL)],
    "s | other": lambda s: s | {"n": 2},
    "other | s": lambda s: {"n": 2, "x": 1} | s,
    "s == other": lambda s: (s == DATA, s == {}, s == 1, s.__eq__(DATA)),
    "s != other": lambda s: (s != DATA, s != {}, s != 1, s.__ne__(DATA)),
    "OrderedDict": OrderedDict,
    "ChainMap": lambda s: dict(ChainMap({}, s)),
    "format_map": "{name} {n}".format_map,
    "% mapping": lambda s: "%(name)s" % s,  # noqa: UP031
    "update a dict from it": lambda s: [plain := {"x": 1}, plain.update(s)],
    "max": max,
    "enumerate": lambda s: list(enumerate(s)),
    "zip": lambda s: list(zip(s, s.values(), strict=True)),
    "comprehension": lambda s: {k: v for k, v in s.items() if k},
    "fromkeys": lambda s: s.fromkeys(["a"], 1),
}


@pytest.mark.parametrize("read", READS)
def test_reading_gives_what_a_dict_gives_and_is_noticed(session: Session, read: str) -> None:
    assert READS[read](session) == READS[read](dict(DATA))
    assert session._used or read in {"isinstance", "fromkeys"}
    assert session.changes() == NO_CHANGES


@pytest.mark.parametrize("read", sorted(READS.keys() - {"isinstance", "fromkeys", "pickle"}))
def test_every_reading_shows_that_the_store_did_not_answer(read: str) -> None:
    session = broken()
    with pytest.raises(StoreUnavailableError):
        READS[read](session)
    assert session._life.failed


def test_json_libraries_read_the_session_itself() -> None:
    data = {"name": "ann", "cart": [1, {"tea": 2}], "none": None}
    session = loaded(**data)
    assert json.loads(json.dumps(session)) == data
    assert orjson.loads(orjson.dumps(session)) == data
    assert msgspec.json.decode(msgspec.json.encode(session)) == data
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(session)) == data
    assert msgspec.to_builtins(session) == data
    assert msgspec.convert(dict(session), dict[str, Any]) == data


def test_a_match_statement_reads_it(session: Session) -> None:
    match session:
        case {"name": str(name), "cart": [1, {"tea": tea}], **rest}:
            assert (name, tea) == ("ann", 2)
            assert set(rest) == {"seen", "n", "nothing"}
        case _:
            pytest.fail("no match")
    assert session._used


def test_copies_are_plain_dicts_of_their_own(session: Session) -> None:
    for made in (
        session.copy(),
        copy.copy(session),
        session | {},
        pickle.loads(pickle.dumps(session)),
    ):
        assert type(made) is dict
        made["n"] = 99
    deep = copy.deepcopy(session)
    deep["cart"].append(3)
    assert type(deep) is dict
    assert session.changes() == NO_CHANGES


def test_it_is_no_key_of_a_dict(session: Session) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(session)


def test_a_missing_key_is_a_key_error(session: Session) -> None:
    for missing in (
        lambda: session["no"],
        lambda: session.pop("no"),
        lambda: session.__delitem__("no"),
    ):
        with pytest.raises(KeyError):
            missing()
    assert session.changes() == NO_CHANGES


# -- writing ---------------------------------------------------------------------------------------


def drop(session: Any) -> None:
    del session["n"]


def put(session: Any) -> None:
    session["new"] = 1


WRITES: dict[str, tuple[Callable[[Any], Any], set[str], set[str]]] = {
    "s[k] = v": (put, {"new"}, set()),
    "del": (drop, set(), {"n"}),
    "update(dict)": (lambda s: s.update({"new": 1, "n": 2}), {"new", "n"}, set()),
    "update(pairs)": (lambda s: s.update([("new", 1)]), {"new"}, set()),
    "update(keywords)": (lambda s: s.update(new=1, self=2), {"new", "self"}, set()),
    "update(both)": (lambda s: s.update({"n": 5}, new=1), {"n", "new"}, set()),
    "update()": (lambda s: s.update(), set(), set()),
    "|= dict": (lambda s: s.__ior__({"new": 1}), {"new"}, set()),
    "|= pairs": (lambda s: s.__ior__([("new", 1)]), {"new"}, set()),
    "setdefault": (lambda s: s.setdefault("new", [])[:], {"new"}, set()),
    "setdefault None": (lambda s: s.setdefault("new"), {"new"}, set()),
    "setdefault there": (lambda s: s.setdefault("n", 9), set(), set()),
    "setdefault then append": (lambda s: s.setdefault("cart", []).append(1), {"cart"}, set()),
    "pop": (lambda s: s.pop("n"), set(), {"n"}),
    "pop default": (lambda s: s.pop("no", 7), set(), set()),
    "popitem": (lambda s: s.popitem(), set(), {"nothing"}),
    "clear": (lambda s: s.clear(), set(), set(DATA)),
    "clear and set again": (lambda s: [s.clear(), s.update(n=1)], set(), set(DATA) - {"n"}),
    "pop and set again": (lambda s: s.update(n=s.pop("n")), set(), set()),
    "the same value again": (lambda s: s.update(n=1, name="ann"), set(), set()),
    "an equal list": (lambda s: s.update(cart=[1, {"tea": 2}]), set(), set()),
    "set and put back": (lambda s: [s.update(n=2), s.update(n=1)], set(), set()),
    "append to a list": (lambda s: s["cart"].append(3), {"cart"}, set()),
    "append and take away": (lambda s: [s["cart"].append(3), s["cart"].pop()], set(), set()),
    "a dict in a list": (lambda s: s["cart"][1].update(tea=3), {"cart"}, set()),
    "add to a set": (lambda s: s["seen"].add(3), {"seen"}, set()),
    "add what is there": (lambda s: s["seen"].add(2), set(), set()),
    "1 becomes True": (lambda s: s.update(n=True), {"n"}, set()),
    "1 becomes 1.0": (lambda s: s.update(n=1.0), {"n"}, set()),
    "a list becomes a tuple": (lambda s: s.update(cart=tuple(s["cart"])), {"cart"}, set()),
    "str becomes Markup": (lambda s: s.update(name=Markup("ann")), {"name"}, set()),
    "past our methods": (lambda s: dict.__setitem__(s, "new", 1), {"new"}, set()),
    "past our methods, changed": (lambda s: dict.update(s, n=2), {"n"}, set()),
    "past our methods, of another type": (lambda s: dict.__setitem__(s, "n", True), {"n"}, set()),
    "past our methods, removed": (lambda s: dict.pop(s, "n"), set(), {"n"}),
    "past our methods, exchanged": (
        lambda s: [dict.pop(s, "n"), dict.__setitem__(s, "new", 1)],
        {"new"},
        {"n"},
    ),
}


@pytest.mark.parametrize("write", WRITES)
def test_writing_does_what_a_dict_does_and_only_what_changed_is_committed(
    session: Session, write: str
) -> None:
    change, sets, removes = WRITES[write]
    plain = copy.deepcopy(DATA)
    session.mark_accessed()
    result, expected = change(session), change(plain)
    if write.startswith("|="):
        assert result is session
    else:
        assert result == expected
    assert dict(session) == plain
    changes = session.changes()
    assert (set(changes.sets), set(changes.removes)) == (sets, removes)
    assert bool(changes) is bool(sets or removes)
    session.saw(changes)
    assert session.changes() == NO_CHANGES


@pytest.mark.parametrize("write", [w for w in WRITES if not w.startswith("past")])
def test_every_writing_shows_that_the_store_did_not_answer(write: str) -> None:
    session = broken()
    with pytest.raises(StoreUnavailableError):
        WRITES[write][0](session)
    assert session._life.failed


def test_after_a_commit_later_changes_are_found_again(session: Session) -> None:
    session["cart"].append("first")
    session.saw(session.changes())
    session["cart"].append("second")
    assert set(session.changes().sets) == {"cart"}
    del session["cart"]
    assert session.changes() == Changes({}, ("cart",))


def test_what_was_removed_and_comes_back_is_a_change(session: Session) -> None:
    for value in (1, [1, 2]):
        session["n"] = value
        session.saw(session.changes())
        del session["n"]
        session.saw(session.changes())
        session["n"] = value
        assert session.changes() == Changes({"n": encode("n", value)}, ())


KEYS = st.sampled_from("abcd")
STORED = (
    st.none() | st.booleans() | st.integers(0, 2) | st.floats(0, 2) | st.lists(st.integers(0, 1))
)


@given(
    st.dictionaries(KEYS, STORED),
    st.lists(st.tuples(st.sampled_from(["set", "pop", "append", "saw"]), KEYS, STORED)),
)
def test_what_is_committed_makes_the_stored_record_what_the_session_is(
    start: dict[str, Any], steps: list[tuple[str, str, Any]]
) -> None:
    session = loaded(**start)
    stored = dict(session._saved)

    def commit() -> None:
        changes = session.changes()
        for key, raw in changes.sets.items():
            assert stored.get(key) != raw
            stored[key] = raw
        for key in changes.removes:
            del stored[key]
        session.saw(changes)

    for step, key, value in steps:
        if step == "set":
            session[key] = copy.copy(value)
        elif step == "pop":
            session.pop(key, None)
        elif step == "append" and isinstance(session.get(key), list):
            session[key].append(1)
        elif step == "saw":
            commit()
    commit()
    assert stored == {key: encode(key, value) for key, value in session.items()}
