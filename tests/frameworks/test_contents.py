"""Typed contents and logins by a key, with each framework's own session object."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

import pytest

from frameworks.small import SMALL, Ask, Over, Said, Use
from samesession import Cookie, Sessions, migrates

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def over_django(_: Sessions, use: Use) -> AsyncIterator[Ask]:
    """Django has its sessions by its settings."""
    import_module("frameworks.django_site")
    from django.contrib.sessions.middleware import SessionMiddleware
    from django.http import HttpResponse
    from django.test import RequestFactory

    view = SessionMiddleware(lambda request: HttpResponse(use(request.session, request.path)))

    async def ask(path: str, Cookie: str = "") -> Said:  # noqa: N803  (the header's name)
        answer = view(RequestFactory().get(path, HTTP_COOKIE=Cookie))
        headers = {name.lower(): value for name, value in answer.headers.items()}
        if answer.cookies:
            headers["set-cookie"] = answer.cookies.output(header="").strip()
        return Said(headers, answer.content.decode())

    yield ask


def made(**more: Any) -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False), **more)


@dataclass
class Cart:
    """Of the build that is being replaced."""

    items: list[str] = field(default_factory=list)


@dataclass
class NewCart:
    """Of the build that is being rolled out."""

    __session_key__: ClassVar[str] = "cart"
    items: list[str] = field(default_factory=list)
    voucher: str = ""


@migrates(NewCart, 1, 2)
def a_voucher_for_everybody(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "voucher": "WELCOME"}


def build(kind: Any) -> Use:
    def use(session: Any, path: str) -> str:
        cart = session.as_(kind)
        if path != "/look":
            cart.items.append(path[1:])  # noticed, like every nested change
        return repr(cart)

    return use


@pytest.mark.parametrize("over", [*SMALL.values(), over_django])
async def test_a_rolling_deployment_keeps_typed_contents_both_ways(over: Over) -> None:
    sessions = made()
    async with over(sessions, build(Cart)) as old, over(sessions, build(NewCart)) as new:
        seen = await old("/tea")
        seen = await new("/look", Cookie=(cookie := seen.cookie))
        assert seen.text == "NewCart(items=['tea'], voucher='WELCOME')"
        assert "set-cookie" not in seen.headers, "a migration alone stores nothing"
        seen = await new("/milk", Cookie=cookie)
        assert (await old("/look", Cookie=seen.cookie)).text == "Cart(items=['tea', 'milk'])"
        seen = await old("/bread", Cookie=seen.cookie)
        seen = await new("/look", Cookie=seen.cookie)
        assert seen.text == "NewCart(items=['tea', 'milk', 'bread'], voucher='WELCOME')"


def theirs(session: Any, path: str) -> str:
    """An application that marks its login itself, as thousands do."""
    match path[1:]:
        case "login":
            session["user_id"] = 7
        case "logout":
            session.pop("user_id", None)
        case "basket":
            session.setdefault("basket", []).append("tea")
    return f"{session.get('user_id')} {session.get('basket')}"


@pytest.mark.parametrize("over", SMALL.values())
async def test_a_key_that_names_the_user_makes_logins_and_logouts(over: Over) -> None:
    sessions = made(principal_key="user_id")
    async with over(sessions, theirs) as ask:
        planted = (await ask("/basket")).cookie
        said = await ask("/login", Cookie=planted)
        assert (await ask("/look", Cookie=said.cookie)).text == "7 ['tea']"
        assert (await ask("/look", Cookie=planted)).text == "None None", "from before the login"
        assert len(await sessions.held_by("7")) == 1
        gone = await ask("/logout", Cookie=said.cookie)
        assert gone.text == "None ['tea']"
        assert (await ask("/look", Cookie=said.cookie)).text == "None None", "ended everywhere"
        assert (await ask("/look", Cookie=gone.cookie)).text == "None ['tea']"
        assert await sessions.held_by("7") == []
