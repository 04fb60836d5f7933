"""Every kind of request that a poisoned session may meet, and how to see that it did no harm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from scenarios.browser import Browser
from scenarios.site import Site

# A loss is counted as one of these.
COUNTED = ("corrupt", "lapsed", "lost", "absent", "quiet")

REQUESTS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "read": ("GET", "/api/session", {}),
    "write": ("PUT", "/api/session/new", {"json": 1}),
    "append": ("POST", "/api/session/list/append", {"json": 1}),
    "remove": ("DELETE", "/api/session/basket", {}),
    "slow write": ("PUT", "/api/slow/new?ms=1", {"json": 1}),
    "list": ("GET", "/api/sessions", {}),
    "rotate": ("POST", "/api/rotate", {}),
    "login": ("POST", "/api/login/ann", {}),
    "login as another": ("POST", "/api/login/bob", {}),
    "logout": ("POST", "/api/logout", {}),
    "everywhere": ("POST", "/api/logout-everywhere", {}),
}


def chosen(number: int) -> list[tuple[str, tuple[str, str, dict[str, Any]]]]:
    """The read and three others: so each poison meets four requests, and each request a third."""
    requests = list(REQUESTS.items())
    return [requests[0], *(requests[1 + (number + step) % 10] for step in (0, 3, 6))]


def victim(site: Site) -> Browser:
    """A signed-in visitor with a basket."""
    ann = Browser(site)
    ann.put("basket", {"tea": 2, "pears": [1, 2]}, "s1")
    ann.put("list", [1, 2, 3], "s1")
    ann.login("ann", "s1")
    ann.put("number", 7, "s1")
    return ann


def unharmed(answer: httpx.Response, what: object) -> None:
    """No fault of a server's, whatever else."""
    assert answer.status_code < 500, (what, answer.status_code, answer.text)
