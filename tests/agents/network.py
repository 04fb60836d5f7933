"""Servers of the transport in this process: each with the one queue that its handlers run from."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from samesession.cluster.transport import ALL, Question, mailbox
from samesession.cluster.zenoh import Place, ZenohTransport
from samesession.lab.ports import Port

PATIENCE_S = 20.0


def eventually(holds: Callable[[], object], within: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"not within {within} s: {holds}"
        time.sleep(0.01)


class Node:
    """One server; whatever it hears stands in its lists."""

    def __init__(
        self, name: str, port: Port, seeds: tuple[Port, ...] = (), tls: Path | None = None
    ) -> None:
        self.name = name
        self.address = port.address
        self.heard: list[bytes] = []
        self.links: dict[str, bool] = {}
        self.changes: list[tuple[float, str, bool]] = []
        self.threads: set[int] = set()
        self.answers: Callable[[Question, bytes], None] = lambda question, frame: question.reply(
            frame
        )
        self._queue: queue.SimpleQueue[tuple[Callable[..., object], tuple[object, ...]] | None]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        place = Place(name, port.address, tuple(seed.address for seed in seeds), tls)
        try:
            self.transport = ZenohTransport(place, lambda take, *a: self._queue.put((take, a)))
        except BaseException:
            self._queue.put(None)
            raise
        self.transport.subscribe(ALL, self._hear)
        self.transport.subscribe(mailbox(name), self._hear)
        self.transport.reply(self._asked)
        self.transport.liveness(self._link)

    def ask(self, server: str, frame: bytes, within_ms: int = 5000) -> bytes | None:
        """Ask one server and wait."""
        answer: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.transport.query(server, frame, answer.put, within_ms=within_ms)
        return answer.get(timeout=PATIENCE_S)

    def sees(self, *names: str) -> bool:
        return {name for name, up in self.links.items() if up} == set(names)

    def close(self) -> None:
        self.transport.close()
        self._queue.put(None)
        self._thread.join(5)

    def _asked(self, question: Question, frame: bytes) -> None:
        self.answers(question, frame)

    def _hear(self, frame: bytes) -> None:
        self.threads.add(threading.get_ident())
        self.heard.append(frame)

    def _link(self, server: str, up: bool) -> None:
        self.threads.add(threading.get_ident())
        self.links[server] = up
        self.changes.append((time.monotonic(), server, up))

    def _run(self) -> None:
        while (posted := self._queue.get()) is not None:
            take, arguments = posted
            take(*arguments)


@contextmanager
def ports(number: int) -> Iterator[tuple[Port, ...]]:
    held = tuple(Port() for _ in range(number))
    yield held
    for port in held:
        port.close()


@contextmanager
def nodes(number: int, tls: Path | None = None) -> Iterator[list[Node]]:
    """Servers that know one another's addresses, linked."""
    with ports(number) as held:
        started: list[Node] = []
        try:
            for index, port in enumerate(held):
                others = tuple(other for other in held if other is not port)
                started.append(Node(f"s{index + 1}", port, others, tls))
            for node in started:
                others_ = [other.name for other in started if other is not node]
                eventually(lambda n=node, o=others_: n.sees(*o))  # type: ignore[misc]
            yield started
        finally:
            for node in started:
                node.close()
