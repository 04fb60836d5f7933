"""The life of a session by the rules of DESIGN, over a store in memory and a clock by hand."""

from __future__ import annotations

from typing import Any

import pytest
from visits import LIFETIME, Browser, World, looks, sets

from samesession import Session
from samesession.codec import encode
from samesession.errors import NotSavedError, ResponseStartedError
from samesession.record import Reason, Record
from samesession.token import Token, id_from


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ann(world: World) -> Browser:
    """A browser with an anonymous session that holds a basket."""
    browser = Browser(world)
    browser.visits(sets(basket=["tea"]))
    return browser


# -- S1, S2: snapshot, delta, merge ----------------------------------------------------------------


def test_a_request_sees_its_snapshot_and_its_own_writes(world: World, ann: Browser) -> None:
    slow = ann.opens()
    ann.copy().visits(sets(other=1))
    assert dict(slow) == {"basket": ["tea"]}
    slow["mine"] = 2
    assert dict(slow) == {"basket": ["tea"], "mine": 2}
    ann.answered(slow)
    assert ann.reads() == {"basket": ["tea"], "other": 1, "mine": 2}


def test_only_what_changed_is_committed(world: World, ann: Browser) -> None:
    ann.visits(sets(a=1, b=[2], c=3))
    ann.visits(lambda s: [s["b"].append(3), s.pop("c"), s.update(a=1), s.get("basket")])
    delta = world.store.deltas[-1]
    assert (delta.sets, delta.removes) == ({"b": encode("b", [2, 3])}, ("c",))


def test_no_change_is_no_commit(world: World, ann: Browser) -> None:
    for change in (looks, dict, sets(basket=["tea"]), lambda s: s.pop("no", None)):
        assert world.calls_of(lambda: ann.visits(change)) == ["load"]  # noqa: B023
    assert ann.visits()._life.cookie is None


def test_different_keys_merge_and_the_later_commit_wins_the_same_key(
    world: World, ann: Browser
) -> None:
    tab, other = ann.copy(), ann.copy()
    first, second = tab.opens(), other.opens(world.server())
    first.update(mine=1, same="first")
    second.update(yours=2, same="second")
    second.pop("basket")
    other.answered(second)
    tab.answered(first)
    for browser in (tab, other, ann):
        assert browser.reads() == {"mine": 1, "yours": 2, "same": "first"}
    assert world.counted("merged") == {"merged": 1}
    assert tab.token.version.number == 3


def test_one_request_may_commit_many_times(world: World) -> None:
    browser = Browser(world)
    session = browser.opens()
    commit = world.sessions.blocking.commit
    commit(session)
    assert session.is_new
    for number in range(1, 4):
        session["n"] = number
        commit(session)
        commit(session)
        assert session.version == number
    browser.answered(session)
    assert browser.reads() == {"n": 3}
    assert world.counted() == {"created": 1, "committed": 2}


@pytest.mark.parametrize("value", [7, [7]])
def test_what_is_written_while_a_commit_is_on_its_way_belongs_to_the_next(
    world: World, ann: Browser, value: object
) -> None:
    """As a background task of the same request may do."""
    session = ann.opens()

    def writes(verb: str) -> None:
        session["late"] = value

    session["n"] = 1
    world.store.before = writes
    world.sessions.blocking.commit(session)
    world.store.before = lambda _verb: None
    assert world.store.deltas[-1].sets.keys() == {"n"}
    assert world.sessions.loops.uncommitted(session)
    ann.answered(session)
    assert ann.reads() == {"basket": ["tea"], "n": 1, "late": value}


# -- S3, S8, S9: what is made, and when ------------------------------------------------------------


def test_a_request_without_a_valid_token_that_writes_nothing_costs_nothing(world: World) -> None:
    valid = Browser(world, made_by(world)).token
    foreign = World(keys=(b"f" * 32,)).sessions._tools.signer
    world.clock.goes_on(LIFETIME)
    late = world.sessions._tools.signer.dumps(valid).encode()
    values = [None, b"", b"x" * 8192, b"a.b.c", foreign.dumps(valid).encode(), late]
    stored = dict(world.records)
    for value in values:
        for use in (looks, dict, lambda s: [s.logout(), s.rotate()], lambda s: s.pop("a", 1)):
            session = Browser(world, value).opens()
            assert session.is_new
            assert world.calls_of(lambda: Browser(world, value).visits(use)) == []  # noqa: B023
    assert world.records == stored
    assert set(world.counted()) == {"created", "malformed", "forged", "expired"}


def made_by(world: World) -> bytes:
    browser = Browser(world)
    browser.visits(sets(a=1))
    assert browser.cookie
    return browser.cookie


def test_nothing_is_stored_before_the_first_write(world: World) -> None:
    browser = Browser(world)
    session = browser.visits()
    assert (session.is_new, session.handle, session.version) == (True, None, 0)
    assert (session.created_at, session.expires_at, session.authenticated_at) == (None, None, None)
    assert (browser.cookie, world.store.calls) == (None, [])
    assert world.calls_of(lambda: browser.visits(sets(a=1))) == ["commit"]
    assert browser.cookie


def test_an_id_whose_record_is_gone_is_not_adopted(world: World, ann: Browser) -> None:
    before = ann.token
    world.records.clear()
    assert ann.visits(sets(a=1)).is_new is False
    assert ann.token.id != before.id
    assert world.counted("absent") == {"absent": 1}
    assert world.record.key == ann.token.key != before.key


def test_ids_are_new_for_every_session(world: World) -> None:
    ids = {Browser(world, made_by(world)).token.id for _ in range(100)}
    assert len(ids) == 100


def test_a_stored_record_holds_no_cookie(world: World, ann: Browser) -> None:
    assert ann.token.id not in repr(world.records)


def test_an_anonymous_session_without_a_key_is_over(world: World, ann: Browser) -> None:
    session = ann.visits(lambda s: s.clear())
    assert session._life.cookie == ""
    assert ann.cookie is None
    assert [mark.reason for mark in world.records.values()] == [Reason.EMPTIED]
    assert world.counted("ended") == {"ended": 1}


def test_whether_it_is_empty_is_judged_on_the_merged_record(world: World, ann: Browser) -> None:
    slow = ann.opens()
    ann.copy().visits(sets(kept=1))
    slow.clear()
    ann.answered(slow)
    assert ann.reads() == {"kept": 1}


def test_a_signed_in_session_lives_without_a_key(world: World) -> None:
    browser = Browser(world)
    browser.visits(lambda s: s.login("ann"))
    browser.visits(sets(a=1))
    browser.visits(lambda s: s.clear())
    assert browser.visits().principal == "ann"


def test_a_session_emptied_and_written_in_one_request_goes_on_under_its_id(
    world: World, ann: Browser
) -> None:
    before = ann.token
    ann.visits(lambda s: [s.clear(), s.update(a=1)])
    assert (ann.token.id, ann.reads()) == (before.id, {"a": 1})


def test_a_session_emptied_by_a_commit_and_written_again_begins_anew(
    world: World, ann: Browser
) -> None:
    before = ann.token

    def change(session: Session) -> None:
        session.clear()
        world.sessions.blocking.commit(session)
        assert session.is_new
        session["a"] = 1

    ann.visits(change)
    assert ann.reads() == {"a": 1}
    assert ann.token.id != before.id


# -- after the response began ----------------------------------------------------------------------


def started(session: Session) -> Session:
    session.mark_accessed()
    session._life.started = True
    return session


def test_after_the_start_an_explicit_commit_keeps_changes(world: World, ann: Browser) -> None:
    session = started(ann.opens())
    session["late"] = 1
    assert world.sessions.loops.uncommitted(session)
    world.sessions.blocking.commit(session)
    assert not world.sessions.loops.uncommitted(session)
    assert session._life.cookie is None
    assert ann.reads() == {"basket": ["tea"], "late": 1}


def test_after_the_start_no_session_begins(world: World) -> None:
    session = started(Browser(world).opens())
    session["late"] = 1
    with pytest.raises(ResponseStartedError):
        world.sessions.blocking.commit(session)
    assert world.store.calls == []


def test_after_the_start_a_logout_ends_the_record_and_sets_no_cookie(
    world: World, ann: Browser
) -> None:
    session = started(ann.opens())
    session.logout()
    world.sessions.blocking.commit(session)
    assert session._life.cookie is None
    assert ann.visits().is_new


def test_a_request_that_failed_commits_nothing_but_its_logout_counts(
    world: World, ann: Browser
) -> None:
    failed = ann.opens()
    failed.update(a=1)
    failed.rotate()
    world.sessions.blocking.finish(failed, failed=True)
    assert ann.reads() == {"basket": ["tea"]}
    failed = ann.opens()
    failed.logout()
    failed["a"] = 1
    world.sessions.blocking.finish(failed, failed=True)
    assert ann.visits().is_new
    assert len(world.records) == 1


# -- what is stored under a valid token and is not ours --------------------------------------------


def test_a_corrupt_record_is_counted_and_anonymous(world: World, ann: Browser) -> None:
    world.store.corrupt = True
    assert ann.visits().is_new
    before = ann.token.id
    ann.visits(sets(a=1))
    assert ann.token.id != before
    world.store.corrupt = False
    assert ann.reads() == {"a": 1}
    assert world.counted("corrupt", "absent") == {"corrupt": 2}


def test_one_corrupt_key_costs_only_itself(world: World, ann: Browser) -> None:
    record = world.record
    stored: dict[str, Any] = dict(record.values) | {"bad": b"\xc1"}
    key = record.key
    world.records[key] = Record(key, record.origin, record.commits, 0, record.idle_until_ms, stored)
    assert ann.reads() == {"basket": ["tea"]}
    ann.visits(sets(a=1))
    assert world.record.values["bad"] == b"\xc1"
    assert world.counted("corrupt") == {"corrupt": 2}
    ann.visits(lambda s: [s.clear(), s.pop("bad", None)])
    assert set(world.record.values) == {"bad"}


def test_a_token_for_another_users_record_needs_our_signature(world: World, ann: Browser) -> None:
    token = ann.token
    forged = Token.of(id_from(b"\x00" * 16), token.version, token.absolute_ms)
    foreign = World(keys=(b"f" * 32,)).sessions._tools.signer
    assert world.calls_of(lambda: Browser(world, foreign.dumps(forged).encode()).visits()) == []


def test_a_key_that_was_dropped_makes_its_cookies_anonymous(world: World, ann: Browser) -> None:
    new, both = b"n" * 32, (b"n" * 32, *world.keys)
    during, after = world.server(both), world.server((new,))
    assert ann.copy().reads(during) == {"basket": ["tea"]}
    assert ann.copy().reads(after) == {}
    ann.visits(sets(a=1), during)
    assert ann.reads(after) == {"basket": ["tea"], "a": 1}
    with pytest.raises(NotSavedError):
        _ = [world.sessions.blocking.end(world.record.key), ann.visits(sets(b=1), after)]
