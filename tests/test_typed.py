"""Typed contents: one key as a class, its schema and its migrations, in a rolling deployment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
import pydantic
import pytest
from visits import Browser, World, sets

from samesession import Session, migrates
from samesession.errors import ConfigError, SessionTooLargeError


@dataclass
class Line:
    name: str
    count: int = 1


@dataclass
class Cart:
    lines: list[Line] = field(default_factory=list)
    since: datetime | None = None


class Struct(msgspec.Struct):
    __session_key__: ClassVar[str] = "struct"
    tags: set[str] = msgspec.field(default_factory=set)
    raw: bytes = b""


class Model(pydantic.BaseModel):
    names: list[str] = []
    at: datetime | None = None


@pytest.fixture
def world() -> World:
    return World()


def changes(kind: type, change: Callable[[Any], object]) -> Callable[[Session], object]:
    return lambda session: change(session.as_(kind))


NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_a_dataclass_comes_back_and_its_changes_are_noticed(world: World) -> None:
    browser = Browser(world)
    browser.visits(changes(Cart, lambda cart: cart.lines.append(Line("tea"))))
    browser.visits(changes(Cart, lambda cart: setattr(cart, "since", NOON)))

    def more(session: Session) -> None:
        cart = session.as_(Cart)
        assert cart is session.as_(Cart)
        cart.lines[0].count += 1

    browser.visits(more)
    assert browser.visits().as_(Cart) == Cart([Line("tea", 2)], NOON)
    stored = {"lines": [{"name": "tea", "count": 2}], "since": NOON, "@schema": 1}
    assert browser.reads() == {"cart": stored}


def test_a_struct_and_a_pydantic_model(world: World) -> None:
    browser = Browser(world)
    browser.visits(changes(Struct, lambda struct: struct.tags.update({"a", "b"})))
    browser.visits(changes(Struct, lambda struct: setattr(struct, "raw", b"\x00")))
    browser.visits(changes(Model, lambda model: model.names.append("ann")))
    browser.visits(changes(Model, lambda model: setattr(model, "at", NOON)))
    session = browser.visits()
    assert session.as_(Struct) == Struct({"a", "b"}, b"\x00")
    assert session.as_(Model) == Model(names=["ann"], at=NOON)
    assert set(session) == {"struct", "model"}


def test_looking_stores_nothing(world: World) -> None:
    browser = Browser(world)
    browser.visits(lambda session: session.as_(Cart))
    assert (browser.cookie, world.records) == (None, {})
    browser.visits(sets(note=1))
    calls = world.calls_of(lambda: browser.visits(lambda session: session.as_(Cart)))
    assert calls == ["load"]


def test_a_logout_takes_it_along(world: World) -> None:
    browser = Browser(world)

    def leave(session: Session) -> None:
        session.as_(Cart).lines.append(Line("tea"))
        session.logout()

    browser.visits(lambda session: session.login("ann"))
    browser.visits(leave)
    assert browser.reads() == {}


def test_it_is_weighed_like_everything_else(world: World) -> None:
    browser = Browser(world)
    with pytest.raises(SessionTooLargeError, match="cart"):
        browser.visits(changes(Cart, lambda cart: cart.lines.append(Line("x" * 70_000))))


def test_what_is_no_cart_counts_as_missing_and_stays(world: World) -> None:
    browser = Browser(world)
    for other in ("a text", {"lines": "none"}, [1]):
        browser.visits(sets(cart=other))
        assert browser.visits().as_(Cart) == Cart()
        assert browser.reads()["cart"] == other


# -- a rolling deployment --------------------------------------------------------------------------


@dataclass
class Old:
    __session_key__: ClassVar[str] = "profile"
    name: str = ""


@dataclass
class New:
    __session_key__: ClassVar[str] = "profile"
    first: str = ""
    last: str = ""


@migrates(New, 1, 2)
def split(old: dict[str, Any]) -> dict[str, Any]:
    first, _, last = old.pop("name", "").partition(" ")
    return {**old, "first": first, "last": last}


@dataclass
class Newer:
    __session_key__: ClassVar[str] = "profile"
    name: str = ""
    title: str = ""


@migrates(Newer, 1, 2)
def titled(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "title": "Dr"}


def test_a_migration_is_applied_on_reading_and_stored_when_written(world: World) -> None:
    browser = Browser(world)
    browser.visits(changes(Old, lambda old: setattr(old, "name", "Ann Lee")))
    assert browser.visits().as_(New) == New("Ann", "Lee")
    assert browser.visits().as_(Old) == Old("Ann Lee"), "a server of the old build goes on"
    browser.visits(changes(New, lambda new: setattr(new, "last", "Low")))
    stored = {"first": "Ann", "last": "Low", "@schema": 2}
    assert browser.reads()["profile"] == stored
    assert browser.visits().as_(New) == New("Ann", "Low")


def test_an_older_build_keeps_the_fields_that_it_does_not_know(world: World) -> None:
    browser = Browser(world)
    browser.visits(changes(Newer, lambda new: new.__dict__.update(name="Ann", title="Prof")))
    browser.visits(changes(Old, lambda old: setattr(old, "name", "Anna")))
    assert browser.reads()["profile"] == {"name": "Anna", "title": "Prof", "@schema": 2}
    assert browser.visits().as_(Newer) == Newer("Anna", "Prof")


@dataclass
class Wider:
    """As `Old`, one field later: no number is needed for that."""

    __session_key__: ClassVar[str] = "profile"
    name: str = ""
    seen: int = 0


def test_a_field_more_is_kept_by_the_older_build_without_a_number(world: World) -> None:
    browser = Browser(world)
    browser.visits(changes(Wider, lambda wider: wider.__dict__.update(name="Ann", seen=3)))
    browser.visits(changes(Old, lambda old: setattr(old, "name", "Anna")))
    assert browser.visits().as_(Wider) == Wider("Anna", 3)


def test_a_field_more_outlives_a_migration_that_does_not_know_it(world: World) -> None:
    browser = Browser(world)
    browser.visits(changes(Wider, lambda wider: wider.__dict__.update(name="Ann", seen=3)))
    browser.visits(changes(Newer, lambda newer: setattr(newer, "name", "Anna")))
    stored = {"name": "Anna", "seen": 3, "title": "Dr", "@schema": 2}
    assert browser.reads()["profile"] == stored


@dataclass
class Listed:
    __session_key__: ClassVar[str] = "profile"
    name: list[str] = field(default_factory=list)
    title: str = ""


@migrates(Listed, 1, 2)
def listed(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "name": old["name"].split()}


def test_what_an_older_build_cannot_read_it_writes_anew_so_that_both_can(world: World) -> None:
    browser = Browser(world)
    browser.visits(changes(Listed, lambda new: new.__dict__.update(name=["Ann"], title="Dr")))
    assert browser.visits().as_(Old) == Old()
    assert browser.visits().as_(Listed) == Listed(["Ann"], "Dr"), "looking harms nothing"
    browser.visits(changes(Old, lambda old: setattr(old, "name", "Bea Low")))
    assert browser.visits().as_(Old) == Old("Bea Low")
    assert browser.visits().as_(Listed) == Listed(["Bea", "Low"], "Dr")


def test_migrations_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(ConfigError, match="lower number first"):
        migrates(Cart, 2, 1)
    with pytest.raises(ConfigError, match="twice"):
        migrates(New, 1, 3)
