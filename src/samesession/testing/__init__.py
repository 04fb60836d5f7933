"""For tests: a client that is signed in, and the contract that every store keeps.

    sign_in(client, sessions, "ann", basket=["tea"])

The contract (`samesession.testing.contract`) needs the extra ``samesession[testing]``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from samesession.testing.clients import sign_in

if TYPE_CHECKING:
    from samesession.testing.contract import (
        StoreContract,
        changed,
        created,
        ending,
        fresh_key,
        now_ms,
        values_of,
    )

__all__ = [
    "StoreContract",
    "changed",
    "created",
    "ending",
    "fresh_key",
    "now_ms",
    "sign_in",
    "values_of",
]


def __getattr__(name: str) -> Any:
    """Import the contract's names at their first use: whoever signs in needs no Hypothesis."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("samesession.testing.contract"), name)
