"""PROMISES scenarios 4, 5 and 10: a login moves to a new record, a sign-out leaves nobody."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle

import httpx
import pytest

from scenarios.browser import Browser, sets_our_cookie
from scenarios.conftest import Browsers, Figure
from scenarios.site import Site, at_once

SERVERS = ("s1", "s2", "s3")


# --- 4. login rotation ----------------------------------------------------------------------------


def test_a_login_with_twenty_slow_requests_in_flight_keeps_what_was_acknowledged(
    site: Site, browsers: Browsers, figure: Figure
) -> None:
    rounds, acknowledged, refused = 2, 0, 0
    for _ in range(rounds):
        ann = browsers(site)
        ann.put("basket", "tea")
        old = browsers(site, like=ann)
        slow = [
            old.hold("PUT", f"/api/slow/k{number}?ms=0", b"1", at=at)
            for number, at in zip(range(20), cycle(SERVERS), strict=False)
        ]
        answers = [held.answer() for held in slow[:10]]  # before the login: kept
        assert {answer.status_code for answer in answers} == {200}
        browser_cookie = old.cookie  # the ten answers raised its version
        ann.login("ann", "s2")
        assert ann.cookie is not None
        late = [held.answer() for held in slow[10:]]
        assert {answer.status_code for answer in late} == {503}
        assert all(answer.headers.get("retry-after") for answer in late)
        assert not any(sets_our_cookie(answer) for answer in late)
        assert old.cookie == browser_cookie  # untouched
        assert old.is_nobody()
        for seen in ann.everywhere():
            assert seen["principal"] == "ann"
            assert seen["data"] == {"basket": "tea"} | {f"k{n}": 1 for n in range(10)}
        acknowledged += len(answers)
        refused += len(late)
    figure(
        f"4 login with 20 in flight: {acknowledged} acknowledged writes kept, {refused} late ones "
        f"answered 503, old cookie nobody, {rounds} of {rounds}"
    )


def test_a_login_racing_with_twenty_writes_keeps_what_was_acknowledged(
    site: Site, browsers: Browsers, figure: Figure
) -> None:
    rounds, kept, refused = 4, 0, 0
    for _ in range(rounds):
        ann = browsers(site)
        ann.put("basket", "tea")
        old = browsers(site, like=ann)
        slow = [
            old.hold("PUT", f"/api/slow/k{number}?ms=0", b"1", at=at)
            for number, at in zip(range(20), cycle(SERVERS), strict=False)
        ]
        login, *answers = at_once(
            lambda ann=ann: ann.ask("POST", "/api/login/ann", at="s2"),
            *(held.answer for held in slow),
        )
        assert login.status_code == 200
        expected = {"basket": "tea"}
        for number, answer in enumerate(answers):
            assert answer.status_code in {200, 503}
            if answer.status_code == 200:
                expected[f"k{number}"] = 1  # type: ignore[assignment]
        kept += len(expected) - 1
        refused += 21 - len(expected)
        for seen in ann.everywhere():
            # Nothing acknowledged is missing, and nothing refused is seen.
            assert (seen["principal"], seen["data"]) == ("ann", expected)
        assert browsers(site, like=old).is_nobody()
    figure(
        f"4 login racing with 20 writes: {kept} acknowledged, 0 lost, {refused} answered 503, "
        f"0 of them seen, {rounds} rounds"
    )


def test_a_rotation_keeps_the_principal_and_ends_the_old_cookie(
    site: Site, browsers: Browsers
) -> None:
    ann = browsers(site)
    ann.put("basket", "tea")
    ann.login("ann", "s1")
    for at in SERVERS:
        old = browsers(site, like=ann)
        ann.rotate(at)
        assert ann.cookie != old.cookie
        assert old.is_nobody()
        assert {seen["principal"] for seen in ann.everywhere()} == {"ann"}
    assert ann.read()["data"] == {"basket": "tea"}


def test_a_login_over_another_principal_starts_empty(site: Site, browsers: Browsers) -> None:
    ann = browsers(site)
    ann.put("basket", "tea")
    ann.login("ann", "s1")
    ann.login("bob", "s2")
    assert (ann.read("s3")["principal"], ann.read("s3")["data"]) == ("bob", {})


def test_a_login_whose_answer_got_lost_locks_nobody_out(site: Site, browsers: Browsers) -> None:
    ann = browsers(site)
    ann.put("basket", "tea", "s1")
    lost = browsers(site, like=ann)
    lost.login("ann", "s1")  # the answer never reaches ann's jar
    assert ann.is_nobody()
    ann.login("ann", "s2")
    assert ann.read("s3")["principal"] == "ann"
    ann.put("more", 1, "s3")
    assert ann.read("s1")["data"]["more"] == 1


# --- 5. takeover race -----------------------------------------------------------------------------

Race = Callable[[Callable[[], httpx.Response], Callable[[], httpx.Response]], list[httpx.Response]]


def attacker_first(
    attack: Callable[[], httpx.Response], victim: Callable[[], httpx.Response]
) -> list[httpx.Response]:
    return [attack(), victim()]


def victim_first(
    attack: Callable[[], httpx.Response], victim: Callable[[], httpx.Response]
) -> list[httpx.Response]:
    answer = victim()
    return [attack(), answer]


def overlapping(
    attack: Callable[[], httpx.Response], victim: Callable[[], httpx.Response]
) -> list[httpx.Response]:
    return at_once(attack, victim)


ATTACKS = {
    "rotate": ("POST", "/api/rotate"),
    "login": ("POST", "/api/login/mallory"),
    "write": ("PUT", "/api/session/planted"),
    "login as the victim": ("POST", "/api/login/ann"),
}


@pytest.mark.parametrize(
    ("race", "rounds"),
    [(attacker_first, 2), (victim_first, 2), (overlapping, 15)],
    ids=["attacker first", "victim first", "overlapping"],
)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_planted_cookie_never_shows_what_came_after_the_victims_login(
    site: Site, browsers: Browsers, figure: Figure, race: Race, rounds: int, attack: str
) -> None:
    method, path = ATTACKS[attack]
    body = {"json": 1} if method == "PUT" else {}
    logged_in = 0
    for number in range(rounds):
        attacker = browsers(site)
        attacker.put("planted", number, "s2")
        planted = browsers(site, like=attacker)  # keeps the cookie from before
        victim = browsers(site, like=attacker)
        _, login = race(
            partial(attacker.ask, method, path, at="s2", **body),
            partial(victim.ask, "POST", "/api/login/ann", at="s1"),
        )
        if login.status_code == 503:  # it must say so; the browser tries again
            victim.login("ann", "s1")
        else:
            assert login.status_code == 200
            logged_in += 1
        victim.put("secret", f"s{number}", "s3")
        assert victim.read("s2")["principal"] == "ann"
        for spy in (attacker, planted):
            for seen in spy.everywhere():
                assert "secret" not in seen["data"]
                if attack != "login as the victim":  # who knows ann's password is ann
                    assert seen["principal"] != "ann"
    figure(
        f"5 planted cookie, {attack}, {race.__name__.replace('_', ' ')}: 0 of {rounds} saw the "
        f"victim ({logged_in} logged in at the first try)"
    )


def test_a_cookie_planted_from_another_server_is_nobody_there(
    sites: dict[str, Site], browsers: Browsers
) -> None:
    site = sites["sticky"]
    attacker, victim = browsers(site), browsers(site)
    attacker.put("planted", 1)
    while victim.read()["server"] == attacker.read()["server"]:
        victim = browsers(site)
    assert attacker.cookie is not None
    victim.cookie = attacker.cookie
    victim.login("ann")
    victim.put("secret", 1)
    assert victim.read()["data"] == {"secret": 1}
    assert attacker.read()["principal"] is None
    assert attacker.read()["data"] == {"planted": 1}


# --- 10. everywhere -------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "cluster", "redis", "sqlite", "postgresql"])
def reaching_site(request: pytest.FixtureRequest, sites: dict[str, Site]) -> Site:
    """Strategies that see every session; sticky cannot, and PROMISES says so."""
    return sites[request.param]


def test_sign_out_everywhere_leaves_nobody_who_was_signed_in_before(
    reaching_site: Site, browsers: Browsers, figure: Figure
) -> None:
    site, ended, racing_alive = reaching_site, 0, 0
    for rounds in range(1, 6):
        ann, bob = f"ann{rounds}", f"bob{rounds}"
        sessions = [browsers(site) for _ in range(5)]
        for browser, at in zip(sessions, cycle(SERVERS), strict=False):
            browser.put("basket", 1, at)
            browser.login(ann, at)
        other, late = browsers(site), browsers(site)
        other.login(bob, "s1")
        before = [browsers(site, like=browser) for browser in sessions]
        assert len(sessions[0].done("GET", "/api/sessions", at="s2").json()) == 5
        everywhere, login = at_once(
            lambda browser=sessions[0]: browser.ask("POST", "/api/logout-everywhere", at="s3"),
            lambda late=late, ann=ann: late.ask("POST", f"/api/login/{ann}", at="s1"),
        )
        assert everywhere.status_code == 200
        assert login.status_code in {200, 503}
        for browser in before:
            assert browser.is_nobody()
            ended += 1
        assert {seen["principal"] for seen in other.everywhere()} == {bob}
        alive = {seen["principal"] for seen in late.everywhere()}
        assert len(alive) == 1  # every server says the same of the one who was logging in
        racing_alive += alive == {ann}
        left = late.done("GET", "/api/sessions", at="s2").json()
        assert len(left) == (alive == {ann})
    figure(
        f"10 everywhere: {ended} of {ended} anonymous on every server, bob untouched; of "
        f"{rounds} logins meanwhile {racing_alive} came after"
    )


def test_sign_out_everywhere_catches_sessions_that_rotate_meanwhile(
    reaching_site: Site, browsers: Browsers, figure: Figure
) -> None:
    site, rounds, rotated, cookies = reaching_site, 5, 0, 0
    for number in range(rounds):
        principal = f"eve{number}"
        first = browsers(site)
        first.login(principal)
        rotating = [browsers(site) for _ in range(4)]
        for browser in rotating:
            browser.login(principal)
        every_cookie: list[Browser] = []

        def rotate(browser: Browser, seen: list[Browser] = every_cookie) -> int:
            moved = 0
            for at in SERVERS * 2:
                seen.append(browsers(site, like=browser))
                answer = browser.ask("POST", "/api/rotate", at=at)
                assert answer.status_code in {200, 503}
                moved += sets_our_cookie(answer)
            seen.append(browsers(site, like=browser))
            return moved

        _, *moved = at_once(
            lambda first=first: first.done("POST", "/api/logout-everywhere", at="s2"),
            *(partial(rotate, browser) for browser in rotating),
        )
        assert all(browser.is_nobody() for browser in every_cookie)
        rotated += sum(moved)  # type: ignore[arg-type]
        cookies += len(every_cookie)
    figure(
        f"10 everywhere while others rotate: 0 of {cookies} cookies alive ({rotated} rotations "
        f"during {rounds} sign-outs)"
    )
