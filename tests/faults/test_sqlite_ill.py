"""Rule S13 over SQLite, which has no server to kill: a writer that holds it, and a full disk."""

from __future__ import annotations

import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from scenarios.browser import Browser, sets_our_cookie
from scenarios.conftest import Browsers, Figure
from scenarios.site import PROVE, Site, at_once, eventually
from tables import make_table

from faults.test_store_down import DEADLINE_S, RECOVERY_S, SLACK_S

pytestmark = pytest.mark.skipif(not PROVE, reason="as every engine's: make prove")
Ill = Callable[[Site, Path], "Iterator[None]"]


@pytest.fixture(scope="module")
def cellar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path]]:
    file = tmp_path_factory.mktemp("cellar") / "sessions.db"
    make_table(f"sqlite:///{file}")
    with Site(f"sqlite:///{file}", servers=2) as site:
        yield site, file
        assert site.complaints() == []


def locked(site: Site, file: Path) -> Iterator[None]:
    """Another program has begun to write, and does not come to an end."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def full(site: Site, file: Path) -> Iterator[None]:
    """No file may grow any more (on Linux the limit of a running process can be changed)."""
    pids = [site.fleet.pid(name) for name in site.names]
    size = min(one.stat().st_size for one in file.parent.iterdir() if one.suffix != ".db-shm")
    before = [resource.prlimit(pid, resource.RLIMIT_FSIZE, (size // 2, -1)) for pid in pids]
    yield
    for pid, limits in zip(pids, before, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("ill", [locked, full])
def test_what_cannot_be_written_is_503_and_what_is_there_is_read(
    cellar: tuple[Site, Path], browsers: Browsers, figure: Figure, ill: Ill
) -> None:
    site, file = cellar
    users = [browsers(site) for _ in range(2)]
    for number, user in enumerate(users):
        user.put("n", number)
        user.login(f"user{number}")
    cookies = [user.cookie for user in users]
    refused: list[tuple[float, httpx.Response]] = []

    def writes(user: Browser) -> None:
        for at in site.names:
            for method, path in (
                ("PUT", "/api/session/n"),
                ("POST", "/api/login/else"),
                ("POST", "/api/logout"),
            ):
                began = time.monotonic()
                answer = user.ask(method, path, at=at, json="late")
                refused.append((time.monotonic() - began, answer))

    with contextmanager(ill)(site, file):
        writes(users[0])
        alone = max(seconds for seconds, _ in refused)
        at_once(*(partial(writes, user) for user in users[1:]))
        for number, user in enumerate(users):
            assert [seen["data"] for seen in user.everywhere()] == [{"n": number}] * 3
        for at in site.names:
            assert users[0].ask("GET", "/api/plain", at=at).status_code == 200
    for _, answer in refused:
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert not sets_our_cookie(answer)
    assert [user.cookie for user in users] == cookies
    assert alone <= DEADLINE_S + SLACK_S

    began = time.monotonic()
    for at in site.names:
        write = partial(users[0].ask, "PUT", "/api/session/well", at=at, json=1)
        eventually(lambda write=write: write().status_code == 200)  # type: ignore[misc]
    recovered = time.monotonic() - began
    assert recovered <= RECOVERY_S
    for number, user in enumerate(users):  # nothing was lost, and nothing refused was kept
        for seen in user.everywhere():
            assert (seen["principal"], seen["data"]["n"]) == (f"user{number}", number)
    figure(
        f"D SQLite {ill.__name__}: {len(refused)} writes answered 503, alone within "
        f"{alone * 1000:.0f} ms; reads go on; well again after {recovered:.2f} s"
    )
