"""Redis or Valkey on several servers of this machine: with sentinels, and as a cluster.

with Sentinelled(lag_ms=5) as engines:
engines.url               # redis+sentinel://127.0.0.1:41231,…/shop
engines.lose_primary()    # it and what was on its way to the replica: SIGKILL

with Cluster() as engines:
engines.url               # redis+cluster://127.0.0.1:41231,…
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Self

from samesession.lab.binaries import Binary, preferred
from samesession.lab.engines import Engine, ask, quoted
from samesession.lab.ports import LOOPBACK, Port
from samesession.lab.relay import Relay

SERVICE = "shop"
SETTLE_S = 40.0  # a second or two here; the rest is for a crowded machine
SLOTS = 16384


class Sentinelled:
    """A primary, a replica of it and three sentinels; leaving its context ends them all."""

    def __init__(
        self,
        binary: Binary | None = None,
        *,
        down_after_ms: int = 1000,
        lag_ms: float = 0,
        settings: Mapping[str, str] | None = None,
        sentinel_settings: Mapping[str, str] | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            down_after_ms: how long the sentinels wait for a primary that is silent.
            lag_ms: how far the replica is away. After about 8 s the sentinels notice that it
                follows a relay, and correct that.
            settings: more directives of the two servers.
            sentinel_settings: and of the sentinels.
        """
        self._binary = binary or preferred()
        self._down_after_ms = down_after_ms
        self._lag_ms = lag_ms
        self._settings = dict(settings or {})
        self._sentinel_settings = dict(sentinel_settings or {})
        self._stack = ExitStack()
        self._relay: Relay | None = None
        self.sentinels: list[Engine] = []

    @property
    def url(self) -> str:
        """Of the sentinels, without credentials."""
        hosts = ",".join(f"{LOOPBACK}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def lose_primary(self) -> None:
        """Kill the primary's machine: what was on its way to the replica is lost as well."""
        if self._relay is not None:
            self._relay.kill()
        self.primary.kill()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # Asked politely, a primary would wait for its replicas.
        for engine in (self.primary, self.replica, *self.sentinels):
            engine.kill()
        self._stack.close()

    def _start(self) -> None:
        self.primary = self._started()
        source = self.primary.port
        if self._lag_ms:
            self._relay = self._stack.enter_context(Relay(source, lag_ms=self._lag_ms))
            source = self._relay.port
        self.replica = self._started({"replicaof": f"{LOOPBACK} {source}"})
        word = self._settings.get("requirepass")
        eventually(
            lambda: "master_link_status:up" in self._info(self.replica, word, "replication"),
            "the replica does not follow",
        )
        for _ in range(3):
            self.sentinels.append(self._sentinel())
        eventually(self._settled, "the sentinels do not see each other and the replica")

    def _started(self, more: Mapping[str, str] | None = None) -> Engine:
        settings = {
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
            **self._settings,
            **(more or {}),
        }
        if "requirepass" in self._settings:
            settings["masterauth"] = self._settings["requirepass"]
        engine = self._stack.enter_context(Engine(self._binary, settings=settings))
        engine.restart()
        return engine

    def _sentinel(self) -> Engine:
        directives = {
            f"sentinel monitor {SERVICE}": f"{LOOPBACK} {self.primary.port} 2",
            f"sentinel down-after-milliseconds {SERVICE}": str(self._down_after_ms),
            f"sentinel failover-timeout {SERVICE}": "10000",
            **self._sentinel_settings,
        }
        if "requirepass" in self._settings:
            directives[f"sentinel auth-pass {SERVICE}"] = self._settings["requirepass"]
        sentinel = Engine(self._binary, settings=directives, sentinel=True)
        self._stack.enter_context(sentinel).restart()
        return sentinel

    def _settled(self) -> bool:
        word = self._sentinel_settings.get("requirepass")
        return all(
            "slaves=1,sentinels=3" in self._info(sentinel, word, "sentinel")
            for sentinel in self.sentinels
        )

    def _info(self, engine: Engine, word: str | None, section: str) -> str:
        if word is None:
            return ask(engine.port, "INFO", section)
        return ask(engine.port, "INFO", section, password=word.strip('"'))


class Cluster:
    """Three primaries with a replica each; leaving its context ends them all."""

    def __init__(
        self, binary: Binary | None = None, *, settings: Mapping[str, str] | None = None
    ) -> None:
        """Start nothing yet."""
        self._binary = binary or preferred()
        self._settings = dict(settings or {})
        self._stack = ExitStack()
        self.nodes: list[Engine] = []

    @property
    def url(self) -> str:
        """Of three of its servers."""
        hosts = ",".join(f"{LOOPBACK}:{node.port}" for node in self.nodes[:3])
        return f"redis+cluster://{hosts}"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
        self._stack.close()

    def _start(self) -> None:
        buses = [self._stack.enter_context(Port()) for _ in range(6)]
        for bus in buses:
            self.nodes.append(self._node(bus))
        first, *others = self.nodes
        for number, node in enumerate(self.nodes):
            _done(node, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for node, bus in zip(others, buses[1:], strict=True):
            _done(first, "CLUSTER", "MEET", LOOPBACK, str(node.port), str(bus.number))
        for number, node in enumerate(self.nodes[:3]):
            begin, end = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            _done(node, "CLUSTER", "ADDSLOTSRANGE", str(begin), str(end))
        eventually(
            lambda: all(
                ask(node.port, "CLUSTER", "NODES").count("connected") == 6 for node in self.nodes
            ),
            "the servers do not meet",
        )
        for primary, replica in zip(self.nodes[:3], self.nodes[3:], strict=True):
            name = ask(primary.port, "CLUSTER", "MYID").splitlines()[1]
            eventually(
                lambda replica=replica, name=name: ask(  # type: ignore[misc]
                    replica.port, "CLUSTER", "REPLICATE", name
                ).startswith("+OK"),
                "a replica does not know its primary",
            )
        eventually(self._settled, "the cluster does not become whole")

    def _node(self, bus: Port) -> Engine:
        settings = {
            "cluster-enabled": "yes",
            "cluster-port": str(bus.number),
            "cluster-node-timeout": "1000",
            "cluster-config-file": quoted("nodes.conf"),
            "repl-diskless-sync-delay": "0",
            **self._settings,
        }
        node = self._stack.enter_context(Engine(self._binary, settings=settings))
        node.restart()
        return node

    def _settled(self) -> bool:
        return all(
            "cluster_state:ok" in ask(node.port, "CLUSTER", "INFO") for node in self.nodes
        ) and all(
            "master_link_status:up" in ask(node.port, "INFO", "replication")
            for node in self.nodes[3:]
        )


def eventually(holds: Callable[[], bool], problem: str) -> None:
    """Wait until something holds.

    Raises:
        RuntimeError: it does not within a patient time.
    """
    deadline = time.monotonic() + SETTLE_S
    while True:
        try:
            if holds():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(problem)
        time.sleep(0.02)


def _done(engine: Engine, *words: str) -> None:
    answer = ask(engine.port, *words)
    if not answer.startswith("+OK"):
        raise RuntimeError(f"{' '.join(words)}: {answer.strip()}")
