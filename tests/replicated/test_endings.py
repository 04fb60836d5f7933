"""What ended stays over after the store forgot it: a failover, a restored backup."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from samesession._bridge import ready
from samesession.lab import engines
from samesession.lab.engines import Engine, ask
from samesession.record import Ended, Key, Mark, Reason, Record
from samesession.store import Store
from samesession.stores.redis_endings import MOST, REMEMBERED_MS, Endings, identity_in
from samesession.strategies import strategy_of
from samesession.testing import changed, created, ending, fresh_key, now_ms

HERE = ("127.0.0.1", 6379)
THERE = ("127.0.0.1", 6380)


class Clock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


def remembered(number: int = 0) -> tuple[Endings, Clock, list[str]]:
    clock, counted = Clock(), list[str]()
    endings = Endings("p:s:", clock, counted.append)
    for key in range(number):
        endings.remember([Key(str(key))], Mark(Reason.LOGOUT, 5, b"12345678"))
    return endings, clock, counted


# -- what is remembered, and who is told -----------------------------------------------------------


def test_an_ending_is_remembered_for_ten_minutes() -> None:
    endings, clock, _ = remembered(1)
    assert endings.of(Key("0")) == ending_of(5)
    assert endings.of(Key("1")) is None
    clock.ms += REMEMBERED_MS
    assert endings.of(Key("0")) is not None
    clock.ms += 1
    assert endings.of(Key("0")) is None
    assert endings.due(HERE, "a") == []


def ending_of(at_ms: int) -> object:
    from samesession.record import Ending

    return Ending(Reason.LOGOUT, at_ms, b"12345678")


def test_the_newest_endings_are_kept() -> None:
    endings, _, _ = remembered(MOST + 3)
    assert len(endings) == MOST
    assert endings.of(Key("2")) is None
    assert endings.of(Key("3")) is not None


def test_the_first_mark_stands() -> None:
    endings, _, _ = remembered(1)
    endings.remember([Key("0")], Mark(Reason.REVOKED, 9, b"87654321"))
    assert endings.of(Key("0")) == ending_of(5)


def test_a_server_is_told_once_and_again_when_it_is_another_one() -> None:
    endings, _, _ = remembered(2)
    first = endings.due(HERE, "a")
    assert [command[3] for command in first] == ["p:s:0", "p:s:1"]
    assert endings.due(HERE, "a") == []
    assert len(endings.due(THERE, "a")) == 2  # promoted
    assert len(endings.due(HERE, "b")) == 2  # restarted


def test_what_came_back_is_counted() -> None:
    endings, _, counted = remembered(1)
    endings.told([b"e", b"mark", b"alive", b"0"])
    endings.told([b"e", b"mark"])
    assert counted == []
    endings.told([b"e", b"mark", b"alive", b"1"])
    assert counted == ["ended_again"]


def test_a_server_is_known_by_what_it_holds() -> None:
    assert identity_in(b"role:master\r\nmaster_replid:ab12\r\nmaster_replid2:00\r\n") == "ab12"
    assert identity_in("x") == ""


# -- a backup that is restored ---------------------------------------------------------------------


def restored(engine: Engine) -> None:
    """Go back to the last snapshot, as after a restore."""
    engine.kill()
    engine.restart()


def on_both_ways(url: str, work: object) -> None:
    async def once(store: Store) -> None:
        try:
            await work(store, counted)  # type: ignore[operator]
        finally:
            await store.close()

    counted: Counter[str] = Counter()
    strategy = strategy_of(url)
    asyncio.run(once(strategy.open_loop(lambda name: counted.update([name]))))
    counted.clear()
    ready(once(strategy.open_threads(lambda name: counted.update([name]))))


def test_a_restored_backup_brings_back_nobody_who_left(tmp_path: Path) -> None:
    """One server that heard of it is enough: another one does not find the session either."""

    async def work(store: Store, counted: Counter[str]) -> None:
        ann, bob, moved, everywhere = (fresh_key() for _ in range(4))
        for key, principal in ((ann, "ann"), (bob, "bob"), (moved, "eve"), (everywhere, "joe")):
            await store.admit(principal, key, now_ms() + 3_600_000)
            await store.commit(created(key, principal, n=b"1"))
        assert ask(engine.port, "SAVE") == "+OK\r\n"
        mark = await store.end(ann, ending())
        await store.end(moved, ending(Reason.ROTATED, fresh_key()))
        assert await store.end_all("joe", ending()) == 1
        restored(engine)
        assert ask(engine.port, "EXISTS", f"samesession:s:{ann}") == ":1\r\n"
        assert "n" in ask(engine.port, "HKEYS", f"samesession:s:{ann}")  # it is back
        await store.load(fresh_key())  # whatever this server is asked first
        for key in (ann, moved, everywhere):
            # As another server would find it: only its mark is there.
            assert ask(engine.port, "HEXISTS", f"samesession:s:{key}", "e") == ":1\r\n"
            assert (
                ask(engine.port, "HGET", f"samesession:s:{key}", "t") == "$-1\r\n" or key == moved
            )
            found = await store.load(key)
            assert isinstance(found, Mark)
            outcome = await store.commit(changed(key, n=b"2"))
            assert isinstance(outcome, Ended)
            assert outcome.mark.reason is found.reason
        again = await store.load(ann)
        assert isinstance(again, Mark)
        assert (again.reason, again.at_ms, again.token) == (mark.reason, mark.at_ms, mark.token)
        assert isinstance(await store.load(bob), Record)
        assert counted["ended_again"] >= 2

    settings = {"dir": str(tmp_path), "dbfilename": "backup.rdb"}
    with engines.start(settings=settings) as engine:
        on_both_ways(f"{engine.url}?deadline=10s", work)


def test_a_session_that_comes_back_on_a_running_server_is_ended_when_it_is_seen(
    tmp_path: Path,
) -> None:
    async def work(store: Store, counted: Counter[str]) -> None:
        ann, bob = fresh_key(), fresh_key()
        for key in (ann, bob):
            await store.commit(created(key, n=b"1"))
        assert ask(engine.port, "SAVE") == "+OK\r\n"
        await store.end(ann, ending())
        await store.end(bob, ending())
        assert ask(engine.port, "DEBUG", "RELOAD", "NOSAVE") == "+OK\r\n"
        assert isinstance(await store.load(ann), Mark)
        outcome = await store.commit(changed(bob, n=b"2"))
        assert isinstance(outcome, Ended)
        assert counted["ended_again"] == 2
        assert isinstance(await store.load(bob), Mark)

    settings = {
        "dir": str(tmp_path),
        "dbfilename": "backup.rdb",
        "enable-debug-command": "yes",
    }
    with engines.start(settings=settings) as engine:
        on_both_ways(f"{engine.url}?deadline=10s", work)
