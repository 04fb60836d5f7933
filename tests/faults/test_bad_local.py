"""Poisoned records in the local store (LMDB): never 5xx, never executed, each counted.

``SAMESESSION_RECORDS=10000`` runs them all.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb
import msgspec
import pytest
from scenarios.browser import Browser
from scenarios.conftest import Figure
from scenarios.site import PROVE, Site, eventually

from faults import poison
from faults.requests import COUNTED, REQUESTS, chosen, unharmed, victim

TRIALS = int(os.environ.get("SAMESESSION_RECORDS", "500"))
SIZE = 320 << 20  # room for 50 MB, and for what LMDB has not freed yet


@dataclass
class Cellar:
    """A server, and its map opened beside it."""

    site: Site
    map: lmdb.Environment
    folder: Path

    @property
    def witness(self) -> Path:
        return self.folder / "executed"

    def name(self, browser: Browser) -> bytes:
        return b"s" + str(browser.read()["handle"]).encode()

    def raw(self, name: bytes) -> bytes:
        with self.map.begin() as txn:
            return bytes(txn.get(name))

    def write(self, name: bytes, raw: bytes | None) -> None:
        with self.map.begin(write=True) as txn:
            txn.delete(name) if raw is None else txn.put(name, raw)


@pytest.fixture(scope="module")
def cellar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cellar]:
    shared = Path("/dev/shm")
    folder = tmp_path_factory.mktemp("cellar")
    with Site(f"sticky://{folder}?size={SIZE >> 20}MB", servers=1) as site:
        with Browser(site) as first:
            first.put("n", 1)  # the map is there
        opened = lmdb.open(
            str(folder / "s1"), map_size=SIZE, max_readers=2048, writemap=True, sync=False
        )
        yield Cellar(site, opened, folder)
        opened.close()
        assert site.complaints() == []
    assert shared.exists()


def record_poisons(cellar: Cellar, raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Every way to poison an honest record, by name."""
    kind, packed = raw[:1], raw[1:]
    record = msgspec.msgpack.decode(packed)
    for what, bad in poison.structures(packed).items():
        for prefix in (b"r", b"m", b"z", b""):
            yield f"{prefix.decode() or 'no kind'}: {what}", prefix + bad
    yield "a record called a mark", b"m" + packed
    yield "more behind it", raw + b"\x91" * poison.DEPTH
    for what, bad in poison.values(cellar.witness).items():
        values = {**record[5], "basket": bad}
        yield f"value: {what}", kind + poison.pack([*record[:5], values])
    wrong = (poison.HUGE, -1, 0, None, "x", b"\xff", [], {}, [[]], [None], "../../x", 1.5, True)
    for at in range(len(record)):
        for bad in wrong:
            changed = [*record]
            changed[at] = bad
            yield f"item {at} is {bad!r}", kind + poison.pack(changed)
    for at in range(len(record[1])):
        for bad in wrong:
            origin = [*record[1]]
            origin[at] = bad
            yield f"origin {at} is {bad!r}", kind + poison.pack([record[0], origin, *record[2:]])
    for number, token in ((poison.HUGE, b"12345678"), (0, b"12345678"), (-1, b""), (2**63, b"x")):
        commits = [[number, token]]
        yield f"commit {number}", kind + poison.pack([*record[:2], commits, *record[3:]])
    parts = [poison.pack(part) for part in record]
    deep = b"\x91" * poison.DEPTH + b"\xc0"
    for at in range(len(parts) + 1):
        yield f"deep at {at}", kind + b"\x97" + b"".join([*parts[:at], deep, *parts[at:]])
        yield (
            f"no UTF-8 at {at}",
            kind + b"\x97" + b"".join([*parts[:at], b"\xa2\xff\xfe", *parts[at:]]),
        )
    yield "key no UTF-8", kind + b"\x96" + b"".join([b"\xa2\xff\xfe", *parts[1:]])
    yield (
        "value's key no UTF-8",
        kind + b"\x96" + b"".join([*parts[:5], b"\x81\xa2\xff\xfe\xc4\x01\x01"]),
    )
    yield (
        "principal no UTF-8",
        kind
        + b"\x96"
        + parts[0]
        + (b"\x93" + poison.pack(record[1][0]) + poison.pack(record[1][1]) + b"\xa2\xff\xfe")
        + b"".join(parts[2:]),
    )


def test_no_poison_in_a_record_harms_any_request(cellar: Cellar, figure: Figure) -> None:
    failed: list[object] = []
    tried = 0
    with victim(cellar.site) as ann:
        name = cellar.name(ann)
        honest = cellar.raw(name)
        every = list(record_poisons(cellar, honest))
        for number, (what, raw) in enumerate(every):
            for request, (method, path, more) in chosen(number):
                cellar.write(name, raw)
                with Browser(cellar.site, like=ann) as twin:
                    answer = twin.ask(method, path, **more)
                    tried += 1
                    if answer.status_code >= 500:
                        failed.append((what, request, answer.status_code, answer.text[:80]))
        cellar.write(name, None)
    assert not failed
    assert not cellar.witness.exists()
    figure(f"E LMDB, {len(every)} poisons: {tried} requests, 0 answered 5xx, 0 executed")


def test_poison_is_counted_and_costs_only_what_it_hit(cellar: Cellar, figure: Figure) -> None:
    unseen: list[object] = []
    tried = 0
    with victim(cellar.site) as ann:
        name, before = cellar.name(ann), ann.read()["data"]
        honest = cellar.raw(name)
        for what, raw in record_poisons(cellar, honest):
            cellar.write(name, raw)
            counts = cellar.site.counts()
            seen = ann.read()
            now = cellar.site.counts()
            counted = sum(now[kind] - counts[kind] for kind in COUNTED)
            tried += 1
            lost = [key for key in before if key not in seen["data"]]
            honest_loss = what.startswith("item 5 is {}")  # a record without a key is a record
            if (not seen["known"] or lost) and not counted and not honest_loss:
                unseen.append((what, seen))
            if what.startswith("value: "):
                assert set(lost) <= {"basket"}, what
                assert seen["principal"] == "ann", what
        cellar.write(name, None)
    assert not unseen
    figure(f"E LMDB: {tried} losses noticed and counted, or none")


def test_a_record_cut_at_each_byte_harms_nobody(cellar: Cellar, figure: Figure) -> None:
    requests = list(REQUESTS.items())
    with victim(cellar.site) as ann:
        name = cellar.name(ann)
        honest = cellar.raw(name)
        for tried, raw in enumerate(poison.truncated(honest)):
            request, (method, path, more) = requests[tried % len(requests)]
            cellar.write(name, raw)
            with Browser(cellar.site, like=ann) as twin:
                unharmed(twin.ask(method, path, **more), (raw, request))
        cellar.write(name, None)
    figure(f"E LMDB, cut at each of {len(honest)} bytes: 0 answered 5xx")


@pytest.mark.timeout(120 + TRIALS // 10)
def test_damage_by_chance_harms_nobody(cellar: Cellar, figure: Figure) -> None:
    chance = random.Random(2)
    requests = list(REQUESTS.items())
    failed: list[object] = []
    tried: Counter[str] = Counter()
    with victim(cellar.site) as ann:
        name = cellar.name(ann)
        honest = cellar.raw(name)
        before = cellar.site.counts()
        for _ in range(TRIALS):
            request, (method, path, more) = chance.choice(requests)
            raw = poison.damaged(honest, chance)
            cellar.write(name, raw)
            with Browser(cellar.site, like=ann) as twin:
                answer = twin.ask(method, path, **more)
            tried[request] += 1
            if answer.status_code >= 500:
                failed.append((raw, request, answer.status_code, answer.text[:80]))
        after = cellar.site.counts()
        cellar.write(name, None)
    assert not failed
    counted = {kind: after[kind] - before[kind] for kind in COUNTED}
    figure(f"E LMDB, damage by chance: {tried.total()} requests, 0 answered 5xx; {counted}")


def test_another_users_record_under_this_key_is_not_shown(cellar: Cellar) -> None:
    with victim(cellar.site) as ann, Browser(cellar.site) as bob:
        bob.login("bob")
        bob.put("secret", "bob's")
        mine, theirs = cellar.name(ann), cellar.name(bob)
        cellar.write(mine, cellar.raw(theirs))
        corrupt = cellar.site.counts()["corrupt"]
        seen = ann.read()
        assert (seen["known"], seen["principal"], seen["data"]) == (False, None, {})
        assert cellar.site.counts()["corrupt"] == corrupt + 1
        ann.logout()
        ann.login("ann")
        assert ann.read()["principal"] == "ann"


def test_poison_between_load_and_commit_harms_nobody(cellar: Cellar, figure: Figure) -> None:
    failed: list[object] = []
    with victim(cellar.site) as ann:
        name = cellar.name(ann)
        honest = cellar.raw(name)
        every = [one for one in record_poisons(cellar, honest) if not one[0].startswith("value: ")]
        for what, raw in every[::2]:
            cellar.write(name, honest)
            with Browser(cellar.site, like=ann) as twin:
                slow = twin.hold("PUT", "/api/slow/new?ms=0")
                cellar.write(name, raw)
                answer = slow.answer()
                if answer.status_code not in {200, 503}:
                    failed.append((what, answer.status_code, answer.text[:80]))
        cellar.write(name, None)
    assert not failed
    figure(f"E LMDB, poisoned between load and commit: {len(every[::2])} writes, 0 answered 500")


def test_a_poisoned_index_keeps_nobody_from_anything(cellar: Cellar) -> None:
    """The index of deadlines, which every write sweeps, and that of principals."""
    with victim(cellar.site), cellar.map.begin() as txn, txn.cursor() as cursor:
        members = [bytes(name) for name in cursor.iternext(values=False) if bytes(name[:1]) == b"p"]
        prefixes = {name[:17] for name in members}
    odd = [
        b"x",
        b"x\0",
        b"x" + b"\0" * 8,
        b"x" + b"\0" * 8 + b"\xff\xfe",
        b"p",
        b"p\xff",
        b"x" + b"\0" * 8 + b"../../x",
        b"x" + b"\0" * 7 + b"\x01" + b"k" * 300,
    ]
    odd += [
        prefix + tail for prefix in prefixes for tail in (b"\xff\xfe", b"../../x", b"\r\n", b"")
    ]
    for name in odd:
        cellar.write(name, b"")
    swept = 0
    with Browser(cellar.site) as bob:
        for request, (method, path, more) in REQUESTS.items():
            with victim(cellar.site) as eve:
                unharmed(eve.ask(method, path, **more), request)

        def is_swept() -> bool:  # once a second, by whoever writes
            bob.put("n", 1)
            bob.done("DELETE", "/api/session/n")
            with cellar.map.begin() as txn:
                return txn.get(b"x" + b"\0" * 8) is None

        eventually(is_swept)
        swept += 1
    assert swept
    with cellar.map.begin(write=True) as txn:
        for name in odd:
            txn.delete(name)


@pytest.mark.skipif(not PROVE, reason="50 MB a request need a machine of their own: make prove")
def test_a_record_of_fifty_megabytes_costs_only_its_own_visitor(
    cellar: Cellar, figure: Figure
) -> None:
    with victim(cellar.site) as ann, Browser(cellar.site) as bob:
        bob.login("bob")
        name = cellar.name(ann)
        honest = cellar.raw(name)
        record = msgspec.msgpack.decode(honest[1:])
        values = {**record[5], "basket": poison.pack("x" * 50_000_000)}
        big = honest[:1] + poison.pack([*record[:5], values])
        for request, (method, path, more) in REQUESTS.items():
            cellar.write(name, big)
            corrupt = cellar.site.counts()["corrupt"]
            with Browser(cellar.site, like=ann) as twin:
                unharmed(twin.ask(method, path, **more), request)
            assert cellar.site.counts()["corrupt"] > corrupt, request
            assert bob.read()["principal"] == "bob"
        cellar.write(name, None)
    figure(f"E LMDB, 50 MB under one key: {len(REQUESTS)} requests, 0 answered 5xx, each counted")
