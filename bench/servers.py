"""Application servers as children of the benchmark: started on their core, ended by pid."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.contestants import Contestant
from samesession.lab.engines import Engine

ROOT = Path(__file__).resolve().parent.parent
START_S = 60.0  # under valgrind; else about one
STOP_S = 5.0


@dataclass(frozen=True)
class Server:
    """A running application server of one contestant.

    Attributes:
        pid: of the process that answers (gunicorn's worker, not its master).
    """

    contestant: Contestant
    port: int
    pid: int


@contextmanager
def server(
    contestant: Contestant,
    *,
    engine: Engine,
    core: int,
    cprofile: Path | None = None,
    under: Sequence[str] = (),
) -> Iterator[Server]:
    """Serve a contestant on a free port of the loopback until the block ends.

    Args:
        engine: the Redis for contestants that use one; each names its own database there.
        core: the core that the server alone runs on.
        cprofile: where to leave cProfile's figures at the end.
        under: a command that runs the server, such as valgrind.
    """
    # tmpfs, as DESIGN section 5 wants for the local store.
    with TemporaryDirectory(prefix="bench-", dir="/dev/shm") as folder:
        redis = f"redis://127.0.0.1:{engine.port}"
        url = contestant.url.format(redis=redis, folder=folder)
        command = [*under, sys.executable, "-m", "bench.serve", contestant.server, contestant.app]
        command += [url, "--core", str(core)]
        if under:
            command.append("--no-fork")
        if cprofile is not None:
            command += ["--cprofile", str(cprofile)]
        log = Path(folder, "stderr")
        environment = os.environ | {"SAMESESSION_SERVER": "bench"}
        with (
            log.open("wb") as stderr,
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr
            ) as child,
        ):
            try:
                yield Server(contestant, *_port_and_pid(child, contestant, log))
            finally:
                _stop(child)


def _port_and_pid(
    child: subprocess.Popen[bytes], contestant: Contestant, log: Path
) -> tuple[int, int]:
    """Return the port that the child prints once it listens, and the pid that serves there."""
    assert child.stdout is not None
    with selectors.DefaultSelector() as ready:
        ready.register(child.stdout, selectors.EVENT_READ)
        line = child.stdout.readline() if ready.select(START_S) else b""
    if not line:
        raise SystemExit(f"bench: {contestant.name} did not start:\n{log.read_text()[-2000:]}")
    port, pid = map(int, line.split())
    return port, pid


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
