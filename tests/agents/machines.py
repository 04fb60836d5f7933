"""Machines with a network of their own each, and on each a real web server: the demo shop.

They listen on unix sockets, which lie in the file system that all machines share here: whoever
asks needs no network, and sees a machine that is cut off from the others.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from agents.hosts import Wires, namespaces
from agents.network import eventually
from samesession.cluster import election, status
from samesession.cluster.options import Options
from samesession.lab.processes import others_in_group
from samesession.settings import Url

KEY = "a-key-of-32-bytes-or-more-for-tests"
START_S = 60.0
BROKEN = re.compile(r"Traceback|Exception|Error\b|\bERROR\b|never retrieved|was never awaited")


class Machine:
    """One machine with one web server, and the server's agent."""

    def __init__(
        self, name: str, url: str, folder: Path, env: Mapping[str, str], within: tuple[str, ...]
    ) -> None:
        self.name = name
        self.url = url
        self.log = folder / f"{name}.log"
        self._socket = folder / f"{name}.sock"
        self._within = within
        self._env = {
            **os.environ,
            "SAMESESSION_URL": url,
            "SAMESESSION_SERVER": name,
            "SAMESESSION_KEYS": KEY,
            "SAMESESSION_SECURE": "0",
            **env,
        }
        self.options = Options.of(Url.parse(url), self._env)
        self.http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self._socket)),
            base_url="http://shop",
            timeout=30,
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start the web server, which joins before it listens."""
        command = [sys.executable, "-m", "uvicorn", "samesession.demo:app", "--log-level=warning"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._within, *command, "--uds", str(self._socket)],
                env=self._env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        with socket.socket(socket.AF_UNIX) as probe:  # httpx leaves one open that is refused
            if probe.connect_ex(str(self._socket)):
                return False
        return self.http.get("/api/plain").status_code == 200

    @property
    def agent(self) -> int | None:
        return election.holder(self.options.lock)

    def status(self) -> dict[str, Any]:
        """What its agent knows."""
        os.environ["SAMESESSION_SERVER"] = self.name
        try:
            return status.of(self.url)
        finally:
            del os.environ["SAMESESSION_SERVER"]

    def linked(self) -> set[str]:
        return set(self.status()["agent"]["linked"])

    def signal(self, number: signal.Signals) -> None:
        """To the web server and its agent at once."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(10)
        eventually(lambda: self.agent is None)

    def stop(self) -> None:
        """As a deploy does: the web server first, and its agent hands over."""
        if self._process is None or self._process.poll() is not None:
            return
        self.signal(signal.SIGCONT)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(15)
        with contextlib.suppress(AssertionError):
            eventually(lambda: not others_in_group(self._process.pid), 15)  # type: ignore[union-attr]
        self.kill()

    def complaints(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if BROKEN.search(line)]


@dataclass
class Jar:
    """A browser's cookie, whichever machine it is sent to."""

    cookie: str = ""
    answers: dict[int, int] = field(default_factory=dict)

    def ask(self, at: Machine, method: str, path: str, json: object = None) -> httpx.Response:
        """Send a request; any answer is an answer."""
        headers = {"cookie": f"session={self.cookie}"} if self.cookie else {}
        answer = at.http.request(method, path, json=json, headers=headers)
        at.http.cookies.clear()  # the jar is this one
        self.answers[answer.status_code] = self.answers.get(answer.status_code, 0) + 1
        for value in answer.headers.get_list("set-cookie"):
            name, _, rest = value.partition("=")
            if name == "session":
                self.cookie = rest.partition(";")[0].strip('"')
        return answer

    def done(self, at: Machine, method: str, path: str, json: object = None) -> httpx.Response:
        """Again while it says *try again*, and never anything else."""
        found: list[httpx.Response] = []

        def answered() -> bool:
            answer = self.ask(at, method, path, json)
            assert answer.status_code in {200, 503}, (path, answer.status_code, answer.text)
            assert answer.status_code == 200 or "retry-after" in answer.headers
            found.append(answer)
            return answer.status_code == 200

        eventually(answered)
        return found[-1]

    def read(self, at: Machine) -> dict[str, Any]:
        seen: dict[str, Any] = self.done(at, "GET", "/api/session").json()
        return seen

    def twin(self) -> Jar:
        return Jar(self.cookie)


@contextlib.contextmanager
def on_machines(
    number: int,
    folder: Path,
    tls: Path,
    query: str = "",
    env: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[tuple[list[Machine], Wires]]:
    """Web servers s1 …, each on a machine of its own, joined over mutual TLS.

    Args:
        number: how many.
        folder: for their maps, sockets and logs.
        tls: certificates.
        query: more parameters of the URL.
        env: more environment variables, by server.
    """
    with namespaces(number) as names:
        seeds = ",".join(f"10.231.0.{index + 1}" for index in range(number))
        url = f"cluster://{seeds}{folder}?size=16MB&tls={tls}&deadline=2s{query and '&' + query}"
        machines: list[Machine] = []
        try:
            for index, name in enumerate(names):
                within = ("ip", "netns", "exec", name)
                more = (env or {}).get(f"s{index + 1}", {})
                machines.append(Machine(f"s{index + 1}", url, folder, more, within).start())
            for machine in machines:
                eventually(machine.answers, START_S)
            yield machines, Wires(names)
            assert [line for machine in machines for line in machine.complaints()] == []
        finally:
            for machine in machines:
                machine.stop()
                machine.http.close()
