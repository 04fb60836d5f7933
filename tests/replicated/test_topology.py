"""Which server has a key, and what a URL of several servers says; nothing is connected."""

from __future__ import annotations

from pathlib import Path

import pytest

from samesession.errors import ConfigError
from samesession.settings import Url, redacted
from samesession.stores.redis_target import Target
from samesession.stores.redis_topology import Cluster, Sentinels, Single, map_of, slot_of
from samesession.strategies import strategy_of

A, B, C = ("10.0.0.1", 6379), ("10.0.0.2", 6379), ("10.0.0.3", 6379)
LOAD = ("HGETALL", "samesession:s:00")


def target(url: str) -> Target:
    return Target.of(Url.parse(url))


# -- URLs ------------------------------------------------------------------------------------------


def test_sentinels_are_several_hosts_a_name_and_a_database() -> None:
    found = target("redis+sentinel://u:p@h1,h2:5000,[::1]/shop/2?sentinel_user=s&wait=1s")
    assert found.topology == "sentinel"
    assert found.nodes == (("h1", 26379), ("h2", 5000), ("::1", 26379))
    assert (found.service, found.options["db"], found.wait_s) == ("shop", 2, 1.0)
    assert (found.options["username"], found.sentinel_options["username"]) == ("u", "s")
    assert isinstance(map_of(found), Sentinels)


def test_a_cluster_is_several_hosts(tmp_path: Path) -> None:
    for name in ("ca", "c", "k"):
        (tmp_path / name).touch()
    files = f"ca={tmp_path}/ca&cert={tmp_path}/c&key={tmp_path}/k"
    found = target(f"valkeys+cluster://h1,h2:7000?{files}")
    assert (found.topology, found.kind) == ("cluster", "tls")
    assert found.nodes == (("h1", 6379), ("h2", 7000))
    assert found.options["ssl_certfile"] == f"{tmp_path}/c"
    assert isinstance(map_of(found), Cluster)


def test_one_host_is_one_server_and_a_path_a_unix_socket() -> None:
    assert isinstance(map_of(target("redis://h1/3")), Single)
    assert target("valkey+unix:///run/v.sock?db=4").nodes == (("/run/v.sock", 0),)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis+sentinel://h1,h2", "names no primary"),
        ("redis+sentinel://h1/shop/x", "the database is a number"),
        ("redis+sentinel://h1/shop?sentinal_user=u", "did you mean 'sentinel_user'"),
        ("redis+sentinel://h1,,h2/shop", "a host between two commas is empty"),
        ("redis+sentinel://h1:x/shop", "cannot be read as a URL"),
        ("redis+cluster://h1/2", "a cluster has database 0 only"),
        ("redis+cluster://h1?sentinel_user=u", "has no parameter 'sentinel_user'"),
        ("redis+cluster://h1?wate=1s", "did you mean 'wait'"),
        ("redis+cluster://h1?pool=0", "no number above 0"),
        ("redis+cluster://h1?ca=x", "has no parameter 'ca'"),
        ("rediss+cluster://h1?ca=/nowhere/ca.pem", "cannot be read"),
        ("redis+clutser://h1", "did you mean redis+cluster://"),
        ("valkey+sentinels://h1/shop", "did you mean valkey+sentinel://"),
        ("redis://h1,h2", "takes one"),
    ],
)
def test_a_wrong_part_of_a_url_is_told_in_one_line(url: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        strategy_of(url).open_threads()
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_no_password_is_told() -> None:
    url = "redis+sentinel://u:secret1@h1/shop?sentinel_password=secret2&wait=1s"
    assert redacted(url) == "redis+sentinel://u:***@h1/shop?sentinel_password=***&wait=1s"
    assert "secret" not in repr(target(url))


# -- one server ------------------------------------------------------------------------------------


def test_one_server_stays_where_it_is() -> None:
    one = Single(A)
    one.lost(A)
    assert one.node_of(LOAD) == A


# -- sentinels -------------------------------------------------------------------------------------


def test_the_primary_is_whom_a_sentinel_names_until_it_is_lost() -> None:
    sentinels = Sentinels([A, B, C], "shop")
    assert sentinels.node_of(LOAD) is None
    assert not sentinels.learn(A, None)  # it does not know the name
    assert sentinels.learn(B, [b"10.0.0.9", b"7000"])
    assert sentinels.node_of(LOAD) == ("10.0.0.9", 7000)
    assert sentinels.places()[0] == B  # whoever knew is asked first
    sentinels.lost(("10.0.0.8", 7000))  # an old one
    assert sentinels.node_of(LOAD) is not None
    sentinels.lost(("10.0.0.9", 7000))
    assert sentinels.node_of(LOAD) is None
    assert sentinels.places() == (A, C, B)  # another one may know better


# -- clusters --------------------------------------------------------------------------------------


def node(place: tuple[str, int]) -> list[object]:
    return [place[0].encode(), place[1], b"name", []]


SLOTS = [[8192, 16383, node(B), node(C)], [0, 8191, node(A)]]


def test_slots_are_those_of_the_specification() -> None:
    # redis.io/docs/reference/cluster-spec, appendix A: CRC16("123456789") = 0x31C3
    assert slot_of("123456789") == 0x31C3
    assert (
        slot_of(b"{user1000}.following") == slot_of("{user1000}.followers") == slot_of("user1000")
    )
    assert slot_of("foo{}{bar}") != slot_of("bar")
    assert slot_of("foo{{bar}}zap") == slot_of("{bar")
    assert slot_of("foo{bar}{zap}") == slot_of("bar")


def test_a_command_goes_to_the_primary_of_its_keys_slot() -> None:
    cluster = Cluster([A])
    assert cluster.node_of(LOAD) is None
    assert not cluster.learn(A, [])
    assert cluster.learn(A, SLOTS)
    assert cluster.primaries() == (A, B)
    for key in (f"samesession:s:{number:02x}" for number in range(64)):
        expected = A if slot_of(key) < 8192 else B
        assert cluster.node_of(("HGETALL", key)) == expected
        assert cluster.node_of(("EVALSHA", "sha", 1, key, "argument")) == expected


def test_a_lost_server_is_asked_about_and_the_others_are_used_on() -> None:
    cluster = Cluster([A])
    cluster.learn(A, SLOTS)
    low, high = (("HGETALL", key) for key in _keys())
    cluster.lost(B)
    assert (cluster.node_of(low), cluster.node_of(high)) == (A, None)
    assert cluster.places()[-1] == B
    cluster.learn(C, [[0, 8191, node(A)], [8192, 16383, node(C)]])
    assert cluster.node_of(high) == C
    cluster.learn(C, SLOTS)  # it is back
    assert cluster.node_of(high) == B


def test_a_moved_slot_is_known_at_once() -> None:
    cluster = Cluster([A])
    cluster.learn(A, SLOTS)
    low, _ = _keys()
    cluster.lost(C)
    cluster.moved(slot_of(low), C)
    assert cluster.node_of(("HGETALL", low)) == C


def test_a_server_that_does_not_know_its_own_name_is_the_one_that_was_asked() -> None:
    cluster = Cluster([A])
    cluster.learn(A, [[0, 16383, [None, 6379, b"name"]]])
    assert cluster.primaries() == (A,)


def _keys() -> tuple[str, str]:
    names = [f"samesession:s:{number:02x}" for number in range(64)]
    return (
        next(name for name in names if slot_of(name) < 8192),
        next(name for name in names if slot_of(name) >= 8192),
    )
