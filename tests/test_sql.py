"""The SQL store over real databases: conflicts, deadlines, sweeping, and how it starts."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from tables import make_table, started

from samesession._bridge import ready
from samesession.errors import ConfigError, StoreUnavailableError
from samesession.lab.daemon import Daemon
from samesession.record import MARK_MS, Applied, Ended, Key, Mark, Reason, Record
from samesession.settings import Url
from samesession.store import Store
from samesession.stores import sql, sql_check
from samesession.stores.sql import SqlStore
from samesession.stores.sql_drivers import Target
from samesession.strategies import strategy_of
from samesession.testing import changed, created, ending, fresh_key, now_ms, values_of

DEADLINE_S = 0.25
THOUSANDS = 100_000 if os.environ.get("SAMESESSION_PROVE") == "1" else 10_000
SLACK_S = 1.5  # other people work on this machine; drivers alone would wait 2 s or for ever


@dataclass
class Database:
    url: str
    server: Daemon | None

    def threads(self, **parameters: object) -> SqlStore:
        return self._opened(strategy_of(self._with(parameters)).open_threads())

    def loop(self, **parameters: object) -> SqlStore:
        return self._opened(strategy_of(self._with(parameters)).open_loop())

    def _with(self, parameters: dict[str, object]) -> str:
        return self.url + "?" + "&".join(f"{k}={v}" for k, v in parameters.items())

    @staticmethod
    def _opened(store: Store) -> SqlStore:
        assert isinstance(store, SqlStore)
        return store

    def run(self, statement: str) -> Any:
        """One statement past the store."""

        def work(connection: Connection) -> Any:
            done = connection.exec_driver_sql(statement)
            return done.all() if done.returns_rows else done.rowcount

        return sql_check.once(Target.of(Url.parse(self.url)), work)


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mariadb"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with started(request.param) as (url, server):
        yield Database(url, server)


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Database]:
    """One that this test alone may hurt."""
    with started(request.param) as (url, server):
        yield Database(url, server)


# --- conflicts ------------------------------------------------------------------------------------


def test_parallel_writes_of_threads_all_survive(database: Database) -> None:
    store, key, writers, each = database.threads(deadline="10s"), fresh_key(), 8, 12
    ready(store.commit(created(key, seed=b"0")))

    def write(writer: int) -> None:
        for number in range(each):
            delta = changed(key, **{f"{writer}-{number}": b"1"})
            assert isinstance(ready(store.commit(delta)), Applied)

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write, range(writers)))
    record = ready(store.load(key))
    assert isinstance(record, Record)
    assert len(record.values) == 1 + writers * each
    assert record.version.number == 1 + writers * each
    ready(store.close())


def test_parallel_writes_of_tasks_all_survive(database: Database) -> None:
    async def run() -> None:
        store, key = database.loop(deadline="10s"), fresh_key()
        await store.commit(created(key, seed=b"0"))
        deltas = [changed(key, **{f"k{number}": b"1"}) for number in range(40)]
        outcomes = await asyncio.gather(*map(store.commit, deltas))
        assert all(isinstance(outcome, Applied) for outcome in outcomes)
        assert len(await values_of(store, key) or ()) == 41
        await store.close()

    asyncio.run(run())


def test_an_end_beats_parallel_writes(database: Database) -> None:
    store = database.threads(deadline="10s")
    for _ in range(5):
        key = fresh_key()
        ready(store.commit(created(key, seed=b"0")))
        together = threading.Barrier(6)

        def write(number: int, key: Key = key, together: threading.Barrier = together) -> object:
            together.wait(20)
            return ready(store.commit(changed(key, **{f"k{number}": b"1"})))

        def end(key: Key = key, together: threading.Barrier = together) -> object:
            together.wait(20)
            return ready(store.end(key, ending()))

        with ThreadPoolExecutor(6) as pool:
            writes = [pool.submit(write, number) for number in range(5)]
            assert isinstance(pool.submit(end).result(), Mark)
        assert {type(one.result()) for one in writes} <= {Applied, Ended}
        assert isinstance(ready(store.load(key)), Mark)
    ready(store.close())


def test_a_sign_out_everywhere_ends_what_rotates_and_logs_in_beside_it(database: Database) -> None:
    store, ann = database.threads(deadline="10s"), f"ann-{secrets.token_hex(4)}"
    keys = [fresh_key() for _ in range(12)]
    for key in keys:
        ready(store.commit(created(key, ann)))
    successors: list[Key] = []

    def rotate(key: Key) -> None:
        for _ in range(4):
            successor = fresh_key()
            ready(store.commit(created(successor, ann)))
            mark = ready(store.end(key, ending(Reason.ROTATED, successor)))
            if mark.successor != successor:  # ended by somebody else: its own new one goes, too
                ready(store.end(successor, ending()))
                return
            successors.append(successor)
            key = successor

    with ThreadPoolExecutor(8) as pool:
        rotations = [pool.submit(rotate, key) for key in keys]
        everywhere = pool.submit(lambda: ready(store.end_all(ann, ending(Reason.REVOKED))))
        for one in (*rotations, everywhere):
            one.result()
    alive = [record.key for record in ready(store.held_by(ann))]
    assert alive == []
    ready(store.close())


def test_ending_thousands_of_sessions_of_one_principal_takes_a_moment(
    database: Database, record_property: Callable[[str, object], None]
) -> None:
    store, ann, number = database.threads(deadline="10s"), f"ann-{secrets.token_hex(4)}", THOUSANDS
    fill(database, ann, number)
    began = time.monotonic()
    assert len(ready(store.held_by(ann))) == number
    listed = time.monotonic() - began
    began = time.monotonic()
    assert ready(store.end_all(ann, ending(Reason.REVOKED))) == number
    ended = time.monotonic() - began
    assert ready(store.held_by(ann)) == []
    ready(store.close())
    record_property(
        "figure",
        f"10 {database.url.split(':')[0]}: {number} sessions of one principal listed in "
        f"{listed:.2f} s, ended in {ended:.2f} s",
    )


def test_who_is_signed_out_everywhere_is_so_in_every_part_of_the_table_and_where_it_was_over(
    database: Database,
) -> None:
    store, ann = database.threads(deadline="10s"), f"ann-{secrets.token_hex(4)}"
    fill(database, ann, 200)
    keys = [record.key for record in ready(store.held_by(ann))]
    over, keep = keys[:20], keys[20]
    names = ", ".join(f"'{key}'" for key in over)  # a server whose clock is behind thinks otherwise
    database.run(f"UPDATE samesession SET forget_ms = {now_ms()} WHERE id IN ({names})")
    assert ready(store.end_all(ann, ending(Reason.REVOKED), keep=keep)) == 179
    assert all(isinstance(ready(store.load(key)), Mark) for key in keys if key != keep)
    assert isinstance(ready(store.load(keep)), Record)
    ready(store.close())


def fill(database: Database, principal: str, number: int) -> None:
    """Many records at once, as the store would have written them."""
    from samesession.record import made, merge
    from samesession.stores.blob import dumps, forget_ms

    target = Target.of(Url.parse(f"{database.url}?deadline=60s"))
    engine = target.thread_engine(once=True)
    statements = sql.Statements(target.table)
    rows = []
    for _ in range(number):
        delta = created(fresh_key(), principal, n=b"1")
        _, record = merge(None, delta)
        assert delta.origin is not None
        assert record == made(delta, delta.origin)
        rows.append(
            {
                "key": delta.key,
                "over": 0,
                "owner": sql._owner(principal),
                "until": forget_ms(record),
                "raw": dumps(record),
            }
        )
    with engine.connect() as connection:
        connection.execute(statements.insert, rows)
    engine.dispose()


# --- sweeping -------------------------------------------------------------------------------------


def test_servers_that_sweep_together_delete_what_is_over_and_nothing_else(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sql, "SWEEP_BATCH", 20)
    servers = [database.threads(deadline="10s") for _ in range(4)]
    fill(database, "over", 300)
    long_ago = now_ms() - MARK_MS - sql.CLOCKS_APART_MS - 1000
    old = sql._owner("over")
    database.run(f"UPDATE samesession SET forget_ms = {long_ago} WHERE principal = '{old}'")
    just_ended = fresh_key()
    ready(servers[0].end(just_ended, ending()))
    live = [fresh_key() for _ in servers]

    def serve(number: int) -> None:
        store, key = servers[number], live[number]
        ready(store.commit(created(key, "live", n=b"0")))
        for value in range(30):
            store._sweep_at = 0
            ready(store.commit(changed(key, n=b"%d" % value)))

    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(4) as pool:
        list(pool.map(serve, range(4)))
    assert caplog.records == []  # no deadlock, nothing refused
    assert database.run(f"SELECT count(*) FROM samesession WHERE principal = '{old}'")[0][0] == 0
    assert isinstance(ready(servers[0].load(just_ended)), Mark)
    assert all(ready(servers[0].load(key)) is not None for key in live)
    assert database.run("SELECT version FROM samesession WHERE id = 'schema'")[0][0] == 1
    for store in servers:
        ready(store.close())


def test_three_processes_sweep_sign_in_and_sign_out_without_a_deadlock(database: Database) -> None:
    store = database.threads(deadline="10s")
    fill(database, "over", 1000)
    long_ago = now_ms() - MARK_MS - sql.CLOCKS_APART_MS - 1000
    old = sql._owner("over")
    database.run(f"UPDATE samesession SET forget_ms = {long_ago} WHERE principal = '{old}'")
    command = [sys.executable, str(Path(__file__).parent / "sql_process.py")]
    processes = [
        subprocess.Popen(
            [*command, f"{database.url}?deadline=10s", str(seed)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(3)
    ]
    for process in processes:
        _, said = process.communicate(timeout=50)
        assert process.returncode == 0, said
    assert database.run(f"SELECT count(*) FROM samesession WHERE principal = '{old}'")[0][0] == 0
    assert len(ready(store.held_by("ann"))) <= 3
    ready(store.close())


def test_a_mark_outlives_thirty_seconds_and_clocks_that_are_apart(database: Database) -> None:
    store, key = database.threads(), fresh_key()
    ready(store.end(key, ending()))
    forget = database.run(f"SELECT forget_ms FROM samesession WHERE id = '{key}'")[0][0]
    assert forget >= now_ms() + MARK_MS - 5000
    store._clock_ms = lambda: now_ms() + MARK_MS + sql.CLOCKS_APART_MS - 5000
    ready(store.commit(created(fresh_key(), n=b"1")))  # sweeps
    assert isinstance(ready(store.load(key)), Mark)
    ready(store.close())


# --- deadlines ------------------------------------------------------------------------------------


def test_a_frozen_database_is_given_up_within_the_deadline_by_threads(server: Database) -> None:
    store, key = server.threads(), fresh_key()
    assert server.server is not None
    made = created(key, n=b"1")
    eventually(lambda: ready(store.commit(made)))
    server.server.freeze()
    for _ in range(6):  # a pooled connection, new connections, and an open circuit
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            ready(store.load(key))
        assert time.monotonic() - began < DEADLINE_S + SLACK_S
    server.server.thaw()
    assert eventually(lambda: ready(store.load(key))) is not None
    ready(store.close())


def test_a_frozen_database_is_given_up_within_the_deadline_by_tasks(server: Database) -> None:
    async def run() -> None:
        store, key = server.loop(), fresh_key()
        assert server.server is not None
        made = created(key, n=b"1")
        await answered(lambda: store.commit(made))
        await answered(lambda: asyncio.gather(*(store.load(key) for _ in range(8))))
        server.server.freeze()
        for _ in range(6):
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                await asyncio.gather(*(store.load(key) for _ in range(8)))
            assert time.monotonic() - began < DEADLINE_S + SLACK_S
        server.server.thaw()
        assert await answered(lambda: store.load(key)) is not None
        await store.close()

    asyncio.run(run())


def test_a_database_that_was_restarted_is_found_again_at_once(server: Database) -> None:
    assert server.server is not None
    threads, key = server.threads(deadline="10s"), fresh_key()
    ready(threads.commit(created(key, n=b"1")))
    server.server.kill()
    with pytest.raises(StoreUnavailableError):
        ready(threads.load(key))
    server.server.restart()
    assert ready(threads.load(key)) is not None
    server.server.restart()  # nobody asked meanwhile: pooled connections are dead
    assert ready(threads.load(key)) is not None

    async def run() -> None:
        store = server.loop(deadline="10s")
        await asyncio.gather(*(store.load(key) for _ in range(5)))
        assert server.server is not None
        server.server.restart()
        found = await asyncio.gather(*(store.load(key) for _ in range(5)))
        assert None not in found
        await store.close()

    asyncio.run(run())
    ready(threads.close())


async def answered(ask: Callable[[], Awaitable[Any]], within: float = 15) -> Any:
    deadline = time.monotonic() + within
    while True:
        try:
            return await ask()
        except StoreUnavailableError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


def eventually(ask: Callable[[], Any], within: float = 15) -> Any:
    deadline = time.monotonic() + within
    while True:
        try:
            return ask()
        except StoreUnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_thousand_requests_wait_for_a_pool_of_fifty(database: Database) -> None:
    async def run() -> None:
        store, key = database.loop(pool=50, deadline="20s"), fresh_key()
        await store.commit(created(key, n=b"1"))
        found = await asyncio.gather(*(store.load(key) for _ in range(1000)))
        assert all(isinstance(record, Record) for record in found)
        await store.close()

    asyncio.run(run())


def test_a_thousand_requests_of_threads_wait_for_a_pool_of_five(database: Database) -> None:
    store, key = database.threads(pool=5, deadline="20s"), fresh_key()
    ready(store.commit(created(key, n=b"1")))
    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda _: ready(store.load(key)), range(1000)))
    assert all(isinstance(record, Record) for record in found)
    ready(store.close())


def test_a_cancelled_request_leaves_nobody_anothers_answer(database: Database) -> None:
    async def run() -> None:
        store, chance = database.loop(deadline="10s", pool=4), random.Random(1)
        keys = [fresh_key() for _ in range(6)]
        for key in keys:
            await store.commit(created(key, mine=key.encode()))

        async def look(key: Key) -> None:
            record = await store.load(key)
            assert isinstance(record, Record)
            assert record.key == key

        for _ in range(40):
            tasks = [asyncio.create_task(look(chance.choice(keys))) for _ in range(8)]
            await asyncio.sleep(chance.random() * 0.003)
            for task in chance.sample(tasks, 4):
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError)
        await store.close()

    asyncio.run(run())


def test_a_forked_process_opens_connections_of_its_own(database: Database) -> None:
    store, key = database.threads(deadline="5s"), fresh_key()
    ready(store.commit(created(key, n=b"1")))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if all(ready(store.load(key)) for _ in range(20)) else 1
        finally:
            os._exit(status)
    for _ in range(20):
        assert ready(store.load(key)) is not None
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ready(store.close())


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("way", ["loop", "threads"])
def test_a_transaction_that_is_over_is_not_rolled_back_once_more(
    database: Database, way: str
) -> None:
    """That is a round trip, and a traceback in the log where the server has died meanwhile."""

    def rolled_back() -> int:
        (row,) = database.run("SHOW GLOBAL STATUS LIKE 'Com_rollback'")
        return int(row[1])

    async def work() -> None:
        store = getattr(database, way)(deadline="10s")
        for _ in range(5):
            await store._wire.together(lambda connection: connection.exec_driver_sql("SELECT 1"))
        await store.close()

    before = rolled_back()
    asyncio.run(work())
    assert rolled_back() == before


# --- the start ------------------------------------------------------------------------------------


def test_what_is_wrong_is_said_in_one_line_at_the_start(server: Database) -> None:
    url, parsed = server.url, Url.parse(server.url)
    server.run("CREATE TABLE other (id INT)")
    server.run("CREATE TABLE newer (id VARCHAR(64), version BIGINT)")
    server.run("INSERT INTO newer VALUES ('schema', 99)")
    wrong = {
        f"{url}?table=missing": "has no table missing; samesession doctor URL --create makes it",
        f"{url}?table=other": "table other is not ours; name another one",
        f"{url}?table=newer": "table newer has schema 99, this samesession has 1",
        f"{url}?table=Bobby;--": "is no table's name",
        f"{url}?tabel=x": "did you mean 'table'",
        f"{url}?tls=maybe": "write 1",
        f"{url}?ca=/nonexistent": "/nonexistent",
        url.replace(parsed.password or "", "wrong"): parsed.username or "",
        url.rsplit("/", 1)[0] + "/elsewhere": "elsewhere",
        url.rsplit("/", 1)[0]: "names no database",
    }
    for given, said in wrong.items():
        for opener in ("open_loop", "open_threads"):
            with pytest.raises(ConfigError, match=r"\A[^\n]*\Z") as raised:
                getattr(strategy_of(given), opener)()
            assert said in str(raised.value), (given, raised.value)
            assert "Traceback" not in str(raised.value)
            assert (parsed.password or "-") not in str(raised.value)


def test_a_database_that_is_away_is_no_reason_not_to_start(
    server: Database, caplog: pytest.LogCaptureFixture
) -> None:
    assert server.server is not None
    server.server.kill()
    store = server.threads(deadline="10s")
    assert "does not answer yet" in caplog.text
    with pytest.raises(StoreUnavailableError):
        ready(store.load(fresh_key()))
    server.server.restart()
    assert ready(store.load(fresh_key())) is None
    ready(store.close())


def test_a_file_of_sqlite_is_made_and_another_kind_of_file_refused(tmp_path: Path) -> None:
    store = strategy_of(f"sqlite:///{tmp_path}/new.db").open_loop()
    assert ready(store.load(fresh_key())) is None
    ready(store.close())
    (tmp_path / "text.db").write_text("no database at all, but a text that is long enough\n" * 99)
    wrong = {
        f"sqlite:///{tmp_path}/text.db": "file is not a database",
        f"sqlite:///{tmp_path}/no/folder.db": "unable to open database file",
        "sqlite://": "names no database",
        "sqlite://file.db": "three slashes",
        f"sqlite:///{tmp_path}/new.db?tls=1": "no parameter 'tls'",
    }
    for url, said in wrong.items():
        with pytest.raises(ConfigError, match=said):
            strategy_of(url).open_loop()


def test_several_servers_may_make_the_table_at_once(database: Database) -> None:
    for number in range(5):
        url = f"{database.url}?deadline=10s&table=together{number}"
        together = threading.Barrier(4)

        def make(url: str = url, together: threading.Barrier = together) -> None:
            together.wait(20)
            make_table(url)

        with ThreadPoolExecutor(4) as pool:
            for one in [pool.submit(make) for _ in range(4)]:
                one.result()
        ready(strategy_of(url).open_threads().close())
