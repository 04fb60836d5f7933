"""Visitors under load, each with a jar, who remember what was acknowledged and look for it."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from scenarios.browser import Browser
from scenarios.site import Site

TRY_AGAIN = {502, 503, 504}


@dataclass(frozen=True)
class Failure:
    """A request that was not answered, or answered that nobody knows."""

    sent: float
    ended: float
    what: str
    outcome: str
    by_server: bool = False  # a server said so itself: its answer came through the balancer
    half_way: bool = False  # after a login or rotation of this visitor's was cut in two


@dataclass
class Visitor:
    """One browser that reads, writes, appends, rotates and logs in again, one request at a time.

    Attributes:
        answered: how many requests were answered 200.
        lost: acknowledged writes that a later read did not show.
        foreign: values that are nobody's of ours.
        signed_out: reads that found nobody though nothing excused it.
        excused: how often a login or rotation that was cut in two signed its user out, or made
            the next login start empty (L1).
        anew: how often another server answered, which with sticky sessions is a new start.
        heard: whether a last read, with nothing in flight, was answered and judged.
        story: what was asked and answered before it was first found signed out.
    """

    site: Site
    name: str
    seed: int
    may_start_anew: bool = False
    answered: int = 0
    served_by: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    lost: list[object] = field(default_factory=list)
    foreign: list[object] = field(default_factory=list)
    wrong: list[object] = field(default_factory=list)
    signed_out: int = 0
    excused: int = 0
    anew: int = 0
    heard: bool = False
    story: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.browser = Browser(self.site)
        self.browser.http.timeout = httpx.Timeout(10)
        self.number = 0
        self.kept: dict[str, Any] = {}  # acknowledged
        self.perhaps: dict[str, list[Any]] = {}  # sent, and nobody knows
        self.list: list[int] = []
        self.perhaps_listed: set[int] = set()
        self.home = ""  # the server that answered last
        self.moved = False  # since the last read another server answered
        self.doubted = False  # what was known before such a login may be gone
        self.half_way = False  # a login or rotation failed: the old cookie may be over
        self.asked: deque[str] = deque(maxlen=30)

    @property
    def pin(self) -> str | None:
        """The server that the balancer's cookie names."""
        return self.browser.http.cookies.get("SRV")

    def run(self, until: threading.Event) -> None:
        try:
            self._log_in()
            while not until.is_set():
                self._act()
            for _ in range(50):  # the last word has nothing in flight
                if self._read():
                    self.heard = True
                    return
                time.sleep(0.1)  # a store that has just come back is asked again in a moment
        finally:
            self.browser.close()

    def _act(self) -> None:
        chance = self.random.random()
        self.number += 1
        if chance < 0.35:
            self._read()
        elif chance < 0.75:
            key = f"k{self.random.randrange(5)}"
            slow = chance < 0.5
            path = f"/api/slow/{key}?ms=30" if slow else f"/api/session/{key}"
            if self._ask("PUT", path, json=[self.name, self.number]) is not None:
                self.kept[key] = [self.name, self.number]
                self.perhaps.pop(key, None)
            else:
                self.perhaps.setdefault(key, []).append([self.name, self.number])
        elif chance < 0.85:
            if self._ask("POST", "/api/session/list/append", json=self.number) is not None:
                self.list.append(self.number)
            else:
                self.perhaps_listed.add(self.number)
        elif chance < 0.93:
            self.half_way |= self._ask("POST", "/api/rotate") is None
        else:
            self._log_in()

    def _log_in(self) -> None:
        if self._ask("POST", f"/api/login/{self.name}") is None:
            self.half_way = True
        elif self.half_way:
            # The cookie that a cut login left behind may have been over: then this one began anew.
            self.half_way = False
            self.doubted = bool(self.kept or self.list)
            for key, value in self.kept.items():
                self.perhaps[key] = [value, *self.perhaps.get(key, [])]
            self.perhaps_listed |= {*self.list}
            self.kept, self.list = {}, []

    def _read(self) -> bool:
        answer = self._ask("GET", "/api/session")
        if answer is None:
            return False
        seen = answer.json()
        if self.may_start_anew and self.moved:
            self.anew += 1
            self._start_anew(seen["data"])
            return True
        if seen["principal"] is None:
            self.excused += self.half_way
            if not (self.half_way or self.story):
                self.story = [*self.asked]
            self.signed_out += not self.half_way
            self._start_anew(seen["data"])
            return True
        self.half_way = False
        if self.doubted:
            self.doubted = False
            self.excused += not seen["data"].keys() & {*self.perhaps, "list"}
        self._compare(seen["principal"], seen["data"])
        return True

    def _compare(self, principal: str, data: dict[str, Any]) -> None:
        if principal != self.name:
            self.foreign.append(principal)
        listed = data.pop("list", [])
        unknown = [n for n in listed if n not in self.list and n not in self.perhaps_listed]
        if unknown or len(set(listed)) != len(listed):
            self.wrong.append(("list", listed, self.list))  # appended twice, or by nobody
        if missing := [n for n in self.list if n not in listed]:
            self.lost.append(("list", missing))
        self.foreign += [value for value in data.values() if value[0] != self.name]
        for key in self.kept.keys() | data.keys():
            if data.get(key) not in [self.kept.get(key), *self.perhaps.get(key, [])]:
                self.lost.append((key, data.get(key), self.kept.get(key), self.perhaps.get(key)))
        self._take(data, listed)

    def _take(self, data: dict[str, Any], listed: list[int]) -> None:
        """What a server has shown is known from here on."""
        self.kept, self.perhaps = dict(data), {}
        self.list, self.perhaps_listed = list(listed), set()

    def _start_anew(self, data: dict[str, Any]) -> None:
        listed = data.pop("list", [])
        self._take(data, listed)
        self.half_way = self.moved = self.doubted = False
        self._log_in()

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """Send a request; None when it failed in a way that a browser may meet."""
        sent, what = time.monotonic(), f"{method} {path}"
        told = f"{sent:.3f} {what} {self.browser.cookie}"
        try:
            answer = self.browser.ask(method, path, **more)
        except httpx.TransportError as error:
            self.asked.append(f"{told}: {error!r}")
            self.failures.append(Failure(sent, time.monotonic(), what, type(error).__name__))
            return None
        said = answer.headers.get_list("set-cookie")
        self.asked.append(f"{told}: {answer.status_code} {answer.text[:300]} {said}")
        if answer.status_code == 200:
            self.answered += 1
            server = answer.json()["server"]
            self.served_by[server] = self.served_by.get(server, 0) + 1
            self.moved |= self.home not in {"", server}
            self.home = server
            return answer
        if answer.status_code in TRY_AGAIN:
            outcome = str(answer.status_code)
            if "retry-after" not in answer.headers:
                self.wrong.append((what, outcome, "no Retry-After"))
            by_server = "x-served-by" in answer.headers
            self.failures.append(
                Failure(sent, time.monotonic(), what, outcome, by_server, self.half_way)
            )
        else:
            self.wrong.append((what, answer.status_code, answer.text))
        return None


@contextmanager
def visiting(visitors: list[Visitor]) -> Iterator[None]:
    """Let them all run while the context lasts; what any of them raised is raised at its end."""
    over = threading.Event()
    raised: list[BaseException] = []

    def run(visitor: Visitor) -> None:
        try:
            visitor.run(over)
        except BaseException as error:  # noqa: BLE001  (raised where the test can see it)
            raised.append(error)

    threads = [threading.Thread(target=run, args=(visitor,)) for visitor in visitors]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if raised:
        raise raised[0]
