"""Poisoned rows in a database: never 5xx, never executed, each counted."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scenarios.browser import Browser
from scenarios.conftest import Figure
from scenarios.site import Site
from sqlalchemy import Connection, text
from tables import started

from faults import poison
from faults.requests import COUNTED, REQUESTS, chosen, unharmed, victim
from faults.test_bad_local import record_poisons
from samesession.settings import Url
from samesession.stores.sql_drivers import Target

TRIALS = int(os.environ.get("SAMESESSION_ROWS", "300"))


@dataclass
class Archive:
    """A server, and its table opened beside it."""

    kind: str
    site: Site
    connection: Connection
    folder: Path

    @property
    def witness(self) -> Path:
        return self.folder / "executed"

    def name(self, browser: Browser) -> str:
        return str(browser.read()["handle"])

    def row(self, name: str) -> dict[str, Any]:
        found = self.connection.execute(
            text("SELECT * FROM samesession WHERE id = :name"), {"name": name}
        )
        return dict(found.mappings().one())

    def write(self, name: str, row: dict[str, Any] | None) -> None:
        self.connection.execute(text("DELETE FROM samesession WHERE id = :n"), {"n": name})
        if row is not None:
            self.connection.execute(
                text(
                    "INSERT INTO samesession (id, version, ended, principal, forget_ms, data) "
                    "VALUES (:id, :version, :ended, :principal, :forget_ms, :data)"
                ),
                {**row, "id": name},
            )


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def archive(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Archive]:
    with started(request.param) as (url, _), Site(f"{url}?deadline=2s", servers=1) as site:
        engine = Target.of(Url.parse(f"{url}?deadline=5s")).thread_engine(once=True)
        with engine.connect() as connection:
            folder = tmp_path_factory.mktemp("archive")
            yield Archive(request.param, site, connection, folder)
        engine.dispose()
        assert site.complaints() == []


def test_no_poison_in_a_row_harms_any_request(archive: Archive, figure: Figure) -> None:
    failed: list[object] = []
    tried = 0
    with victim(archive.site) as ann:
        name = archive.name(ann)
        honest = archive.row(name)
        every = list(record_poisons(archive, bytes(honest["data"])))  # type: ignore[arg-type]
        for number, (what, raw) in enumerate(every):
            for request, (method, path, more) in chosen(number)[:2]:
                archive.write(name, {**honest, "data": raw})
                with Browser(archive.site, like=ann) as twin:
                    answer = twin.ask(method, path, **more)
                    tried += 1
                    if answer.status_code >= 500:
                        failed.append((what, request, answer.status_code, answer.text[:80]))
        archive.write(name, None)
    assert not failed
    assert not archive.witness.exists()
    figure(f"E {archive.kind}, {len(every)} poisons: {tried} requests, 0 answered 5xx, 0 executed")


def test_poison_is_counted_and_costs_only_what_it_hit(archive: Archive, figure: Figure) -> None:
    unseen: list[object] = []
    tried = 0
    with victim(archive.site) as ann:
        name, before = archive.name(ann), ann.read()["data"]
        honest = archive.row(name)
        for what, raw in record_poisons(archive, bytes(honest["data"])):  # type: ignore[arg-type]
            archive.write(name, {**honest, "data": raw})
            counts = archive.site.counts()
            seen = ann.read()
            now = archive.site.counts()
            counted = sum(now[kind] - counts[kind] for kind in COUNTED)
            tried += 1
            lost = [key for key in before if key not in seen["data"]]
            honest_loss = what.startswith("item 5 is {}")  # a record without a key is a record
            if (not seen["known"] or lost) and not counted and not honest_loss:
                unseen.append((what, seen))
        archive.write(name, None)
    assert not unseen
    figure(f"E {archive.kind}: {tried} losses noticed and counted, or none")


def test_columns_that_lie_harm_nobody(archive: Archive, figure: Figure) -> None:
    lies: list[dict[str, Any]] = [
        *({"version": number} for number in (0, -1, 2**63 - 1, -(2**63))),
        *({"ended": number} for number in (1, -1, 7)),
        *({"forget_ms": number} for number in (0, -1, 2**63 - 1)),
        *({"principal": owner} for owner in (None, "", "x" * 32, "0" * 32)),
    ]
    tried = 0
    for lie in lies:
        for request, (method, path, more) in REQUESTS.items():
            with victim(archive.site) as ann:
                name = archive.name(ann)
                archive.write(name, {**archive.row(name), **lie})
                unharmed(ann.ask(method, path, **more), (lie, request))
                tried += 1
                archive.write(name, None)
    figure(f"E {archive.kind}, columns that lie: {tried} requests, 0 answered 5xx")


def test_another_users_row_under_this_key_is_not_shown(archive: Archive) -> None:
    with victim(archive.site) as ann, Browser(archive.site) as bob:
        bob.login("bob")
        bob.put("secret", "bob's")
        archive.write(archive.name(ann), archive.row(archive.name(bob)))
        corrupt = archive.site.counts()["corrupt"]
        seen = ann.read()
        assert (seen["known"], seen["principal"], seen["data"]) == (False, None, {})
        assert archive.site.counts()["corrupt"] == corrupt + 1
        assert bob.read()["data"] == {"secret": "bob's"}


def test_a_poisoned_row_keeps_nobody_from_signing_out_everywhere(archive: Archive) -> None:
    for raw in (b"", b"\x80\x04K\x01.", b"r\x91\xc0", b"m\xc1", b"r" + b"\x91" * poison.DEPTH):
        with Browser(archive.site) as eve, Browser(archive.site) as phone:
            eve.login("eve")
            phone.login("eve")
            spoilt = archive.name(phone)
            archive.write(spoilt, {**archive.row(spoilt), "data": raw})
            assert len(eve.done("GET", "/api/sessions").json()) == 1
            eve.done("POST", "/api/logout-everywhere")
            assert eve.is_nobody()
            assert phone.is_nobody()
            assert archive.row(spoilt)["ended"] == 1


@pytest.mark.timeout(120 + TRIALS // 5)
def test_damage_by_chance_harms_nobody(archive: Archive, figure: Figure) -> None:
    chance = random.Random(3)
    requests = list(REQUESTS.items())
    failed: list[object] = []
    kinds: Counter[int] = Counter()
    with victim(archive.site) as ann:
        name = archive.name(ann)
        honest = archive.row(name)
        for _ in range(TRIALS):
            raw = poison.damaged(bytes(honest["data"]), chance)
            request, (method, path, more) = chance.choice(requests)
            archive.write(name, {**honest, "data": raw})
            with Browser(archive.site, like=ann) as twin:
                answer = twin.ask(method, path, **more)
                kinds[answer.status_code] += 1
                if answer.status_code >= 500 and answer.status_code != 503:
                    failed.append((raw, request, answer.status_code, answer.text[:80]))
        archive.write(name, None)
    assert not failed
    figure(f"E {archive.kind}, damage by chance: {dict(kinds)}")
