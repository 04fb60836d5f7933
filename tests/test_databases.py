"""The laboratory's databases: they start, are hurt, come back with their data, leave nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from tables import SERVERS, started

from samesession._bridge import ready
from samesession.lab.daemon import _family
from samesession.strategies import strategy_of
from samesession.testing import created, fresh_key


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_is_frozen_killed_and_restarted_and_leaves_nothing(kind: str) -> None:
    with started(kind) as (url, server):
        assert server is not None
        store, key = strategy_of(f"{url}?deadline=10s").open_threads(), fresh_key()
        ready(store.commit(created(key, n=b"1")))
        server.freeze()
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
        assert not server.answers()
        server.thaw()
        assert server.answers()
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
        with pytest.raises(RuntimeError, match="is not running"):
            _ = server.pid
        server.restart()
        assert (ready(store.load(key)) is None) == (kind == "memcached")
        ready(store.close())
        family, folder = _family(server.pid), server.folder
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]
    assert not folder.exists()


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    from samesession.lab.databases import Memcached

    server = Memcached("--nonsense")
    with pytest.raises(RuntimeError, match="nonsense"):
        server.__enter__()
    assert not server.folder.exists()
