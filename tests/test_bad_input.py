"""What is wrong around a store is one line that says what and where: a table, over real engines.

A setting is refused at start-up (`ConfigError`); what may pass by itself, such as a database that
is away, is told by the first request (`StoreUnavailableError`, answered 503).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
from sqlalchemy import Connection
from tables import started

from samesession._bridge import ready
from samesession.errors import ConfigError, StoreCorruptError, StoreUnavailableError
from samesession.lab import engines
from samesession.settings import Url
from samesession.store import Store
from samesession.stores import sql_check
from samesession.stores.sql_drivers import Target
from samesession.strategies import strategy_of
from samesession.testing import changed, created, fresh_key

SECRET = "s3cret-of-ours"
FOREIGN = fresh_key()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Fill in what a row of the table calls its engines; each is started when it is first named."""
    with ExitStack() as stack:
        found: dict[str, str] = {"nowhere": "127.0.0.1:1", "unknown": "no.such.host.invalid"}

        def place(name: str) -> str:
            if name not in found:
                found[name] = _start(stack, name, tmp_path_factory.mktemp(name))
            return found[name]

        yield lambda text: text.format_map(_Lazily(place))


class _Lazily(dict[str, str]):
    def __init__(self, place: Callable[[str], str]) -> None:
        self._place = place

    def __missing__(self, name: str) -> str:
        return self._place(name)


def _start(stack: ExitStack, name: str, folder: Path) -> str:
    """The address of an engine, prepared as its name says."""
    if name == "locked":
        engine = stack.enter_context(engines.start(settings={"requirepass": SECRET}))
        return f"127.0.0.1:{engine.port}"
    if name == "redis":
        engine = stack.enter_context(engines.start())
        with redis.Redis(port=engine.port) as client:
            client.set(f"samesession:s:{FOREIGN}", "not ours")
        return f"127.0.0.1:{engine.port}"
    if name == "replica":
        primary = stack.enter_context(engines.start())
        engine = stack.enter_context(engines.start())
        with redis.Redis(port=engine.port) as client:
            client.replicaof("127.0.0.1", str(primary.port))
        return f"127.0.0.1:{engine.port}"
    if name == "text":
        (folder / "x.db").write_bytes(b"this is no database " * 100)
        return str(folder / "x.db")
    if name == "memcached":
        url, _ = stack.enter_context(started("memcached"))
        return url.removeprefix("memcached://")
    url, _ = stack.enter_context(started(name))
    _prepare(url)
    return url.partition("://")[2]


def _prepare(url: str) -> None:
    def work(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE theirs (x INT)")
        connection.exec_driver_sql(
            "INSERT INTO samesession (id, version, ended, forget_ms, data) "
            f"VALUES ('{FOREIGN}', 1, 0, 9999999999999, 'not ours')"
        )
        another = target.table + "7"
        sql_check.create(connection, Target.of(Url.parse(f"{url}?table={another}")))
        connection.exec_driver_sql(f"UPDATE {another} SET version = 7 WHERE id = 'schema'")

    target = Target.of(Url.parse(url))
    sql_check.once(target, work)


@contextmanager
def opened(url: str) -> Iterator[Store]:
    store = strategy_of(url).open_threads()
    try:
        yield store
    finally:
        ready(store.close())


def _load(url: str) -> None:
    with opened(url) as store:
        ready(store.load(FOREIGN))


def _change(url: str) -> None:
    with opened(url) as store:
        ready(store.commit(changed(FOREIGN, n=b"1")))


def _make(url: str) -> None:
    with opened(url) as store:
        ready(store.commit(created(fresh_key(), n=b"1")))


AT_START: list[tuple[str, str]] = [
    # what is no URL, or a wrong part of one
    ("redis//127.0.0.1", "is no strategy"),
    ("redes://127.0.0.1", "did you mean redis://"),
    ("redis://127.0.0.1:port", "cannot be read as a URL"),
    ("redis://127.0.0.1/first", "the database is a number"),
    ("redis+sentinel://127.0.0.1", "names no primary"),
    ("redis+cluster://127.0.0.1/3", "database 0 only"),
    ("redis://127.0.0.1,127.0.0.2", "takes one"),
    ("postgresql://127.0.0.1", "names no database; write postgresql://host/database"),
    ("postgresql://127.0.0.1,127.0.0.2/shop", "takes one"),
    ("mysql://127.0.0.1/shop?table=drop it", "is no table's name"),
    ("sqlite://file.db", "a file has three slashes"),
    ("memcached://127.0.0.1,127.0.0.2", "takes one"),
    ("memcached://user@127.0.0.1", "takes no user"),
    # parameters: unknown, with the nearest; and values that are none
    ("redis://127.0.0.1?dedline=1s", "no parameter 'dedline'; did you mean 'deadline'?"),
    ("postgresql://127.0.0.1/x?poll=5", "no parameter 'poll'; did you mean 'pool'?"),
    ("memcached://127.0.0.1?prefx=a", "no parameter 'prefx'; did you mean 'prefix'?"),
    ("sqlite:///x.db?tls=1", "no parameter 'tls'"),
    ("postgresql://127.0.0.1/x?pool=many", "pool='many' is no number above 0"),
    ("redis://127.0.0.1?deadline=soon", "deadline='soon' is no duration"),
    ("redis://127.0.0.1?deadline=1s&deadline=2s", "gives a parameter twice"),
    ("rediss://127.0.0.1?ca=/no/such/file", "/no/such/file"),
    ("postgresql://127.0.0.1/x?ca=/no/such/file", "ca='/no/such/file' cannot be read"),
    # databases: whoever is there says no
    ("postgresql://shop:wrong@{postgresql_host}/shop", "password authentication failed"),
    ("postgresql://{postgresql}?table=missing", "has no table missing; samesession doctor URL"),
    ("postgresql://{postgresql}?table=theirs", "table theirs is not ours"),
    ("postgresql://{postgresql}?table=samesession7", "has schema 7, this samesession has 1"),
    ("mysql://shop:wrong@{mariadb_host}/shop", "Access denied"),
    ("mysql://{mariadb}?table=missing", "has no table missing; samesession doctor URL"),
    ("mysql://{mariadb}?table=theirs", "table theirs is not ours"),
    ("mysql://{mariadb}?table=samesession7", "has schema 7, this samesession has 1"),
    ("sqlite:////no/such/folder/x.db", "unable to open database file"),
    ("sqlite:///{text}", "file is not a database"),
]

AT_A_REQUEST: list[tuple[str, Callable[[str], object], type[Exception], str]] = [
    ("redis://{nowhere}", _load, StoreUnavailableError, "refused"),
    ("redis://{unknown}", _load, StoreUnavailableError, "not known"),
    ("redis://:wrong@{locked}", _load, StoreUnavailableError, "invalid username-password"),
    ("redis://{locked}", _load, StoreUnavailableError, "Authentication required"),
    ("redis://{redis}/99", _load, StoreUnavailableError, "DB index is out of range"),
    ("redis+cluster://{redis}", _load, StoreUnavailableError, "cluster support disabled"),
    ("rediss://{redis}", _load, StoreUnavailableError, "{redis}"),
    ("redis://{replica}", _make, StoreUnavailableError, "read only replica"),
    ("redis://{memcached}", _load, StoreUnavailableError, "{memcached}"),
    ("redis://{redis}", _load, StoreCorruptError, "holds something under a session's key"),
    ("redis://{redis}", _change, StoreCorruptError, "holds something under a session's key"),
    ("postgresql://shop@{nowhere}/shop", _load, StoreUnavailableError, "refused"),
    ("postgresql://shop@{unknown}/shop", _load, StoreUnavailableError, "{unknown}"),
    ("postgresql://{postgresql}", _load, StoreCorruptError, "is unreadable"),
    ("postgresql://{postgresql}", _change, StoreCorruptError, "is unreadable"),
    ("mysql://shop@{nowhere}/shop", _load, StoreUnavailableError, "refused"),
    ("mysql://{mariadb}", _load, StoreCorruptError, "is unreadable"),
    ("memcached://{nowhere}", _load, StoreUnavailableError, "refused"),
    ("memcached://{unknown}", _load, StoreUnavailableError, "not known"),
]


@pytest.mark.parametrize(("given", "said"), AT_START, ids=[row[0] for row in AT_START])
def test_what_no_waiting_will_change_is_refused_at_start_up(
    places: Callable[[str], str], given: str, said: str
) -> None:
    for kind in ("postgresql", "mariadb"):
        if f"{{{kind}_host}}" in given:
            given = given.replace(f"{{{kind}_host}}", places(f"{{{kind}}}").split("@")[1][:-5])
    with pytest.raises(ConfigError) as caught:
        strategy_of(places(given)).open_threads()
    message = str(caught.value)
    assert places(said) in message
    assert len(message.splitlines()) == 1
    assert "wrong" not in message.replace("wrong number", "")  # the password


@pytest.mark.parametrize(
    ("given", "act", "error", "said"),
    AT_A_REQUEST,
    ids=[f"{row[1].__name__[1:]} {row[0]}" for row in AT_A_REQUEST],
)
def test_what_may_pass_is_told_by_the_request(
    places: Callable[[str], str],
    given: str,
    act: Callable[[str], object],
    error: type[Exception],
    said: str,
) -> None:
    with pytest.raises(error) as caught:
        act(f"{places(given)}?deadline=2s")
    message = str(caught.value)
    assert places(said) in message
    assert len(message.splitlines()) == 1
    assert SECRET not in message


def test_a_read_only_database_is_told_by_the_request() -> None:
    with started("postgresql") as (url, _):

        def read_only(connection: Connection) -> None:
            connection.exec_driver_sql("ALTER DATABASE shop SET default_transaction_read_only = on")

        sql_check.once(Target.of(Url.parse(url)), read_only)
        with pytest.raises(StoreUnavailableError, match="read-only transaction"):
            _make(f"{url}?deadline=5s")
