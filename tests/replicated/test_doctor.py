"""``samesession doctor`` on several servers; and one clear line for each way to be wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from command import Run, line

from samesession.lab import engines
from samesession.lab.engines import ask
from samesession.lab.ports import Port
from samesession.lab.replicated import SERVICE, Cluster, Sentinelled

PATIENT = "deadline=5s"


@pytest.fixture(scope="module")
def sentinelled() -> Iterator[Sentinelled]:
    with Sentinelled(settings={"appendonly": "yes"}) as several:
        yield several


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(settings={"appendonly": "yes"}) as several:
        yield several


def test_sentinels_that_are_well_are_told_so(sentinelled: Sentinelled, run: Run) -> None:
    code, printed = run("doctor", f"{sentinelled.url}?{PATIENT}")
    assert code == 0, printed
    assert line(printed, "sentinels") == "ok   sentinels   3 of 3 answer"
    assert "3 usable Sentinels" in line(printed, "quorum")
    assert line(printed, "replicas").startswith("ok   replicas    1,")
    assert line(printed, "rights").startswith("ok")
    assert line(printed, "TLS").startswith("ok")


def test_a_cluster_is_looked_at_on_each_of_its_servers(cluster: Cluster, run: Run) -> None:
    code, printed = run("doctor", f"{cluster.url}?{PATIENT}")
    assert code == 0, printed
    assert "16384 of 16384 slots are served, by 3 primaries" in line(printed, "cluster")
    assert "2 more are ok" in line(printed, "replicas")
    assert line(printed, "rights").startswith("ok")
    ill = cluster.nodes[1].port
    for what, value in (("maxmemory-policy", "allkeys-lru"), ("maxmemory", "100mb")):
        ask(ill, "CONFIG", "SET", what, value)
    code, printed = run("doctor", f"{cluster.url}?{PATIENT}")
    assert code == 1
    assert f"127.0.0.1:{ill}: allkeys-lru drops sessions" in line(printed, "memory")


def test_foreign_data_under_our_keys_is_found_on_any_server(cluster: Cluster, run: Run) -> None:
    from samesession.stores.redis_topology import slot_of

    name = next(
        key for key in (f"samesession:s:{n}" for n in range(10_000)) if slot_of(key) > 10923
    )
    assert ask(cluster.nodes[2].port, "SET", name, "theirs") == "+OK\r\n"
    code, printed = run("doctor", f"{cluster.url}?{PATIENT}")
    assert code == 1
    assert f"{name} is none of ours" in line(printed, "keys")
    ask(cluster.nodes[2].port, "DEL", name)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (("{sentinels}", "/nobody"), "knows of no such primary.*as in their `sentinel monitor"),
        (("{sentinels}", ""), "names no primary"),
        (("{sentinels}", "/shop?pol=3"), "no parameter 'pol'; did you mean 'pool'"),
        (("shop:wrong@{sentinels}", "/shop"), "right user and password"),
        (("{nobody}", "/shop"), "is it running, and the address right"),
        (("no-such-host.invalid", "/shop"), "is it running, and the address right"),
    ],
)
def test_a_wrong_url_of_sentinels_is_one_clear_line(
    sentinelled: Sentinelled, run: Run, parts: tuple[str, str], told: str
) -> None:
    hosts = sentinelled.url.partition("://")[2].partition("/")[0]
    with Port() as nobody:
        where = parts[0].format(sentinels=hosts, nobody=nobody.address)
        code, printed = run("doctor", f"redis+sentinel://{where}{parts[1]}")
    assert code == 2
    assert re.search(told, printed), printed
    assert printed.count("\n") == 1, printed


def test_a_wrong_kind_of_url_is_told_apart(
    cluster: Cluster, sentinelled: Sentinelled, run: Run
) -> None:
    code, printed = run("doctor", f"redis://127.0.0.1:{sentinelled.sentinels[0].port}?{PATIENT}")
    assert code != 0, printed
    one = f"redis+cluster://127.0.0.1:{sentinelled.primary.port}?{PATIENT}"
    code, printed = run("doctor", one)
    assert code == 2
    assert "cluster support disabled" in printed
    code, printed = run("doctor", f"redis://127.0.0.1:{cluster.nodes[0].port}?{PATIENT}")
    assert code == 1
    assert "write redis+cluster://" in line(printed, "cluster")


def test_a_read_only_replica_is_told_apart(sentinelled: Sentinelled, run: Run) -> None:
    code, printed = run("doctor", f"redis://127.0.0.1:{sentinelled.replica.port}?{PATIENT}")
    assert code == 1
    assert f"name the primary: 127.0.0.1:{sentinelled.primary.port}" in line(printed, "role")


def test_a_user_without_rights_to_wait_is_enough_for_one_server(run: Run) -> None:
    """What asks for replicas is told no, and goes on: weak, and counted."""
    from samesession._bridge import ready
    from samesession.record import Applied
    from samesession.strategies import strategy_of
    from samesession.testing import created, fresh_key

    with engines.start() as engine:
        rights = ["on", ">w", "~*", "&*", "+@all", "-wait", "-role", "-info"]
        ask(engine.port, "ACL", "SETUSER", "shop", *rights)
        weak: list[str] = []
        url = f"redis://shop:w@127.0.0.1:{engine.port}?{PATIENT}"
        store = strategy_of(url).open_threads(weak.append)
        assert isinstance(ready(store.commit(created(fresh_key(), "ann"))), Applied)
        assert weak == ["weak"]
        ready(store.close())


def test_a_sentinel_that_is_down_is_named_and_two_are_too_many(
    sentinelled: Sentinelled, run: Run
) -> None:
    """The last test here: they stay down."""
    several, url = sentinelled, f"{sentinelled.url}?{PATIENT}"
    ask(
        several.sentinels[0].port,
        "SENTINEL",
        "SET",
        SERVICE,
        "down-after-milliseconds",
        "30000",
    )
    code, printed = run("doctor", url)
    assert "a primary that dies is replaced after 30 s" in line(printed, "down-after")
    several.sentinels[2].kill()
    code, printed = run("doctor", url)
    assert code == 0
    assert f"2 of 3 answer; not 127.0.0.1:{several.sentinels[2].port}" in printed
    assert line(printed, "sentinels").startswith("note")
    several.sentinels[1].kill()
    code, printed = run("doctor", url)
    assert code == 1
    assert "no majority is left" in line(printed, "sentinels")
