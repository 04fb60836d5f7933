"""A cluster and sentinels over TLS, certificates of clients included.

No engine from a wheel speaks TLS itself, so a relay does before each.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme
from test_redis_direct import tls_before

from samesession._bridge import ready
from samesession.errors import StoreUnavailableError
from samesession.lab.engines import Engine, ask, preferred, start
from samesession.lab.ports import Port
from samesession.lab.replicated import eventually
from samesession.record import Record
from samesession.store import Store
from samesession.strategies import strategy_of
from samesession.testing import created, fresh_key

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
