"""Child process: serve one contestant under uvicorn on its own core and print the port.

``python -m bench.serve MODULE URL --core N [--cprofile FILE]``
"""

from __future__ import annotations

import argparse
import cProfile
import ctypes
import os
import signal
import socket
from importlib import import_module
from pathlib import Path

import uvicorn

PR_SET_PDEATHSIG = 1
KEEP_ALIVE_S = 600  # browsers wait for their turn while others are measured


def main() -> None:
    """Serve until SIGTERM, or until the parent dies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("url")
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--cprofile", type=Path)
    options = parser.parse_args()

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.sched_setaffinity(0, {options.core})
    app = import_module(options.module).build(options.url)
    # What `pip install uvicorn[standard]` gives; named, so that nobody is measured without.
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        serve(uvicorn.Server(config), listener, options.cprofile)


def serve(server: uvicorn.Server, listener: socket.socket, profile_to: Path | None) -> None:
    """Run the server, under cProfile if a file for its figures is given."""
    if profile_to is None:
        server.run(sockets=[listener])
        return
    profile = cProfile.Profile()
    # uvicorn raises the signal that stopped it once more at the end; the figures would be lost.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        profile.runcall(server.run, sockets=[listener])
    finally:
        profile.dump_stats(profile_to)


if __name__ == "__main__":
    main()
