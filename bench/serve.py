"""Child process: serve one contestant on its own core and print its port and the worker's pid.

``python -m bench.serve SERVER MODULE[:FUNCTION] URL --core N [--cprofile FILE]``
"""

from __future__ import annotations

import argparse
import cProfile
import ctypes
import os
import signal
import socket
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
KEEP_ALIVE_S = 600  # browsers wait for their turn while others are measured
THREADS = 4  # of gunicorn's worker

Serving = Callable[[], None]


def main() -> None:
    """Serve until SIGTERM, or until the parent dies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("app")
    parser.add_argument("url")
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--cprofile", type=Path)
    parser.add_argument(
        "--no-fork", action="store_true", help="for callgrind, which loses sight of forked workers"
    )
    options = parser.parse_args()

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.sched_setaffinity(0, {options.core})
    if options.no_fork:
        os.fork = lambda: 0  # gunicorn's master becomes its worker
    module, _, function = options.app.partition(":")
    app = getattr(import_module(module), function or "build")(options.url)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        serve(SERVERS[options.server](app, listener), options.cprofile)


def serve(serving: Serving, profile_to: Path | None) -> None:
    """Run the server, under cProfile if a file for its figures is given."""
    if profile_to is None:
        serving()
        return
    profile = cProfile.Profile()
    # uvicorn raises the signal that stopped it once more at the end; the figures would be lost.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        profile.runcall(serving)
    finally:
        profile.dump_stats(profile_to)


def _uvicorn(app: Any, listener: socket.socket) -> Serving:
    import uvicorn

    # What `pip install uvicorn[standard]` gives; named, so that nobody is measured without.
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    server = uvicorn.Server(config)
    _say(listener.getsockname()[1])
    return lambda: server.run(sockets=[listener])


def _aiohttp(app: Any, listener: socket.socket) -> Serving:
    import uvloop
    from aiohttp import web

    _say(listener.getsockname()[1])
    loop = uvloop.new_event_loop()
    return lambda: web.run_app(
        app,
        sock=listener,
        loop=loop,
        access_log=None,
        print=None,
        keepalive_timeout=KEEP_ALIVE_S,
        shutdown_timeout=1,
    )


def _gunicorn(app: Any, listener: socket.socket) -> Serving:
    from gunicorn.app.base import BaseApplication

    port = listener.getsockname()[1]

    def ready(worker: Any) -> None:
        worker.ppid = os.getppid()  # it ends when it has another parent
        _say(port)

    class Application(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            settings = {
                "bind": f"fd://{listener.detach()}",
                "worker_class": "gthread",
                "threads": THREADS,
                "keepalive": KEEP_ALIVE_S,
                "graceful_timeout": 1,
                "timeout": 0,
                "loglevel": "warning",
                "post_worker_init": ready,
            }
            for name, value in settings.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return app

    return Application().run  # type: ignore[no-any-return]


SERVERS: dict[str, Callable[[Any, socket.socket], Serving]] = {
    "uvicorn": _uvicorn,
    "aiohttp": _aiohttp,
    "gunicorn": _gunicorn,
}


def _say(port: int) -> None:
    print(port, os.getpid(), flush=True)


if __name__ == "__main__":
    main()
