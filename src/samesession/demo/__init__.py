"""The example application: a small shop that runs on many servers.

``samesession up`` serves it when it is given no other application. By itself:
``uvicorn samesession.demo:app``. It reads the environment (``SAMESESSION_URL`` and so on); without
``SAMESESSION_URL`` its sessions live in the memory of this process.
"""

from __future__ import annotations

import os

from samesession import Cookie, Sessions
from samesession.demo.application import create_app
from samesession.demo.place import Place

__all__ = ["app", "create_app"]


def _sessions() -> Sessions:
    if os.environ.get("SAMESESSION_URL"):
        return Sessions.from_env()
    return Sessions.from_url("memory://", cookie=Cookie(secure=False))


app = create_app(_sessions(), Place.from_env())
