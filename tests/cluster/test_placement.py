"""Which servers own what: evenly, and with as little moving as can be."""

from __future__ import annotations

from collections import Counter

from samesession.cluster.placement import EVERYBODY, SHARDS, owners, shard_of
from samesession.token import key_of


def names(number: int) -> list[str]:
    return [f"server-{n}" for n in range(number)]


def test_every_server_of_a_hundred_has_work() -> None:
    first = Counter(owners(shard, names(100), 3)[0] for shard in range(SHARDS))
    assert len(first) == 100


def test_owners_are_shared_out_evenly() -> None:
    shares = Counter(name for shard in range(SHARDS) for name in owners(shard, names(12), 3))
    mean = SHARDS * 3 / 12
    assert all(0.75 * mean < share < 1.25 * mean for share in shares.values())


def test_a_server_that_goes_moves_only_what_it_owned() -> None:
    for shard in range(SHARDS):
        before = owners(shard, names(9), 3)
        after = owners(shard, [n for n in names(9) if n != "server-4"], 3)
        assert [n for n in before if n != "server-4"] == list(after)[
            : len(before) - before.count("server-4")
        ]


def test_a_server_that_comes_takes_an_equal_share() -> None:
    changed = sum(
        owners(shard, names(8), 3)[0] != owners(shard, names(9), 3)[0] for shard in range(SHARDS)
    )
    assert SHARDS / 9 * 0.7 < changed < SHARDS / 9 * 1.3


def test_a_few_servers_own_everything() -> None:
    assert set(owners(7, names(2), 3)) == set(names(2))
    assert set(owners(7, names(20), EVERYBODY)) == set(names(20))


def test_the_order_of_the_names_does_not_matter() -> None:
    assert owners(3, names(5), 3) == owners(3, list(reversed(names(5))), 3)


def test_keys_are_spread_and_any_text_has_a_shard() -> None:
    shares = Counter(shard_of(key_of(str(n))) for n in range(50 * SHARDS))
    assert len(shares) == SHARDS
    assert max(shares.values()) < 110
    assert 0 <= shard_of("made up by an administrator \ud800") < SHARDS
