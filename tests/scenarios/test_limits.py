"""PROMISES scenario 9 and L5: a principal has as many sessions as allowed, whatever races."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from itertools import cycle

import httpx
import pytest

from scenarios.browser import Browser
from scenarios.conftest import Browsers, Figure
from scenarios.site import PATIENT, PROVE, Site, at_once

SERVERS = ("s1", "s2", "s3")
ROUNDS = int(os.environ.get("SAMESESSION_ROUNDS", "60" if PROVE else "8"))
EVERY = [(kind, way) for kind in (*PATIENT, "mariadb") for way in ("reject", "evict-oldest")]
EVERY.remove(("memcached", "reject"))  # it has no index, and says so (tests/test_quota.py)
EVERY.remove(("memcached", "evict-oldest"))
IN_CI = [
    ("redis", "reject"),
    ("redis", "evict-oldest"),
    ("postgresql", "reject"),
    ("cluster", "evict-oldest"),
]


@pytest.fixture(scope="module", params=EVERY if PROVE else IN_CI, ids=" ".join)
def limited(request: pytest.FixtureRequest) -> Iterator[tuple[Site, str]]:
    """Three servers that allow a principal two sessions."""
    kind, way = request.param
    env = {"SAMESESSION_MAX_SESSIONS": "2", "SAMESESSION_ON_LIMIT": way}
    with Site(PATIENT.get(kind, f"{kind}://"), env=env) as site:
        yield site, way
        assert not site.complaints()


def alive(browsers: list[Browser]) -> list[Browser]:
    """Those that are signed in, on every server."""
    found = []
    for browser in browsers:
        seen = {answer["principal"] for answer in browser.everywhere()}
        assert len(seen) == 1
        found += [] if seen == {None} else [browser]
    return found


@pytest.mark.timeout(60 if ROUNDS <= 8 else 15 * ROUNDS)
def test_six_logins_at_once_leave_two_and_four_say_why(
    limited: tuple[Site, str], browsers: Browsers, figure: Figure
) -> None:
    site, way = limited
    told, before = 0, site.all_counts()["displaced"]
    rounds = ROUNDS // 3 if "near=" in site.store_url else ROUNDS  # its ends take a lease each
    for number in range(rounds):
        ann = f"ann{number}"
        six = [browsers(site) for _ in range(6)]
        six[0].put("basket", "tea")
        answers: list[httpx.Response] = at_once(
            *(
                partial(browser.ask, "POST", f"/api/login/{ann}", at=at)
                for browser, at in zip(six, cycle(SERVERS), strict=False)
            )
        )
        refused = [answer for answer in answers if answer.status_code != 200]
        for answer in refused:
            assert answer.status_code == 409
            why = "signed in 2 times already" if way == "reject" else "overtaken by newer sign-ins"
            assert why in answer.text
            assert "retry-after" not in answer.headers
        if way == "reject":
            assert len(refused) == 4
        told += len(refused)
        live = alive(six)
        assert len(live) == 2
        # Who came in and had to make room is told by its own next page, on any server.
        displaced = [b for b, a in zip(six, answers, strict=True) if a.is_success and b not in live]
        for browser in displaced:
            assert {seen.get("ended") for seen in browser.everywhere()} == {"displaced"}
        told += len(displaced)
        assert len(refused) + len(displaced) == 4
        assert len(live[0].done("GET", "/api/sessions", at="s3").json()) == 2
        if answers[0].status_code == 409:  # what it had before is untouched
            assert six[0].read("s2")["data"] == {"basket": "tea"}

        # A rotation, and a login over one's own session, need no room; a logout makes some.
        live[0].rotate("s1")
        live[0].login(ann, "s2")
        assert len(alive(live)) == 2
        live[1].logout("s3")
        late = browsers(site)
        late.login(ann, "s1")
        assert len(alive([live[0], late])) == 2
        for browser in (*six, late):
            browser.close()
    counted = site.all_counts()["displaced"] - before
    assert counted >= 4 * rounds if way == "evict-oldest" else counted == 0
    figure(
        f"9 limit 2, {way}, six logins at once over three servers: exactly two live in "
        f"{rounds} of {rounds} rounds, {told} of {4 * rounds} told why, "
        f"{counted} counted as displaced"
    )


def test_one_login_more_ends_the_oldest_or_is_refused(
    limited: tuple[Site, str], browsers: Browsers
) -> None:
    site, way = limited
    three = [browsers(site) for _ in range(3)]
    statuses = [
        browser.ask("POST", "/api/login/eve", at=at).status_code
        for browser, at in zip(three, SERVERS, strict=True)
    ]
    if way == "reject":
        assert statuses == [200, 200, 409]
        assert alive(three) == three[:2]
    else:
        assert statuses == [200, 200, 200]
        assert alive(three) == three[1:]
        assert site.all_counts()["displaced"] >= 1
