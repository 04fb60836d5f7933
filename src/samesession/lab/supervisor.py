"""Runs a plan: engine, servers and balancer as children, in this order, ended in the other one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from samesession.balancers import haproxy
from samesession.balancers.site import Server, Site
from samesession.errors import ConfigError
from samesession.lab import engines, health, servers, variables
from samesession.lab.application import Interface
from samesession.lab.authority import Authority, authority_for
from samesession.lab.child import POLL_S, Child, Say
from samesession.lab.folder import RunFolder
from samesession.lab.plan import DEMO, Plan
from samesession.lab.ports import Port
from samesession.lab.recipe import Recipe, Sign
from samesession.settings import redacted

START_S = 30.0  # for importing an application, and for its first answer
ME = "up"
ENGINE = "engine"
BALANCER = "haproxy"

_PING = (b"PING\r\n", re.compile(rb"[+-]"))
_HEALTH = (
    f"GET {health.PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode(),
    re.compile(rb"HTTP/1\.[01] (200|404) "),
)
_ANY_ANSWER = (_HEALTH[0], re.compile(rb"HTTP/1"))


class Supervisor:
    """A running plan; entering starts it, leaving ends every process and removes every trace."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.plan = plan
        self.children: dict[str, Child] = {}
        self.ports: dict[str, Port] = {}
        self._say = say
        self._groups: list[list[Child]] = []
        self._folder: RunFolder | None = None
        self._software = ""
        self._env: Mapping[str, str] = {}

    @property
    def folder(self) -> RunFolder:
        """The private folder of this run."""
        if self._folder is None:
            self._folder = RunFolder()
        return self._folder

    @property
    def url(self) -> str:
        """Where clients go: the balancer."""
        return f"http://{self.ports[BALANCER].address}"

    @property
    def control(self) -> haproxy.Control:
        """The balancer's runtime socket."""
        return haproxy.Control(self.folder.path / "haproxy.sock")

    def drain_file(self, name: str) -> Path:
        """While this file exists, the server's ``/health`` answers 404."""
        return self.folder.path / f"{name}.drain"

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the children, last started first: SIGTERM, then SIGKILL for whoever does not."""
        while self._groups:
            group = self._groups.pop()
            for child in reversed(group):
                child.ask_to_end()
            await asyncio.gather(*(child.stop() for child in group))
        for port in self.ports.values():
            port.close()
        self.ports.clear()
        if self._folder is not None:
            self._folder.remove()

    def kill_all(self) -> None:
        """Make ``close`` quick: whoever still runs is killed."""
        for child in self.children.values():
            child.kill()

    async def add(self, name: str) -> None:
        """Start one more server, and have the balancer use it."""
        self._hold(name)
        if f"{self.plan.names[0]} in the cluster" in self.ports:
            self._hold(f"{name} in the cluster")  # it finds the others, and they hear of it
        await self._begin(self._server(name, self._software, self._env))
        server = Server(name, self.ports[name].address)
        self.control.add(server, self.plan.balanced_by)
        await self.wait_ready(name)

    async def remove(self, name: str) -> None:
        """Send a server nobody new, let it finish, and end it."""
        self.control.drain(name)
        while self.control.status()[name].requests_now:  # noqa: ASYNC110  (as in wait_ready)
            await asyncio.sleep(POLL_S)
        while not self.control.remove(name):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        child = self.children.pop(name)
        child.ask_to_end()
        await child.stop()

    async def wait_ready(self, *names: str) -> None:
        """Wait until these servers (all of them by default) answer and the balancer uses them."""
        wanted = set(names or self.plan.names)
        for name in wanted:
            await self.children[name].ready.wait()
        await self.children[BALANCER].ready.wait()
        while wanted - self._in_use():  # noqa: ASYNC110  (HAProxy tells only who asks)
            await asyncio.sleep(POLL_S)

    def _in_use(self) -> set[str]:
        try:
            seen = self.control.status()
        except OSError:  # it is being started again
            return set()
        return {name for name, condition in seen.items() if condition.state != "down"}

    async def _start(self) -> None:
        binary = haproxy.find_binary(self.plan.haproxy)
        self._hold(BALANCER, self.plan.port)
        authority = authority_for(self.plan.strategy, self.folder.path, self.plan.names)
        for name, port in authority.listen.items():
            self.ports[f"{name} in the cluster"] = port
        if authority.port is not None:
            self.ports[ENGINE] = authority.port
            await self._begin(self._engine(authority))
        env = self.plan.environment(authority.url, self.folder.path)
        software = servers.software_for(await self._probe(env), self.plan.server)
        self._software, self._env = software, env
        for name in self.plan.names:
            self._hold(name)
        await self._begin(*(self._server(name, software, env) for name in self.plan.names))
        await self._begin(self._balancer(binary))
        self._say(
            ME,
            f"{self.plan.app} on {self.plan.servers} servers ({software}), sessions in "
            f"{redacted(authority.url)}, affinity {self.plan.balanced_by}",
        )
        self._say(ME, f"open {self.url}  (Ctrl-C ends everything)")

    def _hold(self, name: str, number: int = 0) -> None:
        self.ports[name] = Port(number)

    async def _begin(self, *recipes: Recipe) -> None:
        """Start a group of children, and wait until each of them answers."""
        group = [Child(recipe, self._say) for recipe in recipes]
        self._groups.append(group)
        for child in group:
            self.children[child.name] = child
            child.start()
        await asyncio.gather(*(child.first_ready(START_S) for child in group))

    async def _probe(self, env: Mapping[str, str]) -> Interface:
        """Import the application in a process of its own, and learn what it is.

        Raises:
            ConfigError: it cannot be imported or served.
        """
        if self.plan.app == DEMO:  # known, and a second of every start
            return "asgi"
        report = self.folder.path / "probe.json"
        printed: list[str] = []
        probe = Child(
            Recipe(
                name="probe",
                argv=[sys.executable, "-m", "samesession.lab.probe", str(report)],
                env={**env, variables.SERVER: "probe", **self._listen(self.plan.names[0])},
                folder=self.plan.folder,
                restart=False,
            ),
            lambda _, line: printed.append(line),
        )
        self._groups.append([probe])
        probe.start()
        await probe.over(START_S)
        if not report.exists():
            problem = f"ended {probe.end}" if probe.end else f"took more than {START_S:.0f} s"
            raise ConfigError(f"importing {self.plan.app!r} {problem}: {' '.join(printed[-3:-1])}")
        found = json.loads(report.read_text())
        if "problem" in found:
            raise ConfigError(found["problem"])
        if not found["from_env"]:
            self._say(
                ME,
                f"{self.plan.app} does not call Sessions.from_env() when it is imported "
                "(in Django: SAMESESSION = {'url': os.environ['SAMESESSION_URL']}): "
                "--strategy acts only on applications that do",
            )
        interface: Interface = found["interface"]
        return interface

    def _engine(self, authority: Authority) -> Recipe:
        binary = engines.preferred()
        port = self.ports[ENGINE].number
        return Recipe(
            name=ENGINE,
            argv=engines.command(
                binary, port=port, folder=self.folder.path, settings=authority.settings
            ),
            env=os.environ,
            folder=self.folder.path,
            sign=Sign(port, *_PING),
            about=f"{binary}, started because nobody answers at {redacted(self.plan.strategy)},",
            restart=self.plan.restart,
            readable=engines.readable,
        )

    def _listen(self, name: str) -> Mapping[str, str]:
        """Where a server's agent listens, in a cluster."""
        agent = self.ports.get(f"{name} in the cluster")
        return {} if agent is None else {variables.LISTEN: agent.address}

    def _server(self, name: str, software: str, env: Mapping[str, str]) -> Recipe:
        port = self.ports[name].number
        return Recipe(
            name=name,
            argv=servers.command(software, port=port, workers=self.plan.workers),
            env={**env, variables.SERVER: name, **self._listen(name)},
            folder=self.plan.folder,
            sign=Sign(port, *_HEALTH),
            restart=self.plan.restart,
        )

    def _balancer(self, binary: str) -> Recipe:
        port = self.ports[BALANCER]
        site = Site(
            servers=tuple(Server(name, self.ports[name].address) for name in self.plan.names),
            affinity=self.plan.balanced_by,
            listen=port.address,
            health=health.PATH,
            control=self.control.path,
        )
        config = self.folder.path / "haproxy.cfg"
        config.write_text(haproxy.render(site))
        haproxy.check(binary, config)
        return Recipe(
            name=BALANCER,
            argv=[binary, "-W", "-db", "-f", str(config)],
            env=os.environ,
            folder=self.folder.path,
            sign=Sign(port.number, *_ANY_ANSWER),
            restart=self.plan.restart,
            readable=haproxy.readable,
        )
