"""A cluster and sentinels over TLS, certificates of clients included.

No engine from a wheel speaks TLS itself, so a relay does before each.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Barrier, Event, Thread

import pytest
import trustme
from test_redis_direct import tls_before

from samesession._bridge import ready
from samesession.errors import StoreUnavailableError
from samesession.lab.engines import Engine, ask, preferred, start
from samesession.lab.ports import Port
from samesession.lab.replicated import eventually
from samesession.record import Applied, Key, Record
from samesession.store import Store
from samesession.strategies import strategy_of
from samesession.testing import changed, created, fresh_key

# The relay that speaks TLS ends its loop with whatever was refused still half open.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> str:
    """Parameters of a client that is known."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = authority.issue_cert("client")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    own.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    return f"ca={tmp_path}/ca.pem&cert={tmp_path}/cert.pem&key={tmp_path}/key.pem"


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    """Of a server that wants to know its clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


Work = Callable[[Store], Awaitable[None]]


async def whole(store: Store, work: Work) -> None:
    try:
        await work(store)
    finally:
        await store.close()


def both(url: str, work: Work) -> None:
    asyncio.run(whole(strategy_of(url).open_loop(), work))
    ready(whole(strategy_of(url).open_threads(), work))


def test_a_cluster_over_tls_knows_its_clients(context: ssl.SSLContext, files: str) -> None:
    async def lives(store: Store) -> None:
        key = fresh_key()
        await store.commit(created(key, "ann", a=b"1"))
        assert isinstance(await store.load(key), Record)

    async def is_refused(store: Store) -> None:
        with pytest.raises(StoreUnavailableError):
            await store.load(fresh_key())

    with Port() as bus:
        settings = {"cluster-enabled": "yes", "cluster-port": str(bus.number)}
        with Engine(preferred(), settings=settings) as node:
            node.restart()
            ask(node.port, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            eventually(lambda: "state:ok" in ask(node.port, "CLUSTER", "INFO"), "no cluster")
            with tls_before(node.port, context) as port:
                ask(node.port, "CONFIG", "SET", "cluster-announce-port", str(port))
                url = f"rediss+cluster://127.0.0.1:{port}"
                both(f"{url}?deadline=10s&{files}", lives)
                # In threads: a loop that ends would cut failing handshakes short, noisily.
                unknown = f"{url}?deadline=1s&{files.partition('&')[0]}"
                for wrong in (unknown, f"redis+cluster://127.0.0.1:{port}?deadline=1s"):
                    ready(whole(strategy_of(wrong).open_threads(), is_refused))


def test_sentinels_are_asked_over_tls_too(context: ssl.SSLContext, files: str) -> None:
    """The relay stands before a sentinel only: its answer leads to a primary without TLS."""

    async def asks(store: Store) -> None:
        with pytest.raises(StoreUnavailableError, match=f"127.0.0.1:{primary.port}"):
            await store.load(fresh_key())

    with start() as primary:
        watches = {"sentinel monitor shop": f"127.0.0.1 {primary.port} 1"}
        with Engine(preferred(), settings=watches, sentinel=True) as sentinel:
            sentinel.restart()
            with tls_before(sentinel.port, context) as port:
                url = f"rediss+sentinel://127.0.0.1:{port}/shop?deadline=1s&{files}"
                ready(whole(strategy_of(url).open_threads(), asks))


@contextmanager
def door_before(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """A port with TLS for clients, and without for sentinels and replicas; yields it.

    They find an engine where it says that it is, and there are not two such places.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        loop = asyncio.new_event_loop()
        thread = Thread(target=loop.run_until_complete, args=(_serve(listener, port, context),))
        thread.start()
        yield listener.getsockname()[1]
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        thread.join(10)
        loop.close()


async def _serve(listener: socket.socket, port: int, context: ssl.SSLContext) -> None:
    loop, at_work = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def serve_one(client: socket.socket) -> None:
        while True:
            with suppress(BlockingIOError):
                first = client.recv(1, socket.MSG_PEEK)
                break
            await asyncio.sleep(0.002)
        reader = asyncio.StreamReader()
        with suppress(OSError):
            transport, protocol = await loop.connect_accepted_socket(
                lambda: asyncio.StreamReaderProtocol(reader),
                client,
                ssl=context if first == b"\x16" else None,  # RFC 8446, 5.1: a handshake
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            try:
                there, back = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                writer.close()
                return
            await asyncio.gather(pump(reader, back), pump(there, writer))

    with suppress(asyncio.CancelledError):
        while True:
            client, _ = await loop.sock_accept(listener)
            at_work.add(task := loop.create_task(serve_one(client)))
            task.add_done_callback(at_work.discard)


@pytest.mark.skipif(
    os.environ.get("SAMESESSION_PROVE") != "1", reason="both are followed in CI: make prove"
)
def test_a_failover_is_followed_over_tls(context: ssl.SSLContext, files: str) -> None:
    """The sentinels, the primary and the replica that takes over: all of them by TLS alone."""
    with ExitStack() as stack:

        def started() -> tuple[Engine, int]:
            engine = stack.enter_context(start())
            door = stack.enter_context(door_before(engine.port, context))
            ask(engine.port, "CONFIG", "SET", "replica-announce-port", str(door))
            return engine, door

        primary, door = started()
        replica, other_door = started()
        ask(replica.port, "REPLICAOF", "127.0.0.1", str(door))
        ready_ = "master_link_status:up"
        eventually(lambda: ready_ in ask(replica.port, "INFO", "replication"), "it does not follow")
        watches = {
            "sentinel monitor shop": f"127.0.0.1 {door} 1",
            "sentinel down-after-milliseconds shop": "500",
        }
        sentinel = stack.enter_context(Engine(preferred(), settings=watches, sentinel=True))
        sentinel.restart()
        first = stack.enter_context(door_before(sentinel.port, context))
        eventually(
            lambda: f"127.0.0.1:{other_door}" in ask(sentinel.port, "SENTINEL", "REPLICAS", "shop"),
            "the sentinel does not see the replica",
        )
        url = f"rediss+sentinel://127.0.0.1:{first}/shop?deadline=2s&near=4MB&{files}"
        keys = [fresh_key(), fresh_key()]

        async def goes_on(store: Store, key: Key) -> None:
            await store.commit(created(key, "ann", a=b"1"))  # a replica has it, too
            yield_to.wait(20)
            taken.wait(20)
            until = time.monotonic() + 20
            while True:
                try:
                    outcome = await store.commit(changed(key, a=b"2"))
                    break
                except StoreUnavailableError:
                    assert time.monotonic() < until
            assert isinstance(outcome, Applied)
            assert isinstance(await store.load(key), Record)

        yield_to, taken = Barrier(3), Event()

        def hurt() -> None:
            yield_to.wait(20)
            primary.kill()
            taken.set()

        loop_store = strategy_of(url).open_loop()
        thread_store = strategy_of(url).open_threads()
        with ThreadPoolExecutor(3) as threads:
            steps = [
                threads.submit(asyncio.run, whole(loop_store, partial(goes_on, key=keys[0]))),
                threads.submit(ready, whole(thread_store, partial(goes_on, key=keys[1]))),
                threads.submit(hurt),
            ]
            for step in steps:
                step.result(40)
        assert "role:master" in ask(replica.port, "INFO", "replication")
