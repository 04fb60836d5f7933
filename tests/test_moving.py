"""Sessions that move from one store to another while requests are under way, in every order.

Each call to either store is one step. A mover, and requests on servers that have taken the first
step (``&write=old``) or the second, are stepped by hand; and a mover dies after each of its steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count

import pytest
from test_races import (
    Browser,
    Request,
    Scene,
    World,
    core_over,
    end_all,
    login,
    logout,
    rotate,
    stepping,
    write,
)

from samesession._bridge import ready
from samesession.errors import ConfigError
from samesession.record import Ended, Key, Mark, Record
from samesession.sessions import now_ms
from samesession.store import Store
from samesession.stores.listing import keys_of
from samesession.stores.moving import Moving
from samesession.strategies import strategy_of
from samesession.testing import changed, created, ending, fresh_key
from samesession.token import Token

FIRST, SECOND = True, False
"""Which of the two steps a server has taken: it writes the old store still, or moves."""

MOST = 800
"""Orders tried of one pair; where there are more, so many by chance."""


class MovingWorld(World):
    """One session of ann's in the old store; what servers do with it goes through both."""

    def __init__(self, steps: Sequence[bool]) -> None:
        self.old, self.new = (strategy_of("memory://").open_loop() for _ in range(2))
        super().__init__(self.through(FIRST))
        assert isinstance(ready(self.old.load(self.key)), Record)
        self.plain = core_over(self.through(SECOND))
        self._steps = list(steps)

    @property
    def key(self) -> Key:
        session = ready(self.plain.open(self.cookie))
        token = session._life.token
        assert token is not None
        return token.key

    def through(self, step: bool) -> Moving:
        return Moving(self.old, self.new, now_ms, write_old=step)

    def browser(self) -> Browser:
        return Browser(core_over(stepping(self.through(self._steps.pop(0)))), self.cookie)


async def moved(browser: Browser) -> None:
    """`samesession move`, of the one record."""
    store = browser.core.store
    assert isinstance(store, Moving)
    token = browser.core.commits.signer.loads(browser.cookie, now_ms=now_ms())
    assert isinstance(token, Token)
    await store.move(token.key)
    browser.status = 200


def orders(
    steps: Sequence[bool], first: Request, second: Request
) -> Iterator[tuple[tuple[int, ...], Scene]]:
    """Every order of the steps of two requests; by chance where there are too many."""
    chance, tried = random.Random(7), count()
    pending: list[tuple[int, ...]] = [()]
    while pending and next(tried) < MOST:
        order = list(pending.pop(chance.randrange(len(pending))))
        scene = Scene(MovingWorld(steps), first, second)
        for which in order:
            scene.take(which)
        while any(scene.alive):
            if all(scene.alive):
                pending.append((*order, 1))
            order.append(0 if scene.alive[0] else 1)
            scene.take(order[-1])
        yield tuple(order), scene


EITHER = pytest.mark.parametrize("step", [FIRST, SECOND], ids=["writes old", "moves"])
BOTH = pytest.mark.parametrize(
    "steps",
    [(FIRST, FIRST), (FIRST, SECOND), (SECOND, FIRST), (SECOND, SECOND)],
    ids=lambda steps: "-".join("old" if step else "new" for step in steps),
)


@EITHER
def test_a_write_beside_the_move_is_kept_and_shown(step: bool) -> None:
    for order, scene in orders((SECOND, step), moved, write):
        _, writing = scene.browsers
        assert writing.status == 200, order
        session = scene.world.shows(writing.answered)
        assert session is not None, order
        assert (session["basket"], session["late"]) == (["tea"], "write"), order
        assert scene.world.plain.counts["lost"] == 0, order
        assert session.principal == "ann"
        assert_in_one_place(scene, order)


@EITHER
@pytest.mark.parametrize("end", [logout, end_all])
def test_an_end_beside_the_move_holds(step: bool, end: Request) -> None:
    for order, scene in orders((SECOND, step), moved, end):
        assert scene.browsers[1].status == 200, order
        assert not scene.world.signed_in(scene.world.cookie), order
        assert ready(scene.world.plain.held_by("ann")) == [], order


@EITHER
@pytest.mark.parametrize("leave", [rotate, login])
def test_a_login_or_rotation_beside_the_move_takes_everything_along(
    step: bool, leave: Request
) -> None:
    for order, scene in orders((SECOND, step), moved, leave):
        _, moving = scene.browsers
        assert moving.status == 200, order
        session = scene.world.shows(moving.answered)
        assert session is not None, order
        assert (session.principal, session["basket"]) == ("ann", ["tea"]), order
        assert scene.world.shows(scene.world.cookie) is None, order
        assert len(ready(scene.world.plain.held_by("ann"))) == 1, order


@BOTH
@pytest.mark.parametrize("end", [logout, end_all])
def test_no_rotation_outruns_an_end_on_servers_that_are_at_different_steps(
    steps: tuple[bool, bool], end: Request
) -> None:
    for order, scene in orders(steps, rotate, end):
        rotating, ending_ = scene.browsers
        assert ending_.status == 200, order
        assert not scene.world.signed_in(scene.world.cookie), order
        assert not scene.world.signed_in(rotating.answered), order


@BOTH
def test_writes_on_servers_that_are_at_different_steps_both_survive(
    steps: tuple[bool, bool],
) -> None:
    def other(browser: Browser) -> object:
        return browser.request(lambda session: session.update(other="write"))

    for order, scene in orders(steps, write, other):  # type: ignore[arg-type]
        assert [browser.status for browser in scene.browsers] == [200, 200], order
        session = scene.world.shows(scene.world.cookie)
        assert session is not None, order
        assert {"late", "other", "basket"} == set(session), order


@EITHER
@pytest.mark.parametrize("then", [logout, end_all, write, rotate])
def test_a_mover_that_dies_half_way_loses_nothing_and_brings_nothing_back(
    step: bool, then: Request
) -> None:
    for dies_after in range(1, 12):
        for resumed in (False, True):
            scene = Scene(MovingWorld((SECOND, step, SECOND)), moved, then, moved)
            world = scene.world
            for _ in range(dies_after):
                scene.take(0)
            scene.coroutines[0].close()
            if resumed:
                scene.finish(2)
            browser = scene.finish(1)
            assert browser.status == 200
            if not resumed:
                scene.finish(2)
            if then in (logout, end_all):
                assert not world.signed_in(world.cookie)
                assert ready(world.plain.held_by("ann")) == []
                continue
            session = world.shows(browser.answered)
            assert session is not None
            assert session["basket"] == ["tea"]
            assert session.principal == "ann"
            if then is write:
                assert session["late"] == "write"
                assert_in_one_place(scene, ())


def assert_in_one_place(scene: Scene, order: object) -> None:
    world = scene.world
    assert isinstance(world, MovingWorld)
    assert isinstance(ready(world.new.load(world.key)), Record), order
    assert isinstance(ready(world.old.load(world.key)), Mark), order


# --- listing and URLs -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "sticky"])
def test_a_store_lists_each_of_its_keys_once(kind: str, tmp_path: object) -> None:
    store = strategy_of(
        f"{kind}:///{tmp_path}/store".replace("sticky:////", "sticky:///")
    ).open_loop()
    keys = {fresh_key() for _ in range(25)}
    for key in keys:
        ready(store.commit(created(key, n=b"1")))
    assert listed(store, 7) == sorted(keys)
    assert listed(store, 25) == sorted(keys)
    ready(store.close())


def listed(store: Store, most: int) -> list[Key]:
    found: list[Key] = []
    cursor = ""
    while True:
        page, cursor = ready(keys_of(store, cursor, most))
        found += page
        if not cursor:
            return found


def test_a_store_that_cannot_list_says_what_to_do_instead() -> None:
    store = strategy_of("memory://").open_loop()
    with pytest.raises(ConfigError, match=r"NEW\?from=OLD until SAMESESSION_LIFETIME"):
        ready(keys_of(store, "", 10))


def test_from_is_a_parameter_of_every_strategy() -> None:
    strategy = strategy_of("memory://?from=sticky:///tmp/nowhere?size=8MB&write=old")
    assert strategy.old is not None
    assert (strategy.name, strategy.old.name, strategy.write_old) == ("memory", "sticky", True)
    assert strategy.affinity == "cookie"
    store = strategy_of("memory://?from=sticky:///tmp/nowhere").open_loop()
    assert isinstance(store, Moving)


@pytest.mark.parametrize(
    ("url", "said"),
    {
        "memory://?write=old": "beside from=OLD",
        "sticky:///a?size=8MB&from=sticky:///a?size=8MB": "moves to where it comes from",
        "memory://?from=sticky://&write=new": "it is write=old",
        "memory://?from=nonsense": "is no strategy",
        "memory://?from=memory://%3Ffrom=sticky://": "moves from a move",
        "sticky:///a?from=sticky:///a": "moves to where it comes from",
        "redis://ann:secret@h?from=mysql://bob:hidden@h": "names no database",
    }.items(),
)
def test_a_wrong_move_is_said_in_one_line(url: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        strategy_of(url).open_loop()
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_a_copy_keeps_its_version_so_that_the_cookie_covers_it() -> None:
    old, new = (strategy_of("memory://").open_loop() for _ in range(2))
    moving, key = Moving(old, new, now_ms), fresh_key()
    ready(old.commit(created(key, "ann", a=b"1")))
    ready(old.commit(changed(key, b=b"2")))
    before = ready(old.load(key))
    ready(moving.move(key))
    after = ready(new.load(key))
    assert isinstance(before, Record)
    assert isinstance(after, Record)
    assert after.version == before.version
    assert after.covers(before.version)
    assert (after.origin, dict(after.values)) == (before.origin, dict(before.values))
    assert (after.seen_ms, after.idle_until_ms) == (before.seen_ms, before.idle_until_ms)
    ready(moving.end(key, ending()))
    assert isinstance(ready(new.load(key)), Mark)


def test_a_logout_that_died_between_the_stores_is_finished_by_whoever_comes_next() -> None:
    """Else the old record would be found again once the new store has forgotten its mark."""
    for touch in (False, True):
        old, new = (strategy_of("memory://").open_loop() for _ in range(2))
        moving, key = Moving(old, new, now_ms), fresh_key()
        ready(old.commit(created(key, "ann", a=b"1")))
        ready(new.end(key, ending()))
        found = ready(moving.end(key, ending())) if touch else ready(moving.move(key))
        assert isinstance(found, Mark)
        assert isinstance(ready(old.load(key)), Mark)


def test_a_session_that_was_emptied_while_its_mover_was_dead_is_gone_from_both() -> None:
    old, new = (strategy_of("memory://").open_loop() for _ in range(2))
    moving, key = Moving(old, new, now_ms), fresh_key()
    ready(old.commit(created(key, a=b"1")))
    ready(new.commit(created(key, a=b"1")))  # copied, and not ended
    assert isinstance(ready(moving.commit(changed(key, "a"))), Ended)
    assert isinstance(ready(new.load(key)), Mark)
    assert isinstance(ready(old.load(key)), Mark)
