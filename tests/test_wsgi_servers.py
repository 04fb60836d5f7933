"""WSGI under a real server: gunicorn loads the application once and forks its workers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

APPS = Path(__file__).parent / "apps"


@pytest.fixture
def gunicorn(tmp_path: Path) -> Iterator[str]:
    """The address of two forked workers over one local store; the socket listens before them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [
                *[sys.executable, "-m", "gunicorn", "--preload", "--workers=2", "--threads=2"],
                *[f"--bind=fd://{listener.fileno()}", "--chdir", APPS, "--worker-tmp-dir=/dev/shm"],
                *["--no-control-socket", "counting:app"],
            ],
            env={
                **os.environ,
                "SAMESESSION_URL": f"sticky://{tmp_path}?size=8MB",
                "SAMESESSION_KEYS": "the-key-of-both-workers-in-this-test",
                "SAMESESSION_SECURE": "0",
            },
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        _, log = process.communicate(timeout=10)
    assert b"Traceback" not in log, log.decode()


def test_forked_workers_share_every_session(gunicorn: str) -> None:
    seen: set[int] = set()
    cookies: dict[str, str] = {}
    for visits in range(1, 400):
        # A connection a request, so that either worker may take it.
        answer = httpx.get(gunicorn, cookies=cookies, headers={"connection": "close"}, timeout=30)
        found = answer.json()
        assert found["visits"] == visits
        assert found["pid"] != found["loaded_by"]
        assert (answer.headers["vary"], answer.headers["cache-control"]) == ("Cookie", "no-store")
        cookies.update(answer.cookies)
        seen.add(found["pid"])
        if len(seen) == 2 and visits >= 20:
            break
    assert len(seen) == 2
    gone = httpx.head(f"{gunicorn}/logout", cookies=cookies, timeout=30)
    assert "Max-Age=0" in gone.headers["set-cookie"]
    for _ in range(10):
        late = httpx.get(gunicorn, cookies=cookies, timeout=30)
        assert (late.status_code, late.headers["retry-after"]) == (503, "1"), "a write, just ended"
