"""`session.fresh()`: what another server has just changed is seen, in threads and on loops."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from test_near import Near
from visits import KEY

from samesession import Session
from samesession._random import random_bytes
from samesession.commits import Tools
from samesession.counts import Counts
from samesession.errors import NotSavedError, RetryableError, StoreUnavailableError
from samesession.lifecycle import Lifecycle
from samesession.settings import Limits
from samesession.testing import now_ms
from samesession.token import Signer


class Suspending:
    """A layer whose store waits on an event loop."""

    suspends = True

    def __init__(self, store: Any) -> None:
        self._store = store
        self.lags = store.lags
        self.limits = store.limits

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._store, verb)

        async def waited(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            return await call(*args, **kwargs)

        return waited


class Site:
    """A server with a near cache, another one without, and one visitor's cookie."""

    def __init__(self, kind: str) -> None:
        self.near = Near()
        self.counts = Counts()
        tools = Tools(Signer((KEY,)), Limits(), self.counts, now_ms, random_bytes)
        store = self.near.cache
        self.here = Lifecycle(Suspending(store) if kind == "loop" else store, tools)  # type: ignore[arg-type]
        self.elsewhere = Lifecycle(self.near.authority, tools)
        self.cookie: bytes | None = None

    async def visit(self, core: Lifecycle, **values: Any) -> Session:
        session = await core.open(self.cookie)
        session.update(values)
        return await self.finish(core, session)

    async def finish(self, core: Lifecycle, session: Session) -> Session:
        await core.finish(session)
        if session._life.cookie is not None:
            self.cookie = session._life.cookie.encode() or None
        return session

    async def signed_in(self) -> Session:
        session = await self.here.open(None)
        session.login("ann")
        session["stock"] = 1
        session["list"] = [1]
        return await self.finish(self.here, session)


@pytest.fixture(params=["loop", "threads"])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(request.param)


pytestmark = pytest.mark.anyio


async def test_what_another_server_has_just_changed_is_seen(site: Site) -> None:
    await site.signed_in()
    session = await site.here.open(site.cookie)
    thief = site.cookie
    await site.visit(site.elsewhere, stock=0, more=True)  # its news is late
    site.cookie = thief
    assert session["stock"] == 1
    await session.fresh()
    assert session == {"stock": 0, "list": [1], "more": True}
    assert not site.here.uncommitted(session)
    await site.finish(site.here, session)
    assert session._life.cookie is not None  # and the browser knows
    assert site.near.authority.asked["commit"] == 2


async def test_own_changes_that_are_not_committed_stay_on_top(site: Site) -> None:
    await site.signed_in()
    session = await site.here.open(site.cookie)
    session["mine"] = 1
    session["list"].append(2)
    del session["stock"]
    await site.visit(site.elsewhere, stock=0, theirs=1)
    await session.fresh()
    assert session == {"mine": 1, "theirs": 1, "list": [1, 2]}
    session["list"].append(3)
    await site.finish(site.here, session)
    found = await site.elsewhere.open(site.cookie)
    assert found == {"mine": 1, "theirs": 1, "list": [1, 2, 3]}


async def test_a_session_that_was_ended_meanwhile_is_anonymous_and_keeps_nothing(
    site: Site,
) -> None:
    await site.signed_in()
    session = await site.here.open(site.cookie)
    assert session.principal == "ann"
    away = await site.elsewhere.open(site.cookie)
    away.logout()
    await site.elsewhere.finish(away)
    assert session.principal == "ann"  # as it was at its first access
    await session.fresh()
    assert session.principal is None
    assert session == {}
    assert session.is_new
    session["late"] = 1
    with pytest.raises(NotSavedError):
        await site.here.finish(session)


async def test_a_store_that_is_down_is_said_and_no_copy_stands_in(site: Site) -> None:
    site.near.cache._stale_ms = 30_000
    await site.signed_in()
    session = await site.here.open(site.cookie)
    site.near.authority.down = True
    with pytest.raises(StoreUnavailableError):
        await session.fresh()
    with pytest.raises(StoreUnavailableError):
        session["stock"]
    with pytest.raises(StoreUnavailableError):
        await site.here.finish(session)  # 503, though the handler swallowed it
    site.near.authority.down = False
    await session.fresh()
    assert session["stock"] == 1
    await site.here.finish(session)


async def test_without_a_record_there_is_nothing_to_load(site: Site) -> None:
    session = await site.here.open(None)
    await session.fresh()
    session["a"] = 1
    await site.finish(site.here, session)
    assert site.near.authority.asked["load"] == 0
    leaving = await site.here.open(site.cookie)
    leaving.login("ann")
    before = site.near.authority.asked["load"]
    await leaving.fresh()
    assert leaving.principal == "ann"
    assert site.near.authority.asked["load"] == before
    await site.finish(site.here, leaving)
    assert (await site.elsewhere.open(site.cookie)).principal == "ann"


async def test_a_lost_commit_is_noticed(site: Site) -> None:
    await site.signed_in()
    before = (await site.elsewhere.open(site.cookie))._life.record
    assert before is not None
    await site.visit(site.here, stock=5)
    session = await site.here.open(site.cookie)
    site.near.authority.lose(before)
    await session.fresh()
    assert session["stock"] == 1
    assert site.counts["lost"] == 1


async def test_on_a_loop_whoever_forgets_to_await_is_told() -> None:
    site = Site("loop")
    await site.signed_in()
    session = await site.here.open(site.cookie)
    session["a"] = 1
    forgotten = session.fresh()
    with pytest.raises(RetryableError, match="await session"):
        session["stock"]
    with pytest.raises(RetryableError, match="await session"):
        await site.here.finish(session)  # nothing is kept, and it is not said to be
    await forgotten
    assert session["stock"] == 1
    await site.finish(site.here, session)


def test_in_a_thread_the_call_is_enough() -> None:
    site = Site("threads")
    asyncio.run(_signed_in(site))
    session = asyncio.run(_opened(site))
    asyncio.run(_changed(site))
    site.near.beat()
    session.fresh()
    assert session["stock"] == 0


async def _signed_in(site: Site) -> None:
    await site.signed_in()


async def _opened(site: Site) -> Session:
    return await site.here.open(site.cookie)


async def _changed(site: Site) -> None:
    await site.visit(site.elsewhere, stock=0)
