"""The short way to Redis (TCP, unix socket, TLS; threads, loops) loses and mixes up nothing."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from threading import Thread
from typing import NamedTuple

import pytest
import trustme

from samesession._bridge import ready
from samesession.errors import StoreUnavailableError
from samesession.lab.engines import Engine, start
from samesession.record import Applied, Record
from samesession.store import Store
from samesession.strategies import strategy_of
from samesession.testing import changed, created, fresh_key

DEADLINE_S = 0.5


class Place(NamedTuple):
    engine: Engine
    urls: dict[str, str]


@contextmanager
def tls_before(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """A door with TLS before an engine that has none (no wheel's has); yields its port."""
    listening: Future[int] = Future()
    stopping: Future[Callable[[], object]] = Future()

    async def relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(relay(reader, back), relay(there, writer))

    async def serve() -> None:
        stop = asyncio.Event()
        async with await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context) as server:
            listening.set_result(server.sockets[0].getsockname()[1])
            stopping.set_result(partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set))
            await stop.wait()

    thread = Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    yield listening.result(5)
    stopping.result(5)()
    thread.join(5)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("redis")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with (
        start(settings={"unixsocket": str(folder / "socket")}) as engine,
        tls_before(engine.port, context) as port,
    ):
        urls = {
            "tcp": f"redis://127.0.0.1:{engine.port}?",
            "unix": f"redis+unix://{folder}/socket?",
            "tls": f"rediss://127.0.0.1:{port}?ca={folder}/ca.pem&",
        }
        yield Place(engine, urls)


@pytest.fixture(params=["tcp", "unix", "tls"])
def url(place: Place, request: pytest.FixtureRequest) -> str:
    return f"{place.urls[request.param]}deadline=10s"


def on_threads(url: str, visit: Callable[[Store], Awaitable[None]]) -> None:
    store = strategy_of(url).open_threads()

    async def visited() -> None:
        await visit(store)
        await store.close()

    ready(visited())


def on_a_loop(url: str, visit: Callable[[Store], Awaitable[None]]) -> None:
    async def visited() -> None:
        store = strategy_of(url).open_loop()
        await visit(store)
        await store.close()

    asyncio.run(visited())


Run = Callable[[str, Callable[[Store], Awaitable[None]]], None]
both = pytest.mark.parametrize("run", [on_threads, on_a_loop])


@both
def test_what_is_larger_than_one_read_arrives_whole(url: str, run: Run) -> None:
    async def visit(store: Store) -> None:
        key, values = fresh_key(), {f"key{n}": bytes([n]) * 50_000 for n in range(30)}
        assert isinstance(await store.commit(created(key, **values)), Applied)
        record = await store.load(key)
        assert isinstance(record, Record)
        assert record.values == values

    run(url, visit)


@both
def test_a_restarted_server_costs_no_command(place: Place, url: str, run: Run) -> None:
    async def visit(store: Store) -> None:
        key = fresh_key()
        await store.commit(created(key, n=b"1"))
        place.engine.restart()
        assert await store.load(key) is None  # it keeps nothing on its disk
        assert isinstance(await store.commit(created(key, n=b"2")), Applied)

    run(url, visit)


@both
def test_a_silent_server_is_told_of_in_time(place: Place, url: str, run: Run) -> None:
    async def visit(store: Store) -> None:
        key = fresh_key()
        await store.commit(created(key, n=b"1"))
        place.engine.freeze()
        began = time.monotonic()
        try:
            with pytest.raises(StoreUnavailableError):
                await store.load(key)
        finally:
            place.engine.thaw()
        assert DEADLINE_S / 2 < time.monotonic() - began < 10 * DEADLINE_S
        record = await store.load(key)  # and the late answer is nobody's
        assert isinstance(record, Record)
        assert record.key == key

    run(url.replace("deadline=10s", f"deadline={int(DEADLINE_S * 1000)}ms"), visit)


def test_no_thread_gets_another_ones_answer(url: str) -> None:
    store = strategy_of(url).open_threads()

    def visit(number: int) -> None:
        key = fresh_key()
        ready(store.commit(created(key, n=b"%d" % number)))
        for turn in range(20):
            said = b"%d.%d" % (number, turn)
            assert isinstance(ready(store.commit(changed(key, n=said))), Applied)
            record = ready(store.load(key))
            assert isinstance(record, Record)
            assert record.values == {"n": said}

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, range(16)))
    ready(store.close())
