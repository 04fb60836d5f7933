"""One connection for all threads: commands leave at once, and each answer finds whoever asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from samesession._bridge import ready
from samesession.counts import uncounted
from samesession.errors import StoreUnavailableError
from samesession.lab.engines import Engine, start
from samesession.settings import Url
from samesession.stores.redis import wiring
from samesession.stores.redis_near_threads import TrackedThreadWire
from samesession.stores.redis_target import Node
from samesession.stores.redis_wire import Command

PATIENCE_S = 20.0


class Listening:
    """Hears everything, and keeps it."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def tracker(self, node: Node) -> Listening:
        return self

    def asked(self, command: Command) -> None:
        pass

    def refused(self) -> None:
        self.heard.append("refused")

    def listening(self) -> None:
        self.heard.append("listening")

    def answered(self) -> None:
        pass

    def changed(self, name: bytes | None) -> None:
        self.heard.append(f"changed {name!r}")

    def lost(self) -> None:
        self.heard.append("lost")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with start() as running:
        yield running


@pytest.fixture
def admin(engine: Engine) -> Iterator[redis.Redis]:
    with redis.Redis(port=engine.port) as client:
        yield client


Opener = Callable[..., TrackedThreadWire]


@pytest.fixture
def wire_to(engine: Engine) -> Iterator[Opener]:
    wires: list[TrackedThreadWire] = []

    def opened(told: Listening, deadline: str = "20s") -> TrackedThreadWire:
        url = Url.parse(f"redis://127.0.0.1:{engine.port}/0?deadline={deadline}")
        target, scripts, endings = wiring(url, uncounted)
        wires.append(TrackedThreadWire(target, scripts, endings, lambda: told))
        return wires[-1]

    yield opened
    for wire in wires:
        ready(wire.close())


def until(true: Callable[[], Any]) -> None:
    late = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < late, "never happened"
        time.sleep(0.005)


def test_a_thread_sends_though_another_one_waits_for_its_answer(
    wire_to: Opener, admin: redis.Redis
) -> None:
    wire = wire_to(Listening())
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(lambda: ready(wire.call("BLPOP", "queue", 0)))
        until(lambda: admin.info("clients")["blocked_clients"] == 1)
        second = threads.submit(lambda: ready(wire.call("ECHO", "me")))
        arrived = _arrived(admin)
        admin.rpush("queue", "you")
        assert first.result(PATIENCE_S) == [b"queue", b"you"]
        assert second.result(PATIENCE_S) == b"me"
    assert arrived


def _arrived(admin: redis.Redis) -> bool:
    """Whether a command lies at the engine behind the one that blocks."""
    late = time.monotonic() + 5
    while time.monotonic() < late:
        if any(int(one["qbuf"]) > 0 for one in admin.client_list() if one["cmd"] == "blpop"):
            return True
        time.sleep(0.005)
    return False


def test_each_answer_finds_whoever_asked(wire_to: Opener, admin: redis.Redis) -> None:
    told = Listening()
    wire = wire_to(told)
    wrong: list[object] = []
    over = threading.Event()
    beats: list[int] = []

    def work(number: int) -> None:
        for turn in range(100):
            said = f"{number}-{turn}".encode()
            reply = ready(wire.call("ECHO", said))
            if reply != said:
                wrong.append((said, reply))
            ready(wire.call("GET", f"watched-{turn % 7}"))

    def listen() -> None:
        here = ("127.0.0.1", admin.get_connection_kwargs()["port"])
        while not over.is_set():
            wire.read_news(here, lambda _tracker: (("PING",), lambda: beats.append(1)))

    def disturb() -> None:
        while not over.is_set():
            admin.set("watched-3", "changed")

    with ThreadPoolExecutor(8) as threads:
        others = [threads.submit(listen), threads.submit(disturb)]
        workers = [threads.submit(work, number) for number in range(6)]
        for worker in workers:
            worker.result(60)
        over.set()
        for other in others:
            other.result(PATIENCE_S)
    assert not wrong
    assert beats
    assert told.heard.count("changed b'watched-3'") > 1
    assert "lost" not in told.heard


def test_a_broken_connection_costs_nobody_who_waits_an_answer(
    wire_to: Opener, admin: redis.Redis
) -> None:
    told = Listening()
    wire = wire_to(told)
    over = threading.Event()
    answers: list[bytes] = []

    def work(number: int) -> None:
        turn = 0
        while not over.is_set() or not turn:
            said = f"{number}-{turn}".encode()
            assert ready(wire.call("ECHO", said)) == said
            answers.append(said)
            turn += 1

    with ThreadPoolExecutor(4) as threads:
        workers = [threads.submit(work, number) for number in range(4)]
        for kill in range(1, 6):
            before = len(answers)
            until(lambda since=before: len(answers) > since + 20)
            mine = admin.client_id()
            for one in admin.client_list():
                if int(one["id"]) != mine:
                    admin.client_kill_filter(_id=one["id"])
            until(lambda so_often=kill: told.heard.count("lost") >= so_often)
        over.set()
        for worker in workers:
            worker.result(PATIENCE_S)
    # Each connection was lost once, and the one that stands listens.
    assert told.heard.count("listening") == told.heard.count("lost") + 1
    assert told.heard[-1] == "listening"


def test_a_silent_server_is_given_up_by_all_who_wait(wire_to: Opener, admin: redis.Redis) -> None:
    told = Listening()
    wire = wire_to(told, deadline="200ms")
    ready(wire.call("PING"))
    admin.execute_command("CLIENT", "PAUSE", 1500, "ALL")
    began = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(lambda: ready(wire.call("PING"))) for _ in range(4)]
        for one in asked:
            with pytest.raises(StoreUnavailableError):
                one.result(PATIENCE_S)
    assert time.monotonic() - began < 1.4
    admin.execute_command("CLIENT", "UNPAUSE")

    def answers() -> bool:
        try:
            return bool(ready(wire.call("PING")))
        except StoreUnavailableError:  # the circuit is open for a moment
            return False

    until(answers)
    assert told.heard[-1] == "listening"
