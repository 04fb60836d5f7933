"""A WSGI application of a stranger's: counts a visitor's requests, says which process answered."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from samesession import Sessions
from samesession.web.wsgi import SessionMiddleware

sessions = Sessions.from_env()
LOADED_BY = os.getpid()


def counting(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    session = environ["samesession"]
    if environ["PATH_INFO"] == "/logout":
        session.logout()
    else:
        session["visits"] = session.get("visits", 0) + 1
    answer = {"pid": os.getpid(), "loaded_by": LOADED_BY, "visits": session.get("visits")}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


app = SessionMiddleware(counting, sessions)
