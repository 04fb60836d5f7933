"""What a session refuses, and that it says so where the write stands, by the key's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_session import DATA, NO_CHANGES, broken, loaded

from samesession import Session
from samesession.codec import encode
from samesession.contents import Changes
from samesession.errors import (
    ResponseStartedError,
    SessionTooLargeError,
    StoreUnavailableError,
    ValueNotStorableError,
)


@pytest.fixture
def session() -> Session:
    return loaded(**DATA)


def test_an_unreadable_key_is_missing_and_keeps_its_bytes() -> None:
    session = loaded(64 * 1024, {"bad": b"\xc1", "worse": b"\x91" * 100}, good=1)
    assert dict(session) == {"good": 1}
    session["good"] = 2
    session.pop("bad", None)
    session.clear()
    assert session.changes() == Changes({}, ("good",))


def test_an_unreadable_key_can_be_written_anew() -> None:
    session = loaded(64 * 1024, {"bad": b"\xc1"})
    session["bad"] = 1
    assert session.changes() == Changes({"bad": encode("bad", 1)}, ())
    session.saw(session.changes())
    del session["bad"]
    assert session.changes() == Changes({}, ("bad",))


def test_a_value_that_another_build_spelled_differently_is_no_change() -> None:
    """A float where we write an int, an unsorted set: read, untouched, and left as it is."""
    spelled = {"long": b"\x93\x01\xcd\x00\x02\x03", "set": b"\xc7\x03\x02\x92\x02\x01"}
    session = loaded(64 * 1024, spelled)
    assert dict(session) == {"long": [1, 2, 3], "set": {1, 2}}
    assert session.changes() == NO_CHANGES
    session["long"].append(4)
    assert set(session.changes().sets) == {"long"}


BAD_KEYS = [1, None, b"x", ("a",), 1.5, True, "\ud800", "a\udfffb"]


@pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
def test_a_key_that_is_no_text_is_refused_at_the_write(session: Session, key: Any) -> None:
    for write in (
        lambda: session.__setitem__(key, 1),
        lambda: session.update({key: 1}),
        lambda: session.setdefault(key, 1),
        lambda: session.__ior__({key: 1}),
    ):
        with pytest.raises(ValueNotStorableError):
            write()
    assert dict(session) == DATA
    assert session.changes() == NO_CHANGES


@pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
def test_such_a_key_written_past_our_methods_is_refused_at_the_commit(
    session: Session, key: Any
) -> None:
    dict.__setitem__(session, key, 1)
    with pytest.raises(ValueNotStorableError):
        session.changes()


@pytest.mark.parametrize(
    "value",
    [object(), "\ud800", 1 << 70, [lambda: 0]],
    ids=["object", "surrogate", "int", "function"],
)
def test_a_value_that_cannot_be_stored_is_refused_at_the_write(
    session: Session, value: Any
) -> None:
    for write in (
        lambda: session.__setitem__("bad", value),
        lambda: session.update({"good": 1, "bad": value}),
        lambda: session.update(good=1, bad=value),
        lambda: session.setdefault("bad", value),
        lambda: session.__ior__({"good": 1, "bad": value}),
    ):
        with pytest.raises(ValueNotStorableError, match="bad"):
            write()
    assert dict(session) == DATA
    assert session.changes() == NO_CHANGES


def test_a_nested_value_that_cannot_be_stored_is_refused_at_the_commit_by_name(
    session: Session,
) -> None:
    session["cart"].append(object())
    with pytest.raises(ValueNotStorableError, match=r"session\['cart'\] holds a object"):
        session.changes()
    session["cart"].pop()
    assert session.changes() == NO_CHANGES


def test_a_session_that_holds_itself_is_refused_and_hangs_nobody(session: Session) -> None:
    session["self"] = session
    with pytest.raises(ValueNotStorableError, match="self"):
        session.changes()


@pytest.mark.parametrize(
    "key", ["", "a" * 1000, "ключ", "\x00", "\U0001f600", "__class__", "a.b:c"]
)
def test_any_other_text_is_a_key(session: Session, key: str) -> None:
    session[key] = 1
    assert session.changes() == Changes({key: encode(key, 1)}, ())


def test_the_write_that_makes_the_session_too_large_is_refused_by_name() -> None:
    session = loaded(1000, small="x")
    with pytest.raises(SessionTooLargeError, match=r"session\['big'\] has \d+ bytes .* 1000"):
        session["big"] = "x" * 1001
    with pytest.raises(SessionTooLargeError, match="bigger"):
        session.update(little=1, bigger="x" * 990)
    assert dict(session) == {"small": "x"}
    session["big"] = "x" * 900
    with pytest.raises(SessionTooLargeError, match="more"):
        session["more"] = "x" * 200
    del session["big"]
    session["more"] = "x" * 200
    session["more"] = "y" * 900
    assert set(session.changes().sets) == {"more"}


def test_a_list_that_grows_too_large_is_refused_at_the_commit_by_name() -> None:
    session = loaded(1000, cart=[], small="x")
    session["cart"].extend(range(2000))
    with pytest.raises(SessionTooLargeError, match=r"session\['cart'\]"):
        session.changes()
    del session["cart"][1:]
    assert set(session.changes().sets) == {"cart"}


def test_long_names_count_too_in_bytes() -> None:
    session = loaded(1000)
    with pytest.raises(SessionTooLargeError):
        session["ж" * 501] = 1
    session["ж" * 490] = 1


def test_a_session_that_grew_past_the_limit_elsewhere_can_shrink() -> None:
    """Two requests filled it together, or the limit was lowered since."""
    session = loaded(1000, one="x" * 800, other="x" * 800)
    with pytest.raises(SessionTooLargeError):
        session["more"] = 1
    del session["one"]
    assert session.changes() == Changes({}, ("one",))
    session["more"] = 1


@pytest.mark.parametrize(
    "principal", ["", "x" * 257, "ж" * 129, None, 7, b"ann", "\ud800"], ids=repr
)
def test_a_principal_is_text_of_1_to_256_bytes(session: Session, principal: Any) -> None:
    with pytest.raises(ValueNotStorableError, match="principal"):
        session.login(principal)
    assert session.principal is None
    session.login("ж" * 128)


def test_after_the_response_began_no_new_cookie_can_be_sent(session: Session) -> None:
    session._life.started = True
    for call in (lambda: session.login("ann"), session.rotate):
        with pytest.raises(ResponseStartedError, match="before the first byte"):
            call()
    assert session._life.leaving is None


@pytest.mark.parametrize(
    "name",
    ["principal", "authenticated_at", "created_at", "expires_at", "is_new", "handle", "version"],
)
def test_every_property_is_a_use(session: Session, name: str) -> None:
    getattr(session, name)
    assert session._used
    with pytest.raises(StoreUnavailableError):
        getattr(broken(), name)


@pytest.mark.parametrize("call", [Session.logout, Session.rotate, lambda s: s.login("ann")])
def test_every_verb_is_a_use(session: Session, call: Callable[[Session], None]) -> None:
    call(session)
    assert session._used
    with pytest.raises(StoreUnavailableError):
        call(broken())
