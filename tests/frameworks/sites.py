"""Each framework's application on real servers: which program serves it, and how it is started."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import ssl
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import httpx

from samesession.lab.ports import LOOPBACK, Port
from samesession.lab.processes import signal_group, spawn

TESTS = Path(__file__).parent.parent
KEY = "the key of every server in the frameworks' tests"
TLS = ssl.create_default_context()
PATIENCE_S = 30.0
BROKEN = re.compile(r"never retrieved|was never awaited|ConfigError|AssertionError")


@dataclass(frozen=True)
class Row:
    """One framework under one program.

    Attributes:
        module: in `frameworks.apps`.
        server: the command's words; ``{port}`` is filled in.
        sockets: whether it has websockets.
        keeps_on_error: its own 500 page is a response, so what the handler wrote is kept.
        late_write: the answer to a write after a logout elsewhere; Django says so with 400.
        keeps_empty: a session emptied of its last key lives on.
        lacks: ways of asking that its session does not have.
        workers: processes of the second server.
        env: more of its environment.
    """

    module: str  # "module" or "module:attribute"
    server: str
    sockets: bool = True
    keeps_on_error: bool = False
    late_write: int = 200
    keeps_empty: bool = False
    lacks: frozenset[str] = frozenset()
    workers: int = 2
    env: tuple[tuple[str, str], ...] = ()

    @property
    def target(self) -> str:
        return self.module if ":" in self.module else f"{self.module}:app"


_GUNICORN = "gunicorn --bind 127.0.0.1:{port} --workers {workers} --threads 8 --no-control-socket"
_GUNICORN_AIOHTTP = (
    "gunicorn --bind 127.0.0.1:{port} --workers {workers} --no-control-socket"
    " --worker-class aiohttp.GunicornWebWorker"
)
_UVICORN = "uvicorn --host 127.0.0.1 --port {port} --workers {workers} --log-level warning"
_HYPERCORN = "hypercorn --bind 127.0.0.1:{port} --workers {workers} --log-level warning"
_GRANIAN = "granian --host 127.0.0.1 --port {port} --workers {workers} --log-level warning"

_DJANGO = Row(
    "django_app",
    "",
    sockets=False,
    late_write=400,
    keeps_empty=True,
    lacks=frozenset(
        {"len", "bool", "iter", "copy", "eq", "ne", "or", "ior", "repr", "reversed", "popitem"}
    ),
)

ROWS = {
    "flask": Row("flask_app", f"{_GUNICORN} --preload", sockets=False, keeps_on_error=True),
    "wsgi": Row("wsgi_app", f"{_GRANIAN} --interface wsgi --blocking-threads 8", sockets=False),
    "asgi": Row("asgi_app", f"{_GRANIAN} --interface asgi"),
    "starlette": Row("starlette_app", _UVICORN, workers=4),
    "aiohttp": Row("aiohttp_app", _GUNICORN_AIOHTTP),
    "quart": Row("quart_app", _HYPERCORN, keeps_on_error=True),
    "litestar": Row("litestar_app", _UVICORN, keeps_on_error=True),
    "fastapi": Row("fastapi_app", _UVICORN),
    "bottle": Row("bottle_app", f"{_GUNICORN} --preload", sockets=False, keeps_on_error=True),
    "falcon": Row("falcon_app", f"{_GUNICORN} --preload", sockets=False, keeps_on_error=True),
    "falcon-asgi": Row("falcon_app:asgi", _UVICORN, keeps_on_error=True),
    "django": replace(_DJANGO, server=f"{_GUNICORN} --preload"),
    "django-asgi": replace(
        _DJANGO, module="django_app:asgi", server=_UVICORN, env=(("DJANGO_VIEWS", "async"),)
    ),
}


class Server:
    """One server of one row."""

    def __init__(self, row: Row, name: str, env: dict[str, str], workers: int) -> None:
        self.port = Port()
        self.url = f"http://{LOOPBACK}:{self.port.number}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        words = row.server.format(port=self.port.number, workers=workers).split()
        self._process = spawn(
            [sys.executable, "-m", *words, f"frameworks.apps.{row.target}"],
            env={**os.environ, "PYTHONPATH": str(TESTS), **env, "SAMESESSION_SERVER": name},
            output=self._log.fileno(),
        )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health", verify=TLS, trust_env=False).status_code == 200:
                    return
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    @property
    def log(self) -> str:
        """What it has printed."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def close(self) -> None:
        signal_group(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except Exception:  # noqa: BLE001  (a server that does not want to)
            signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.port.close()
        self.said = self.log
        self._log.close()


class Site:
    """Two servers of a framework over one store, or one over its own memory."""

    def __init__(self, row: Row, url: str, *, servers: int = 2, **env: str) -> None:
        self.row = row
        self.shared = not url.startswith(("memory", "sticky"))
        self.on_engine = url.startswith("redis")
        self.copies = "near=" in url
        env = {
            "SAMESESSION_URL": url,
            "SAMESESSION_KEYS": KEY.replace(" ", "-"),
            "SAMESESSION_SECURE": "0",
            **dict(row.env),
            **env,
        }
        names = ["s1", "s2"][:servers] if self.shared else ["s1"]
        # What is in memory is one process's; over a store the second server has more of them.
        sticky = row.workers if url.startswith("sticky") else 1
        count = {"s1": sticky, "s2": row.workers}
        self.servers = [Server(row, name, env, count[name]) for name in names]
        for server in self.servers:
            server.wait_ready()

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def close(self) -> None:
        logs = []
        for server in self.servers:
            server.close()
            logs.append(server.said)
        for log in logs:
            assert not BROKEN.search(log), log


class Browser:
    """One visitor; ``at`` says which server is asked (1 or 2; one server is all of them)."""

    def __init__(self, site: Site, like: Browser | None = None) -> None:
        self.site = site
        self.http = httpx.Client(trust_env=False, timeout=PATIENCE_S, verify=TLS)
        if like is not None:
            self.http.cookies.update(like.http.cookies)

    def twin(self) -> Browser:
        """Another tab, or a thief."""
        return Browser(self.site, self)

    def ask(self, method: str, path: str, at: int = 1, **more: Any) -> httpx.Response:
        return self.http.request(method, self.where(at) + path, **more)

    def where(self, at: int) -> str:
        return self.site.urls[(at - 1) % len(self.site.urls)]

    def done(self, method: str, path: str, at: int = 1, **more: Any) -> httpx.Response:
        answer = self.ask(method, path, at, **more)
        assert answer.status_code == 200, (method, path, answer.status_code, answer.text)
        return answer

    def read(self, at: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = self.done("GET", "/api/session", at).json()
        return found

    def put(self, key: str, value: object, at: int = 1) -> httpx.Response:
        return self.done("PUT", f"/api/session/{key}", at, json=value)

    def login(self, name: str, at: int = 1) -> httpx.Response:
        return self.done("POST", f"/api/login/{name}", at)

    def is_nobody(self) -> bool:
        seen = [self.read(at) for at in (1, 2)]
        return all((s["known"], s["principal"], s["data"]) == (False, None, {}) for s in seen)

    @property
    def cookie(self) -> str | None:
        return self.http.cookies.get("session")

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def our_cookies(answer: httpx.Response) -> list[str]:
    """Our Set-Cookie headers."""
    return [v for v in answer.headers.get_list("set-cookie") if v.startswith("session=")]
