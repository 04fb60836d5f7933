"""Nothing that would let anybody in lies about: store, logs, environment, command lines."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from scenarios.browser import Browser
from scenarios.conftest import Figure
from scenarios.raw import Wire
from scenarios.resp import client
from scenarios.site import PATIENT_REDIS, Site

from samesession.token import key_of

VISITORS = 12


@pytest.fixture(scope="module", params=["redis", "sticky", "cluster"])
def lived(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, Path, list[str]]]:
    """A site, the folder of its local stores, and every cookie that lived in it."""
    folder = tmp_path_factory.mktemp("stores")
    url = {
        "redis": PATIENT_REDIS,
        "sticky": f"sticky://{folder}?size=4MB",
        "cluster": f"cluster://{folder}?size=4MB&deadline=2s",
    }[request.param]
    # Everything that can be said is said: each logger of each server at its lowest level.
    loud = tmp_path_factory.mktemp("loud")
    (loud / "sitecustomize.py").write_text("import logging\nlogging.basicConfig(level=1)\n")
    env = {"PYTHONPATH": str(loud), "PYTHONASYNCIODEBUG": "1"}
    with Site(url, env=env) as site:
        cookies = list(visits(site))
        yield site, folder, cookies
        assert site.complaints() == []


def visits(site: Site) -> Iterator[str]:
    for number in range(VISITORS):
        with Browser(site) as ann:
            ann.put("basket", number)
            yield str(ann.cookie)
            ann.login(f"user{number}")
            yield str(ann.cookie)
            ann.put("more", {"n": number})
            yield str(ann.cookie)
            ann.rotate()
            yield str(ann.cookie)
            ann.ask("PUT", "/api/session/n", content=b"{no json")
            ann.ask("POST", "/api/session/basket/append", json=1)
            # Bad neighbours make servers talk: the honest cookie beside what no server likes.
            wire = Wire(site.url)
            header = f"Cookie: session={ann.cookie}; SRV={ann.http.cookies.get('SRV')}"
            wire.ask("/api/session", header.encode(), b"X-Odd: \xff\xfe")
            wire.ask("/api/nowhere", header.encode())
            wire.close()
            if number % 3 == 0:
                ann.logout()


def secrets_of(cookies: list[str]) -> dict[str, set[bytes]]:
    """What must be nowhere, in each spelling."""
    ids = {cookie.split(".")[0] for cookie in cookies}
    macs = {cookie.rsplit(".", 1)[1] for cookie in cookies}
    raw = {base64.urlsafe_b64decode(one + "==") for one in ids}
    return {
        "cookie": {cookie.encode() for cookie in cookies} | {quote(c).encode() for c in cookies},
        "id": {one.encode() for one in ids},
        "id in bytes": raw,
        "id in hex": {one.hex().encode() for one in raw},
        "mac": {mac.encode() for mac in macs} | {bytes.fromhex(mac) for mac in macs},
    }


def found(where: bytes, cookies: list[str]) -> list[str]:
    return [what for what, all_ in secrets_of(cookies).items() if any(s in where for s in all_)]


def test_a_dump_of_the_store_holds_no_cookie(
    lived: tuple[Site, Path, list[str]], figure: Figure
) -> None:
    site, folder, cookies = lived
    if site.engine:
        redis = client(site.engine_port)
        names = redis.keys("*")
        dump = b"\n".join(names) + b"".join(redis.dump(name) or b"" for name in names)
        dump += b"".join(repr(redis.hgetall(n)).encode() for n in names if b":s:" in n)
        redis.close()
    else:
        dump = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    # It is the dump that holds these sessions: their engine keys are in it.
    handles = [key_of(cookie.split(".")[0]).encode() for cookie in cookies]
    assert sum(handle in dump for handle in handles) >= VISITORS
    assert found(dump, cookies) == []
    figure(f"F dump of {len(dump)} bytes: 0 of {len(set(cookies))} cookies, ids or macs in it")


def test_the_logs_hold_no_cookie_and_no_key(
    lived: tuple[Site, Path, list[str]], figure: Figure
) -> None:
    site, _, cookies = lived
    log = "\n".join(site.log).encode()
    assert b"WARNING:samesession:" in log  # in the words of the loud set-up
    assert found(log, cookies) == []
    assert site.key.encode() not in log
    figure(f"F logs, {len(site.log)} lines: 0 of {len(set(cookies))} cookies, ids or macs in them")


def test_the_processes_show_no_cookie(lived: tuple[Site, Path, list[str]], figure: Figure) -> None:
    """``SAMESESSION_KEYS`` stands in the environment, which only its own user can read."""
    site, _, cookies = lived
    names = [*site.names, "haproxy", *(["engine"] if site.engine else [])]
    for name in names:
        process = Path(f"/proc/{site.fleet.pid(name)}")
        environ = (process / "environ").read_bytes()
        assert found(environ + (process / "cmdline").read_bytes(), cookies) == []
        assert site.key.encode() not in (process / "cmdline").read_bytes()
        if name in site.names:
            assert re.search(rb"(?:^|\0)SAMESESSION_KEYS=", environ)
        assert (process / "environ").stat().st_mode & 0o077 == 0
    figure(f"F environ and cmdline of {len(names)} processes: none (SAMESESSION_KEYS is there)")


def test_the_local_stores_are_their_users_alone(lived: tuple[Site, Path, list[str]]) -> None:
    site, folder, _ = lived
    if site.engine:
        return
    folder = folder / "cluster" if (folder / "cluster").is_dir() else folder
    stores = [path for path in folder.iterdir() if path.is_dir()]
    assert {path.name for path in stores} >= {"s1", "s2", "s3"}
    for path in stores:
        assert path.stat().st_mode & 0o077 == 0
        for file in path.iterdir():
            assert file.stat().st_mode & 0o077 == 0


def test_a_handle_is_no_cookie(lived: tuple[Site, Path, list[str]]) -> None:
    site, _, _ = lived
    with Browser(site) as ann, Browser(site) as thief:
        ann.login("ann")
        handle = ann.read()["handle"]
        assert ann.cookie is not None
        assert handle not in ann.cookie
        thief.http.cookies.update(ann.http.cookies)
        for guess in (handle, f"{handle}.{ann.cookie.partition('.')[2]}", handle[:22]):
            thief.cookie = guess
            assert thief.is_nobody()
