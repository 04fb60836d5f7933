"""A running fleet as the scenarios see it: doors to knock at, and a log that must stay clean."""

from __future__ import annotations

import os
import re
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

import httpx
from tables import SERVERS, started

from samesession.lab.daemon import Daemon
from samesession.lab.fleet import Fleet
from samesession.lab.plan import Plan

T = TypeVar("T")
PROVE = os.environ.get("SAMESESSION_PROVE") == "1"
STARTED = {"sqlite", *SERVERS}

# Made once: httpx takes 20 ms to make one for each client, though everything here is plain http.
TLS = ssl.create_default_context()
# What a fault of ours looks like in a server's log; HAProxy's own words about a killed server not.
# For what is not about the deadline of 250 ms: a crowded machine may hold an engine up for longer.
PATIENT_REDIS = "redis://?deadline=3s"
CLUSTER = "cluster://?deadline=2s&size=16MB"  # agents share the machine with everybody's tests
# The others are started here, and get a deadline of 2 s.
PATIENT = {
    "redis": PATIENT_REDIS,
    "near": f"{PATIENT_REDIS}&near=16MB",
    "cluster": CLUSTER,
    "sqlite": "sqlite://",
    "postgresql": "postgresql://",
    "memcached": "memcached://",
}
SAID = "answered 503: "  # a plain line of ours, which quotes the engine's or the system's words
BROKEN = re.compile(r"Traceback|Exception|Error\b|\bERROR\b|never retrieved|was never awaited")


def eventually(holds: Callable[[], object], within: float = 20, every: float = 0.02) -> None:
    """Wait until something holds; the bound is generous, since the machine is shared."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"not within {within} s: {holds}"
        time.sleep(every)


class Site:
    """Servers behind a balancer.

    Attributes:
        shared: whether any server serves any session; if not (sticky, memory) everything runs
            through the balancer with the jar's affinity cookie.
        engine: whether the fleet started one.
    """

    def __init__(
        self,
        strategy: str,
        *,
        servers: int = 3,
        affinity: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.shared = not strategy.startswith(("memory", "sticky"))
        self.engine = strategy.startswith(("redis", "valkey"))
        # Known here, so that a test can sign what only we could have signed.
        self.key = secrets.token_urlsafe(48)
        self.server: Daemon | None = None
        self._strategy = strategy
        self._make: Callable[[str], Plan] = lambda url: Plan(
            strategy=url,
            servers=servers,
            affinity=affinity or ("none" if self.shared else None),  # type: ignore[arg-type]
            env={"SAMESESSION_KEYS": self.key, **(env or {})},
        )

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            url, kind = self._strategy, self._strategy.removesuffix("://")
            if kind in STARTED:
                found, self.server = stack.enter_context(started(kind))
                url = f"{found}?deadline=2s"  # these tests are about who is signed in, not speed
            self.store_url = url
            self.plan = self._make(url)
            self.fleet = stack.enter_context(Fleet(self.plan))
            self.fleet.wait_ready()
            self._stack = stack.pop_all()
        self.url = self.fleet.url
        self.names = self.plan.names
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def door(self, name: str | None = None) -> str:
        """The address where a request for a server goes: past the balancer where that is right."""
        return self.fleet.server_url(name) if name and self.shared else self.url

    @property
    def doors(self) -> tuple[str | None, ...]:
        """Every way in: the balancer, and each server where any server will do."""
        return (None, *self.names) if self.shared else (None,)

    @property
    def engine_port(self) -> int:
        """The engine that the fleet started."""
        return int(urlsplit(self.fleet.engine_url).port or 0)

    def counts(self, name: str = "s1") -> dict[str, int]:
        """What one server has counted."""
        where = self.fleet.server_url(name) + "/api/counts"
        answer = httpx.get(where, trust_env=False, timeout=20, verify=TLS)
        return {k: v for k, v in answer.json().items() if k != "server"}

    def all_counts(self) -> dict[str, int]:
        """What all servers have counted together."""
        each = [self.counts(name) for name in self.names]
        return {key: sum(one[key] for one in each) for key in each[0]}

    @property
    def log(self) -> list[str]:
        """What every process printed."""
        return list(self.fleet.lines.copy())

    def complaints(self) -> list[str]:
        """Lines that tell of a fault of ours: none is the only right answer."""
        return [line for line in self.log if BROKEN.search(line) and SAID not in line]


class Sites:
    """Sites that several test files share, each started when it is first wanted."""

    PLANS: Mapping[str, Callable[[], Site]] = {
        "memory": lambda: Site("memory://", servers=1),
        "sticky": lambda: Site("sticky://"),
        **{name: partial(Site, url) for name, url in PATIENT.items()},
    }

    def __init__(self) -> None:
        self._open: dict[str, Site] = {}

    def __getitem__(self, name: str) -> Site:
        if name not in self._open:
            self._open[name] = self.PLANS[name]().__enter__()
        return self._open[name]

    def close(self) -> None:
        """End them all, and judge their logs."""
        complaints = {name: site.complaints() for name, site in self._open.items()}
        for site in reversed(self._open.values()):
            site.__exit__(None, None, None)
        assert not any(complaints.values()), complaints


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Run calls in threads that start together; their results in order."""
    together = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        together.wait(20)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]
