"""The Redis that the contestants share: a real one, on the core of the load generator."""

from __future__ import annotations

from samesession.lab.engines import Engine, preferred, redis_like, start


def redis() -> Engine:
    """Start Redis itself where there is one, which most people run; else Valkey."""
    return start(next((binary for binary in redis_like() if binary.name == "Redis"), preferred()))
