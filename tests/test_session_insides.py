"""Values that can change in place are compared, whoever holds them and whenever they change."""

from __future__ import annotations

import copy
from collections import ChainMap
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from test_session import loaded

from samesession.codec import encode
from samesession.contents import Changes


def matched(session: Any, key: str) -> Any:
    match session:
        case {"a": found}:
            return found
    return None


GIVES_OUT: dict[str, Callable[[Any, str], Any]] = {
    "[]": lambda s, key: [s[found] for found in s if found == key],
    "get": lambda s, key: s.get(key),
    "setdefault": lambda s, key: s.setdefault(key, [0]),
    "pop and set": lambda s, key: [s.update({key: value}) for value in [s.pop(key, [])]] and s[key],
    "set": lambda s, key: [given := [7], s.__setitem__(key, given)][0],
    "update": lambda s, key: [given := [8], s.update({key: given})][0],
    "|=": lambda s, key: [given := [9], s.__ior__({key: given})][0],
    "items": lambda s, key: dict(s.items()).get(key),
    "values": lambda s, key: next(iter(s.values()), None),
    "popitem": lambda s, _key: [
        s.update([pair]) or pair[1] for pair in [s and s.popitem()] if pair
    ],
    "copy": lambda s, key: s.copy().get(key),
    "copy.copy": lambda s, key: copy.copy(s).get(key),
    "dict()": lambda s, key: dict(s).get(key),
    "{**s}": lambda s, key: {**s}.get(key),
    "|": lambda s, key: (s | {}).get(key),
    "r|": lambda s, key: ({} | s).get(key),
    "ChainMap": lambda s, key: ChainMap(s).get(key),
    "match": matched,
    "default": lambda s, key: s.get("no", s.get(key)),
}
STEP = st.one_of(
    st.tuples(st.sampled_from(sorted(GIVES_OUT)), st.sampled_from("abc")),
    st.tuples(st.just("change"), st.integers(0, 5)),
    st.tuples(st.just("remove"), st.sampled_from("abc")),
    st.tuples(st.just("commit"), st.none()),
    st.tuples(st.just("look"), st.none()),
)
PLAIN = st.lists(st.integers(0, 1) | st.lists(st.integers(0, 1), max_size=2), max_size=3)
INSIDES = PLAIN | PLAIN.map(lambda items: {"inside": items}) | st.integers(0, 2)


@given(st.dictionaries(st.sampled_from("abc"), INSIDES), st.lists(STEP, max_size=12))
@settings(max_examples=400)
def test_what_was_handed_out_may_be_changed_at_any_time_and_is_committed(
    start: dict[str, Any], steps: list[tuple[str, Any]]
) -> None:
    """Whoever was given a list can change it later, before and after any commit."""
    session = loaded(**start)
    stored = dict(session._saved)
    held: list[Any] = []

    def commit() -> None:
        changes = session.changes()
        assert not changes or session._written or session._lent
        stored.update(changes.sets)
        for key in changes.removes:
            del stored[key]
        session.saw(changes)

    for step, argument in [*steps, ("commit", None)]:
        if step in GIVES_OUT:
            given = GIVES_OUT[step](session, argument)
            held += given if step in {"[]", "popitem"} else [given]
        elif step == "change" and held:
            changed = held[argument % len(held)]
            changed = changed["inside"] if isinstance(changed, dict) else changed
            if isinstance(changed, list):
                changed.append(1)
        elif step == "remove":
            session.pop(argument, None)
        elif step == "commit":
            commit()
        elif step == "look":
            session.unchanged()
            session.changes()
    assert stored == {key: encode(key, value) for key, value in dict.items(session)}


INSIDE_TYPES = {
    "True in a list": (["x", 1], lambda found: found.__setitem__(1, True)),
    "1.0 in a list": (["x", 1], lambda found: found.__setitem__(1, 1.0)),
    "-0.0 in a list": ([0.0], lambda found: found.__setitem__(0, -0.0)),
    "a tuple in a list": ([[1]], lambda found: found.__setitem__(0, (1,))),
    "a set in a list": ([[1]], lambda found: found.__setitem__(0, {1})),
    "bytes in a list": (["x"], lambda found: found.__setitem__(0, b"x")),
    "True as a dict key": ({1: 0}, lambda found: [found.clear(), found.update({True: 0})]),
    "text as a dict key": ({1: 0}, lambda found: [found.clear(), found.update({"1": 0})]),
    "Decimal for text": (["1.5"], lambda found: found.__setitem__(0, Decimal("1.5"))),
    "text for Markup": ([Markup("x")], lambda found: found.__setitem__(0, "x")),
    "another order of keys": ({"a": 1, "b": 2}, lambda found: found.update(a=found.pop("a"))),
}


@pytest.mark.parametrize("case", INSIDE_TYPES)
def test_a_value_of_another_type_inside_is_a_change(case: str) -> None:
    value, change = INSIDE_TYPES[case]
    session = loaded(key=value)
    change(session["key"])
    assert session.changes() == Changes({"key": encode("key", session["key"])}, ())
