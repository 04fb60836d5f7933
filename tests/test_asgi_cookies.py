"""Any Cookie header whatever: our value is found, or the request is anonymous; never an error."""

from __future__ import annotations

import random
import string
import time

import pytest
from asgi_visits import App, Visitor, app_of
from visits import World, sets

pytestmark = pytest.mark.anyio


@pytest.fixture
def world() -> World:
    return World()


async def data_for(app: App, *cookies: bytes) -> bytes:
    answer = await Visitor(app).asks(cookies=cookies)
    assert (answer.status, answer.error) == (200, None)
    return answer.body


@pytest.fixture
async def ours(world: World) -> bytes:
    """A valid pair."""
    visitor = Visitor(app_of(world, sets(a=1)))
    await visitor.asks()
    return f"__Host-session={visitor.cookie}".encode()


async def test_our_cookie_is_found_among_others(world: World, ours: bytes) -> None:
    app = app_of(world, dict)
    many = b"; ".join(b"name%d=value%d" % (n, n) for n in range(500))
    for header in (
        ours,
        ours + b";",
        b" " + ours + b" ",
        b"a=1; " + ours,
        b"a=1;" + ours + b";b=2",
        b"a=1;\t" + ours + b"\t;b=2",
        b"; ;;" + ours,
        many + b"; " + ours + b"; " + many,
        b"x__Host-session=1; " + ours,
        b"xsession=1; session=2; " + ours,
        b"__host-session=" + b"x" * 77 + b"; " + ours,
        b"a=__Host-session=1; " + ours,
        b"\xd1\x88=\xff\xfe; " + ours,
        b'a="; ' + ours,
        ours + b"; " + ours,
        b"__Host-session; " + ours,
        b"x" * 8192 + b"=1; " + ours,
    ):
        assert await data_for(app, header) == b"{'a': 1}", header[:100]
    assert await data_for(app, b"a=1", ours, b"b=2") == b"{'a': 1}"
    assert await data_for(app, ours, ours) == b"{'a': 1}"
    assert not world.counted("malformed", "forged", "ambiguous")


async def test_two_different_cookies_are_anonymous_and_counted(world: World, ours: bytes) -> None:
    app = app_of(world, dict)
    planted = b"__Host-session=planted"
    for headers in (
        (ours + b"; " + planted,),
        (planted + b"; " + ours,),
        (ours, planted),
        (planted, ours),
        (ours + b"; __Host-session=",),
        (b"__Host-session=; " + ours,),
        (planted + b"; " + ours + b"; __Host-session=third",),
        (ours + b"; " + ours, planted),
    ):
        before = world.counted("ambiguous").get("ambiguous", 0)
        assert await data_for(app, *headers) == b"{}", headers
        assert world.counted("ambiguous") == {"ambiguous": before + 1}
    assert world.store.calls == ["commit"]


async def test_look_alikes_are_not_ours(world: World, ours: bytes) -> None:
    app, value = app_of(world, dict), ours.partition(b"=")[2]
    for header in (
        b"x" + ours,
        b"__host-session=" + value,
        b"__HOST-SESSION=" + value,
        b"session=" + value,
        b"__Host-session =" + value,
        b"__Host-session\x00=" + value,
        b"a=" + ours,
        b"a=b " + ours,
        b"a=b," + ours,
        b"$Version=1, " + ours,
        b"\xa0" + ours,
        value,
        b"",
        b"=" + value,
        b";",
    ):
        assert await data_for(app, header) == b"{}", header[:100]
    assert not world.counted("malformed", "ambiguous")


async def test_a_value_that_is_not_exactly_ours_is_malformed(world: World, ours: bytes) -> None:
    app, value = app_of(world, dict), ours.partition(b"=")[2]
    changed = [b'"' + value + b'"', value + b" x", b"=" + value, value + b",", value + b"\xa0"]
    for bad in changed:
        assert await data_for(app, b"__Host-session=" + bad) == b"{}", bad
    assert world.counted("malformed") == {"malformed": len(changed)}


async def test_twenty_thousand_generated_cookie_headers_harm_nobody(
    world: World, ours: bytes
) -> None:
    dice = random.Random(7)
    pieces = [ours, b"__Host-session=", b"; __Host-session=", b"__Host-session", b"="] * 5
    pieces += [b";", b"; ", b",", b'"', b" ", b"\x00", b"\xff", b"."]
    pieces += [b"a=1", b"session=", b"__host-session=x", b"\xd0\xb6", b"\r\n", b"x" * 8192]
    pieces += [character.encode() for character in string.printable]
    app = app_of(world, dict)
    found = 0
    for _ in range(20_000):
        headers = [
            b"".join(dice.choices(pieces, k=dice.randrange(1, 12)))
            for _ in range(dice.choice((1, 1, 1, 2)))
        ]
        found += await data_for(app, *headers) != b"{}"
    assert 0 < found < 10_000
    assert world.counted("malformed")["malformed"] > 1000


async def test_sixty_four_kilobytes_of_look_alikes_cost_little(world: World) -> None:
    codec = app_of(world)._codec
    for pair in (
        b"x__Host-session=",
        b"__Host-session=1;",
        b" __Host-session=",
        b"__Host-session=",
    ):
        header = pair * (65_536 // len(pair))
        began = time.perf_counter()
        assert len(codec.values(header)) <= 2
        assert time.perf_counter() - began < 0.2
    numbered = b";".join(b"__Host-session=%d" % n for n in range(3000))
    assert codec.values(numbered) == [b"0", b"1"]
