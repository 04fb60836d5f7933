"""Clients that hang up, and an engine that refuses: nobody is shown another's session (D4, D6)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from scenarios.browser import Browser
from scenarios.conftest import Browsers, Figure
from scenarios.raw import Wire
from scenarios.resp import client
from scenarios.site import Site, at_once, eventually

from samesession.lab import engines

VISITORS, REQUESTS = 8, 250


@pytest.fixture(scope="module")
def refusing() -> Iterator[tuple[Site, int]]:
    with engines.start() as engine, Site(engine.url + "?deadline=3s", servers=2) as site:
        yield site, engine.port
        assert site.complaints() == []


def test_nobody_sees_another_session_while_clients_hang_up(site: Site, figure: Figure) -> None:
    seen: Counter[str] = Counter()

    def visit(number: int, ann: Browser) -> None:
        chance = random.Random(number)
        cookies = "; ".join(f"{name}={value}" for name, value in ann.http.cookies.items())
        wire = Wire(site.door("s1"))
        for _ in range(REQUESTS):
            path = chance.choice(["/api/session", "/api/session", "/api/sessions"])
            wire.send(path, b"Cookie: " + cookies.encode())
            if chance.random() < 0.3:
                wire.close()
                seen["hung up"] += 1
                continue
            answer = wire.receive()
            assert answer.status == 200
            if path == "/api/session":
                told = answer.json()
                assert (told["principal"], told["data"]) == (f"v{number}", {"mine": number})
                seen["own session"] += 1
            else:
                assert len(answer.json()) == 1
        wire.close()

    with ExitStack() as stack:
        everybody = [stack.enter_context(Browser(site)) for _ in range(VISITORS)]
        for number, ann in enumerate(everybody):
            ann.login(f"v{number}", "s1")
            ann.put("mine", number, "s1")
        at_once(*(partial(visit, number, ann) for number, ann in enumerate(everybody)))
        for ann in everybody:
            ann.logout("s1")
    assert seen["hung up"] > REQUESTS
    figure(f"D4 {dict(seen)}: 0 foreign values")


def test_a_full_engine_refuses_writes_by_503_and_serves_reads(
    refusing: tuple[Site, int], browsers: Browsers
) -> None:
    site, port = refusing
    ann = browsers(site)
    ann.login("ann", "s1")
    ann.put("n", 1, "s1")
    redis = client(port)
    redis.config_set("maxmemory", 1)
    try:
        for method, path in [
            ("PUT", "/api/session/n"),
            ("POST", "/api/login/ann"),
            ("POST", "/api/rotate"),
        ]:
            answer = ann.ask(method, path, at="s2", **({"json": 2} if method == "PUT" else {}))
            assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1")
        assert ann.read("s2")["data"] == {"n": 1}
    finally:
        redis.config_set("maxmemory", 0)
        redis.close()
    ann.put("n", 3, "s1")
    assert ann.read("s2")["data"] == {"n": 3}


def test_an_engine_that_became_a_replica_refuses_writes_by_503_and_serves_reads(
    refusing: tuple[Site, int], browsers: Browsers
) -> None:
    site, port = refusing
    ann = browsers(site)
    ann.put("n", 1, "s1")
    ann.read("s2")
    redis = client(port)
    redis.execute_command("CONFIG", "SET", "replica-serve-stale-data", "yes")
    redis.execute_command("REPLICAOF", "127.0.0.1", "1")  # nobody is there
    try:
        assert ann.ask("PUT", "/api/session/n", at="s2", json=2).status_code == 503
        assert ann.ask("POST", "/api/logout", at="s2").status_code == 503
        assert ann.read("s2")["data"] == {"n": 1}
    finally:
        redis.execute_command("REPLICAOF", "NO", "ONE")
        redis.close()
    eventually(lambda: ann.ask("PUT", "/api/session/n", at="s2", json=3).status_code == 200)
    assert ann.read("s1")["data"] == {"n": 3}


def test_commands_that_are_forbidden_are_503_and_recovered_from(
    refusing: tuple[Site, int], browsers: Browsers
) -> None:
    site, port = refusing
    ann = browsers(site)
    ann.put("n", 1, "s1")
    redis = client(port)
    redis.execute_command("ACL", "SETUSER", "default", "-hgetall", "-evalsha")
    try:
        for method, path in [("GET", "/api/session"), ("POST", "/api/login/ann")]:
            assert ann.ask(method, path, at="s2").status_code == 503
        assert ann.ask("GET", "/api/plain", at="s2").status_code == 200
    finally:
        redis.execute_command("ACL", "SETUSER", "default", "+@all")
        redis.close()
    eventually(lambda: ann.ask("GET", "/api/session", at="s2").status_code == 200)
    assert ann.read("s2")["data"] == {"n": 1}
