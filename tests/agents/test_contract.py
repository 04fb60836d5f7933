"""The contract on clusters of one and of three servers, blocking and not, any server each time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents.hosts import Host, on_loopback
from samesession import Sessions
from samesession.cluster import status
from samesession.lab.ports import Port
from samesession.record import Applied, Delta, Ended, Ending, Key, Mark, Outcome, Record, Version
from samesession.settings import Quota
from samesession.store import Store
from samesession.strategies import strategy_of
from samesession.testing import StoreContract


class AnyServer:
    """Each call goes to the next server, with the version that the browser's cookie would have."""

    lags = True
    limits = True

    def __init__(self, stores: list[Store]) -> None:
        self.suspends = stores[0].suspends
        self._stores = stores
        self._next = cycle(stores)
        self._seen: dict[Key, Version] = {}
        self._over: dict[Key, Mark] = {}
        self._touched: dict[Key, int] = {}

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        seen = at_least or self._seen.get(key)
        found = await next(self._next).load(key, at_least=seen)
        until = time.monotonic() + 5
        while isinstance(found, Record) and found.idle_until_ms < self._touched.get(key, 0):
            # A touch has no version: the other copies hear of it a moment later (S10).
            assert time.monotonic() < until
            found = await next(self._next).load(key, at_least=seen)
        while key in self._over and isinstance(found, Record) and time.monotonic() < until:
            # Only the end of a signed-in record is answered when everybody has heard it (S16).
            if found.origin.principal is not None:
                break
            found = await next(self._next).load(key, at_least=seen)
        known = self._over.get(key)
        if isinstance(found, Mark) and known is not None:
            return self._by_one_clock(known, found)
        return found

    @staticmethod
    def _by_one_clock(known: Mark, found: Mark) -> Mark:
        """Servers tell an end's time by their own clocks, which differ by what a frame takes."""
        if abs(found.at_ms - known.at_ms) < 1000:
            return replace(found, at_ms=known.at_ms)
        return found

    async def commit(self, delta: Delta) -> Outcome:
        outcome = await next(self._next).commit(delta)
        if isinstance(outcome, Ended):
            mark = self._over.setdefault(delta.key, outcome.mark)
            return Ended(self._by_one_clock(mark, outcome.mark))
        if isinstance(outcome, Applied):
            self._seen[delta.key] = outcome.commits[-1].version
            self._touched[delta.key] = outcome.idle_until_ms
        return outcome

    async def end(self, key: Key, ending: Ending) -> Mark:
        mark = await next(self._next).end(key, ending)
        return self._by_one_clock(self._over.setdefault(key, mark), mark)

    async def admit(
        self,
        principal: str,
        key: Key,
        until_ms: int,
        *,
        replaces: Key | None = None,
        quota: Quota | None = None,
    ) -> tuple[Key, ...] | None:
        store = next(self._next)
        return await store.admit(principal, key, until_ms, replaces=replaces, quota=quota)

    async def dismiss(self, principal: str, key: Key) -> None:
        await next(self._next).dismiss(principal, key)

    async def held_by(self, principal: str) -> list[Record]:
        return await next(self._next).held_by(principal)

    async def end_all(self, principal: str, ending: Ending, *, keep: Key | None = None) -> int:
        return await next(self._next).end_all(principal, ending, keep=keep)

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


class OfCluster(StoreContract):
    """Agents live as long as the class; stores come and go."""

    generated = 12
    servers: int

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _cluster(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with on_loopback(cls.servers, tmp_path_factory.mktemp("cluster")) as hosts:
            cls.hosts = hosts
            yield

    def open_loop(self) -> Store:
        return AnyServer([_opened(host, "open_loop") for host in self.hosts])

    def open_threads(self) -> Store:
        return AnyServer([_opened(host, "open_threads") for host in self.hosts])


class TestOneServer(OfCluster):
    servers = 1


class TestThreeServers(OfCluster):
    servers = 3


def test_threads_wait_until_their_server_has_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Port() as port:
        monkeypatch.setenv("SAMESESSION_LISTEN", port.address)
        url = f"cluster://{port.address}{tmp_path}?size=4MB"
        sessions = Sessions.from_url(url, keys=["a key of 32 bytes or more, for one"])
        try:
            sessions.blocking.ready()
            assert status.of(url)["ready"]
        finally:
            sessions.blocking.close()


def _opened(host: Host, name: str) -> Store:
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("SAMESESSION_SERVER", "SAMESESSION_LISTEN"):
            patch.setenv(variable, host.env[variable])
        store: Store = getattr(strategy_of(host.url), name)()
        return store
