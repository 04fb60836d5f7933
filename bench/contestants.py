"""The table of contestants: a new one is a row here and a module in ``apps/``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contestant:
    """One way to keep sessions.

    Attributes:
        name: what tables and ``--only`` call it.
        app: module whose ``build(url)`` (or function after a colon) returns the application. A
            name, not a module: the parent process imports no contestant, and a server imports only
            its own.
        url: where the sessions live; ``{redis}`` and ``{folder}`` (on tmpfs) are filled in.
        keeps: False only for the baseline, which has no session to prove that it kept one.
        server: what serves it (`bench.serve.SERVERS`).
    """

    name: str
    app: str
    url: str = ""
    keeps: bool = True
    server: str = "uvicorn"

    @property
    def uses_redis(self) -> bool:
        """Say whether it talks to the benchmark's Redis, which can count its commands."""
        return "{redis}" in self.url


BASELINE = Contestant("none", "bench.apps.none", keeps=False)
SIGNED_COOKIE = Contestant("signed-cookie", "bench.apps.signed_cookie")
STARSESSIONS = Contestant("starsessions-redis", "bench.apps.starsessions_redis", "{redis}/0")
MEMORY = Contestant("samesession-memory", "bench.apps.samesession_url", "memory://")
STICKY = Contestant("samesession-sticky", "bench.apps.samesession_url", "sticky://{folder}")
REDIS = Contestant("samesession-redis", "bench.apps.samesession_url", "{redis}/1")
NEAR = Contestant("samesession-redis-near", "bench.apps.samesession_url", "{redis}/2?near=16MB")

RIVALS = (SIGNED_COOKIE, STARSESSIONS, MEMORY, STICKY, REDIS, NEAR)
EVERYBODY = (BASELINE, *RIVALS)
BY_NAME = {contestant.name: contestant for contestant in EVERYBODY}
