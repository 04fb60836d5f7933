"""The token by header, for programs and mobile clients; Django's is in `test_django_adopt`."""

from __future__ import annotations

from typing import Any

import pytest

from frameworks.small import SMALL, Over
from samesession import Carrier, Cookie, Sessions
from samesession.errors import ConfigError

pytestmark = pytest.mark.anyio


def changed(session: Any, path: str) -> str:
    if path == "/logout":
        session.logout()
    elif path == "/count":
        session["n"] = session.get("n", 0) + 1
    return str(session.get("n"))


@pytest.fixture(params=SMALL)
def over(request: pytest.FixtureRequest) -> Over:
    return SMALL[request.param]


def sessions_by(carrier: Carrier) -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False), carrier=carrier)


async def test_by_header_only(over: Over) -> None:
    async with over(sessions_by(Carrier.HEADER), changed) as ask:
        said, body = await ask("/count")
        assert body == "1"
        token = said["session-token"]
        assert "set-cookie" not in said
        assert (said["vary"], said["cache-control"]) == ("Session-Token", "no-store")
        said, body = await ask("/count", Session_Token=token)
        assert body == "2"
        assert said["session-token"] != token, "it carries the newer version"
        said, body = await ask("/read", Session_Token=token)
        assert body == "2"
        assert "session-token" not in said
        said, _ = await ask("/read", Cookie=f"session={token}")
        assert _ == "None", "cookies are not asked"
        said, _ = await ask("/logout", Session_Token=token)
        assert said["session-token"] == ""
        assert (await ask("/read", Session_Token=token))[1] == "None"


async def test_by_header_for_whoever_sends_it(over: Over) -> None:
    async with over(sessions_by(Carrier.BOTH), changed) as ask:
        said, _ = await ask("/count")
        assert "session-token" not in said
        assert said["vary"] == "Cookie, Session-Token"
        cookie = said["set-cookie"].partition(";")[0]
        said, _ = await ask("/count", Session_Token="")
        assert "set-cookie" not in said
        token = said["session-token"]
        assert (await ask("/count", Cookie=cookie, Session_Token=token))[1] == "2"
        assert (await ask("/count", Cookie=cookie))[1] == "2"


async def test_by_cookie_a_header_means_nothing(over: Over) -> None:
    async with over(sessions_by(Carrier.COOKIE), changed) as ask:
        said, _ = await ask("/count", Session_Token="")
        token = said["set-cookie"].partition(";")[0].partition("=")[2]
        assert (await ask("/read", Session_Token=token))[1] == "None"
        assert said["vary"] == "Cookie"


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="'cookie', 'header', 'both'"):
        Sessions.from_url("memory://", carrier="url")  # type: ignore[arg-type]
    env = {"SAMESESSION_URL": "memory://", "SAMESESSION_CARRIER": "header"}
    assert Sessions.from_env(env).carrier is Carrier.HEADER
