"""Servers of a cluster as processes: a worker and its agent in one group, on loopback or in
network namespaces of their own, to be killed, paused and cut."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.network import PATIENCE_S, eventually
from samesession.cluster import election, status
from samesession.cluster.options import Options
from samesession.lab.ports import Port
from samesession.lab.processes import others_in_group
from samesession.settings import Url

HEAR_S = 150.0
"""For one verb, as for thousands of sessions on a machine that others use too."""

JOIN_S = 60.0
"""For twelve servers on two cores, or for three with 100 000 sessions."""

WORKER = Path(__file__).with_name("worker.py")


class Host:
    """One server."""

    def __init__(
        self,
        name: str,
        url: str,
        listen: str,
        *,
        within: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.url = url
        self.env = {
            **os.environ,
            "SAMESESSION_URL": url,
            "SAMESESSION_SERVER": name,
            "SAMESESSION_LISTEN": listen,
            **(env or {}),
        }
        self.options = Options.of(Url.parse(url), self.env)
        self.stayed: list[int] = []
        """Who did not end by itself when it was asked to."""
        self._within = within
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start the worker; it starts the agent when it is first asked for something."""
        self._process = subprocess.Popen(
            [*self._within, sys.executable, str(WORKER)],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def tell(self, verb: str, **arguments: Any) -> None:
        """Ask without waiting; `hear` waits."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([verb, arguments]) + "\n")
        self.process.stdin.flush()

    def hear(self, within: float = 60) -> dict[str, Any]:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(within), f"{self.name} says nothing"
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def __call__(self, verb: str, **arguments: Any) -> dict[str, Any]:
        self.tell(verb, **arguments)
        return self.hear(HEAR_S)

    def patiently(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Again until it is no longer unavailable."""
        deadline = time.monotonic() + PATIENCE_S
        while (answer := self(verb, **arguments))["is"] == "unavailable":
            assert time.monotonic() < deadline, answer
            time.sleep(0.02)
        return answer

    @property
    def agent(self) -> int | None:
        """The agent's process id, or None when there is none."""
        return election.holder(self.options.lock)

    def signal_agent(self, number: signal.Signals) -> int:
        pid = self.agent
        assert pid is not None, f"{self.name} has no agent"
        os.kill(pid, number)
        return pid

    def signal(self, number: signal.Signals) -> None:
        """To the worker and the agent at once, as if the whole machine did it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """The whole server, kill -9."""
        self.signal(signal.SIGKILL)
        self.bury()
        eventually(lambda: self.agent is None)

    def bury(self) -> None:
        """Wait for a worker that was killed, and let go of its pipes."""
        self.process.wait(10)
        for end in (self.process.stdin, self.process.stdout):
            if end is not None:
                with contextlib.suppress(BrokenPipeError):
                    end.close()

    def status(self) -> dict[str, Any]:
        """What its agent knows."""
        os.environ.update({name: self.env[name] for name in ("SAMESESSION_SERVER",)})
        try:
            return status.of(self.url)
        finally:
            os.environ.pop("SAMESESSION_SERVER", None)

    def stop(self) -> None:
        """End the worker, and ask its agent to follow; whoever stays is killed."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            assert self.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            if (agent := self.agent) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(agent, signal.SIGTERM)
            if self.process.poll() is None:
                self.process.kill()  # it is in the middle of something
        left = others_in_group(self.process.pid)
        with contextlib.suppress(AssertionError):
            eventually(lambda: not others_in_group(self.process.pid), 12)
        self.stayed = others_in_group(self.process.pid)
        for pid in self.stayed:
            os.kill(pid, signal.SIGKILL)
        self.bury()
        assert set(self.stayed) <= set(left), "an agent was spawned while it ended"


@contextlib.contextmanager
def on_loopback(
    number: int,
    folder: Path,
    query: str = "",
    env: Mapping[str, str] | None = None,
    *,
    size: str = "16MB",
) -> Iterator[list[Host]]:
    """Servers that share this machine's loopback, joined."""
    held = [Port() for _ in range(number)]
    seeds = ",".join(port.address for port in held)
    started: list[Host] = []
    try:
        for index, port in enumerate(held):
            url = f"cluster://{seeds}{folder}?size={size}&deadline=5s{query and '&' + query}"
            started.append(Host(f"s{index + 1}", url, port.address, env=env))
        joined(started)
        yield started
    finally:
        ended(started)
        for port in held:
            port.close()


def joined(hosts: Sequence[Host]) -> None:
    """Have them all join."""
    for host in hosts:
        host.tell("join", within_s=JOIN_S)
    for host in hosts:
        heard = host.hear(JOIN_S + 10)
        assert heard["is"] == "ready", f"{host.name}: {heard}"


def ended(hosts: Sequence[Host]) -> None:
    for host in hosts:
        host.stop()
    assert [(host.name, host.stayed) for host in hosts if host.stayed] == []


@contextlib.contextmanager
def namespaces(number: int) -> Iterator[list[str]]:
    """Network namespaces (s1 …) on one bridge, each with the address 10.231.0.N; needs root."""
    mine = f"ss{os.getpid() % 100_000}"
    hub = f"{mine}-hub"
    names = [f"{mine}-s{index + 1}" for index in range(number)]
    try:
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        for index, name in enumerate(names):
            _ip("netns", "add", name)
            _ip(
                "-n", hub, "link", "add", f"h{index}", "type", "veth", "peer", "eth0", "netns", name
            )
            _ip("-n", hub, "link", "set", f"h{index}", "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"10.231.0.{index + 1}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in [*names, hub]:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


class Wires:
    """The cables of servers in namespaces, to be cut and to be made bad."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def unplug(self, index: int) -> None:
        """Nothing in, nothing out, and nobody is told."""
        _ip("-n", self._hub, "link", "set", f"h{index}", "down")

    def plug(self, index: int) -> None:
        _ip("-n", self._hub, "link", "set", f"h{index}", "up")

    def filter(self, index: int, *rules: str) -> None:
        """Replace a server's rules: nftables', on what comes in."""
        name = self._names[index]
        text = "flush ruleset\n"
        if rules:
            lines = ["type filter hook input priority 0;", *rules]
            text += "table ip faults {\nchain in {\n" + "\n".join(lines) + "\n}\n}\n"
        subprocess.run(
            ["ip", "netns", "exec", name, "nft", "-f", "-"], input=text, text=True, check=True
        )

    @property
    def _hub(self) -> str:
        return self._names[0].rpartition("-")[0] + "-hub"


@contextlib.contextmanager
def on_machines(
    number: int, folder: Path, tls: Path, query: str = "", *, listed: int | None = None
) -> Iterator[tuple[list[Host], Wires]]:
    """Servers with a network of their own each, joined, over mutual TLS.

    Only the first ``listed`` of them stand in the URL, if not all.
    """
    with namespaces(number) as names:
        seeds = ",".join(f"10.231.0.{index + 1}" for index in range(listed or number))
        started: list[Host] = []
        try:
            for index, name in enumerate(names):
                url = f"cluster://{seeds}{folder}?size=16MB&tls={tls}{query and '&' + query}"
                within = ("ip", "netns", "exec", name)
                listen = f"10.231.0.{index + 1}:7420"
                started.append(Host(f"s{index + 1}", url, listen, within=within))
            joined(started)
            yield started, Wires(names)
        finally:
            ended(started)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
