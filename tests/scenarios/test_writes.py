"""PROMISES scenarios 1 to 3: what was written is there, wherever; unless logged out."""

from __future__ import annotations

from functools import partial
from itertools import cycle, permutations

import pytest

from scenarios.browser import Browser, sets_our_cookie
from scenarios.conftest import Browsers, Figure
from scenarios.site import Site, at_once

# --- 1. disjoint keys -----------------------------------------------------------------------------


def test_a_slow_write_and_a_quick_one_to_another_key_both_survive(
    site: Site, browsers: Browsers, figure: Figure
) -> None:
    rounds = 0
    for first, second, third in [*permutations(("s1", "s2", "s3"))] * 2:
        ann = browsers(site)
        ann.put("seed", 0, first)
        slow = ann.hold("PUT", "/api/slow/a?ms=0", b'"slow"', at=first)
        ann.put("b", "quick", second)
        assert slow.answer().status_code == 200
        assert ann.read(third)["data"] == {"seed": 0, "a": "slow", "b": "quick"}
        rounds += 1
    figure(f"1 disjoint keys, slow beside quick: 0 lost in {rounds}")


def test_a_write_that_waits_on_its_server_loses_nothing_either(
    site: Site, browsers: Browsers
) -> None:
    ann = browsers(site)
    ann.put("seed", 0)
    ann.hold("PUT", "/api/slow/a?ms=0").answer()
    answers = at_once(
        lambda: ann.ask("PUT", "/api/slow/a?ms=300", at="s1", json=1),
        lambda: ann.put("b", 2, "s2"),
    )
    assert [answer.status_code for answer in answers] == [200, 200]
    assert ann.read("s3")["data"] == {"seed": 0, "a": 1, "b": 2}


def test_parallel_writes_to_different_keys_all_survive(
    site: Site, browsers: Browsers, figure: Figure
) -> None:
    written = 0
    ann = browsers(site)
    ann.put("seed", 0)
    for number in range(10):
        answers = at_once(
            *(
                partial(ann.put, f"{number}-{at}-{half}", number, at)
                for at in ("s1", "s2", "s3")
                for half in "ab"
            )
        )
        written += len(answers)
        assert len(ann.read("s2")["data"]) == 1 + written
    versions = [ann.read(at)["version"] for at in site.doors]
    assert set(versions) == {1 + written}  # each commit raised it by one
    figure(f"1 disjoint keys, six at once: 0 lost in {written}")


def test_of_two_writes_to_the_same_key_the_later_one_wins(site: Site, browsers: Browsers) -> None:
    ann = browsers(site)
    ann.put("seed", 0)
    slow = ann.hold("PUT", "/api/slow/a?ms=0", b'"later"', at="s1")
    ann.put("a", "earlier", "s2")
    slow.answer()
    assert ann.read("s3")["data"]["a"] == "later"


def test_a_removal_and_a_write_to_another_key_both_hold(site: Site, browsers: Browsers) -> None:
    ann = browsers(site)
    ann.put("old", 1)
    ann.put("seed", 0)
    slow = ann.hold("PUT", "/api/slow/new?ms=0", at="s1")
    ann.done("DELETE", "/api/session/old", at="s2")
    slow.answer()
    assert ann.read("s3")["data"] == {"seed": 0, "new": "late"}


# --- 2. logout beats a slow write -----------------------------------------------------------------

LATE = [
    ("PUT", "/api/slow/a?ms=0"),
    ("PUT", "/api/session/a"),
    ("POST", "/api/session/list/append"),
]


@pytest.mark.parametrize(("method", "path"), LATE, ids=[path for _, path in LATE])
def test_a_logout_beats_a_slow_write(
    site: Site, browsers: Browsers, figure: Figure, method: str, path: str
) -> None:
    rounds = 0
    for first, second in [("s1", "s2"), ("s2", "s3"), ("s1", "s1")] * 2:
        ann = browsers(site)
        ann.put("basket", "tea")
        ann.login("ann", first)
        thief = browsers(site, like=ann)
        slow = thief.hold(method, path, at=first)
        ann.logout(second)
        assert ann.cookie is None  # this response clears the cookie
        assert browsers(site, like=thief).is_nobody()  # before the slow write ends
        late = slow.answer()
        assert late.status_code == 200  # served; nothing is set
        assert not sets_our_cookie(late)  # a late one would delete a newer login's
        assert thief.is_nobody()
        assert thief.is_nobody()  # and stays so
        rounds += 1
    figure(f"2 logout beats {path}: 0 resurrections in {rounds}")


def test_nobody_is_left_when_logout_and_writes_race(
    site: Site, browsers: Browsers, figure: Figure
) -> None:
    rounds = 16
    for number in range(rounds):
        ann = browsers(site)
        ann.login("ann", "s1")
        tabs = [browsers(site, like=ann) for _ in range(4)]
        thief = browsers(site, like=ann)
        logout, *late = at_once(
            lambda ann=ann: ann.ask("POST", "/api/logout", at="s2"),
            *(
                partial(tab.ask, "PUT", f"/api/session/{number}", at=at, json=number)
                for tab, at in zip(tabs, cycle(("s1", "s2", "s3")), strict=False)
            ),
        )
        assert logout.status_code == 200
        assert {answer.status_code for answer in late} <= {200, 503}
        assert thief.is_nobody()
        for tab in tabs:  # none of the answers brought a cookie that lives
            assert tab.is_nobody()
    figure(f"2 logout racing with four writes: 0 alive in {rounds} rounds")


def test_nobody_is_left_when_logout_and_rotation_race(
    site: Site, browsers: Browsers, figure: Figure
) -> None:
    rounds, moved = 16, 0
    for _ in range(rounds):
        ann = browsers(site)
        ann.put("basket", "tea", "s1")
        ann.login("ann", "s1")
        tab, thief = browsers(site, like=ann), browsers(site, like=ann)
        logout, rotation = at_once(
            lambda ann=ann: ann.ask("POST", "/api/logout", at="s2"),
            lambda tab=tab: tab.ask("POST", "/api/rotate", at="s3"),
        )
        assert (logout.status_code, rotation.status_code) == (200, 200)
        moved += sets_our_cookie(rotation)
        assert thief.is_nobody()
        assert tab.is_nobody()
        assert ann.is_nobody()
    figure(f"2 logout racing with rotation: 0 alive in {rounds} ({moved} rotated first)")


# --- 3. read your writes --------------------------------------------------------------------------


def test_a_redirect_to_another_server_shows_what_was_written(
    site: Site, browsers: Browsers, figure: Figure
) -> None:
    ann = browsers(site)
    shown = 0
    for number, (here, there) in zip(
        range(100), cycle(permutations(site.doors, 2) if site.shared else [(None, None)])
    ):
        ann.put("n", number, here)
        seen = ann.read(there)
        shown += (seen["data"]["n"], seen["known"]) == (number, True)
    assert shown == 100
    figure(f"3 read your writes: {shown} of 100 shown by another way in")


def test_a_cookie_with_any_character_changed_is_nobody(
    site: Site, browsers: Browsers, figure: Figure
) -> None:
    ann, thief = browsers(site), browsers(site)
    ann.put("n", 1)
    ann.login("ann")
    ann.put("n", 2)
    thief.http.cookies.update(ann.http.cookies)
    honest = ann.cookie
    assert honest is not None
    before = site.all_counts()
    tried = 0
    for at, character in enumerate(honest):
        thief.cookie = honest[:at] + ("0" if character != "0" else "1") + honest[at + 1 :]
        seen = thief.read()
        assert (seen["known"], seen["principal"], seen["data"]) == (False, None, {}), at
        tried += 1
    after = site.all_counts()
    counted = sum(after[name] - before[name] for name in ("malformed", "forged"))
    assert counted == tried
    thief.cookie = honest
    assert thief.read()["principal"] == "ann"  # the honest one was never harmed
    figure(f"3 tampered cookies: {tried} of {tried} anonymous and counted")


def test_a_cookie_with_a_part_exchanged_is_nobody(site: Site, browsers: Browsers) -> None:
    ann, bob = browsers(site), browsers(site)
    ann.put("n", 1)
    ann.login("ann")
    bob.http.cookies.update(ann.http.cookies)
    bob.cookie = "x"
    bob.login("bob")
    assert ann.cookie is not None
    assert bob.cookie is not None
    mine, theirs = ann.cookie.split("."), bob.cookie.split(".")
    number, tag = mine[1].split("-")
    changed = {
        "id": [theirs[0], *mine[1:]],
        "version raised": [mine[0], f"{int(number) + 1}-{tag}", *mine[2:]],
        "version lowered": [mine[0], f"0-{tag}", *mine[2:]],
        "tag": [mine[0], f"{number}-0000", *mine[2:]],
        "deadline": [*mine[:2], str(int(mine[2]) + 1), mine[3]],
        "mac": [*mine[:3], theirs[3]],
        "mac in capitals": [*mine[:3], mine[3].upper()],
        "no mac": mine[:3],
        "one part more": [*mine, mine[3]],
        "swapped": [mine[1], mine[0], *mine[2:]],
    }
    thief = browsers(site, like=ann)
    for part, parts in changed.items():
        thief.cookie = ".".join(parts)
        if thief.cookie == ann.cookie:
            continue
        assert thief.is_nobody(), part
    assert ann.read()["principal"] == "ann"


def test_browsers_do_what_the_scenarios_think(sites: object, browsers: Browsers) -> None:
    site = sites["redis"]  # type: ignore[index]
    ann = browsers(site)
    ann.put("a", 1, "s1")
    assert {seen["server"] for seen in ann.everywhere()[1:]} == {"s1", "s2", "s3"}
    with Browser(site) as stranger:
        assert stranger.is_nobody()
    assert not ann.is_nobody()
