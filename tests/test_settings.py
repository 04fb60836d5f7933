"""What a user can set: a wrong setting is refused at start-up, named, with the way out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import samesession.sessions
from samesession import Cookie, Sessions
from samesession.counts import NAMES, Counts
from samesession.errors import ConfigError
from samesession.settings import Limits, Url, duration_ms, keys_from, redacted, size_bytes

KEY = "0123456789abcdef0123456789abcdef"
SECRET = "s3cret"

# -- the cookie ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cookie", "name", "attributes"),
    [
        (Cookie(), "__Host-session", "Path=/; Secure; HttpOnly; SameSite=Lax"),
        (Cookie(secure=False), "session", "Path=/; HttpOnly; SameSite=Lax"),
        (
            Cookie(domain="example.org"),
            "__Secure-session",
            "Path=/; Domain=example.org; Secure; HttpOnly; SameSite=Lax",
        ),
        (Cookie(path="/app"), "__Secure-session", "Path=/app; Secure; HttpOnly; SameSite=Lax"),
        (Cookie(path="/app", secure=False), "session", "Path=/app; HttpOnly; SameSite=Lax"),
        (Cookie(same_site="strict"), "__Host-session", "Path=/; Secure; HttpOnly; SameSite=Strict"),
        (
            Cookie(same_site="none", partitioned=True),
            "__Host-session",
            "Path=/; Secure; HttpOnly; SameSite=None; Partitioned",
        ),
        (Cookie(http_only=False), "__Host-session", "Path=/; Secure; SameSite=Lax"),
        (Cookie(name="sid", persistent=True), "sid", "Path=/; Secure; HttpOnly; SameSite=Lax"),
    ],
)
def test_a_cookie_has_the_strictest_name_that_its_settings_allow(
    cookie: Cookie, name: str, attributes: str
) -> None:
    assert (cookie.name, cookie.attributes) == (name, attributes)


@pytest.mark.parametrize(
    "settings",
    [
        {"same_site": "none", "secure": False},
        {"partitioned": True, "secure": False},
        {"same_site": "Lax"},
        {"same_site": ""},
        {"same_site": None},
        {"name": "__Host-x", "secure": False},
        {"name": "__host-x", "secure": False},
        {"name": "__Secure-x", "secure": False},
        {"name": "__Host-x", "path": "/app"},
        {"name": "__HOST-x", "domain": "example.org"},
        {"name": "a b"},
        {"name": "a=b"},
        {"name": "a;b"},
        {"name": "a,b"},
        {"name": "a\r\nSet-Cookie: x"},
        {"name": "ключ"},
        {"name": "x" * 65},
        {"path": ""},
        {"path": "app"},
        {"path": "/a;b"},
        {"path": "/a\nb"},
        {"path": "/a b"},
        {"path": "/ж"},
        {"domain": ""},
        {"domain": "a; Secure"},
        {"domain": "a\nb"},
        {"domain": "https://example.org"},
        {"domain": "example.org:8080"},
    ],
    ids=repr,
)
def test_what_a_browser_would_silently_drop_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^Cookie: "):
        Cookie(**settings)


def test_plain_http_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    Sessions.from_url("memory://", cookie=Cookie(secure=False))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "plain http" in caplog.text
    caplog.clear()
    Sessions.from_url("memory://")
    assert not caplog.records


# -- durations, sizes, limits ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        *[("250ms", 250), ("30s", 30_000), ("30m", 1_800_000), ("12h", 43_200_000)],
        *[("7d", 604_800_000), ("90", 90_000), ("1.5h", 5_400_000), (" 5s ", 5000), ("0.5", 500)],
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, milliseconds: int) -> None:
    assert duration_ms(text, "X") == milliseconds


@pytest.mark.parametrize(
    "text",
    ["", "0", "-5s", "5 s", "1w", "5M", "m", "1e9", "inf", "nan", "0.0001ms", "5s5", "9" * 400],
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="SAMESESSION_IDLE"):
        duration_ms(text, "SAMESESSION_IDLE")


@pytest.mark.parametrize(
    ("text", "size"), [("64KB", 65536), ("64 kb", 65536), ("16MB", 1 << 24), ("1gb", 1 << 30)]
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert size_bytes(text, "X") == size
    assert size_bytes("512", "X") == size_bytes("512B", "X") == 512


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5MB", "64K", "1TB", "KB", "9" * 400])
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="max"):
        size_bytes(text, "max")


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ({"idle": timedelta(0)}, "idle"),
        ({"idle": timedelta(seconds=-1)}, "idle"),
        ({"lifetime": timedelta(0)}, "lifetime"),
        ({"idle": timedelta(hours=13)}, "idle"),
        ({"lifetime": timedelta(days=401)}, "400 days"),
        ({"lifetime": timedelta.max}, "400 days"),
        ({"max_size": 255}, "max_size"),
        ({"idle": 1800}, r"idle=1800 is no timedelta"),
        ({"lifetime": None}, r"lifetime=None is no timedelta"),
        ({"max_size": "64KB"}, "max_size='64KB' is no int"),
        ({"keys": KEY}, "keys is one text"),
        ({"keys": KEY.encode()}, "keys is one text"),
        ({"keys": ["short"]}, r"keys\[0\] has 5 bytes; needs 32 .*samesession keys new"),
        ({"keys": [KEY, "ж" * 15]}, r"keys\[1\] has 30 bytes"),
        ({"keys": [KEY, KEY]}, "same key twice"),
        ({"keys": [None]}, r"keys\[0\] is None"),
        ({"keys": None}, r"keys=None is no list"),
        ({"cookie": {"secure": False}}, r"write cookie=Cookie\(secure=False\)"),
        ({"cookie": Cookie}, r"is no Cookie"),
    ],
    ids=repr,
)
def test_a_wrong_limit_or_key_is_refused_by_name(given_: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refused:
        Sessions.from_url("memory://", **given_)
    assert KEY not in str(refused.value)


def test_limits_are_milliseconds_and_bytes() -> None:
    limits = Limits.of(timedelta(minutes=1), timedelta(days=400), 256)
    assert limits == Limits(idle_ms=60_000, lifetime_ms=400 * 86_400_000, size_bytes=256)


def test_a_key_is_text_or_bytes() -> None:
    assert keys_from([KEY, b"\xff" * 32], "keys") == (KEY.encode(), b"\xff" * 32)


# -- the URL ---------------------------------------------------------------------------------------


def test_a_url_is_taken_apart() -> None:
    url = Url.parse("REDIS://ann:p%40ss%2F@Host:7000/3?deadline=100ms&size=1MB&count=3")
    assert (url.scheme, url.host, url.port, url.path) == ("redis", "host", 7000, "/3")
    assert (url.username, url.password) == ("ann", "p@ss/")
    assert url.duration_ms("deadline", 250) == 100
    assert url.size_bytes("size", 1) == 1 << 20
    assert url.count("count", 1) == 3
    assert (url.duration_ms("x", 7), url.size_bytes("x", 8), url.count("x", 9)) == (7, 8, 9)


@pytest.mark.parametrize(
    "url",
    [
        *["", "redis", "redis:", "//host", "http://host", "rediss//host", "redsi://host", "://x"],
        *["redis://host:port", "redis://host:99999", "redis://[::1", "redis://h?a=1&a=2"],
        *["redis://h?a", "memory://?x=1", "redis://h?dedline=1s", "redis://h?deadline=soon"],
        *["redis://h?deadline=0", "\x00", "redis://h\x00", "memory://?x"],
        *["redis://a..b", f"redis://{'x' * 64}", f"redis://{'é' * 70}"],
    ],
    ids=repr,
)
def test_a_wrong_url_is_refused_at_start_up(url: str) -> None:
    with pytest.raises(ConfigError):
        Sessions.from_url(url, keys=[KEY])


def test_the_nearest_name_is_proposed() -> None:
    with pytest.raises(ConfigError, match=r"redis://\?"):
        Sessions.from_url("reddis://host", keys=[KEY])
    with pytest.raises(ConfigError, match="'deadline'"):
        Sessions.from_url("redis://host?dedline=1s", keys=[KEY])


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@h:1/0",
        f"redis://:{SECRET}@h:1/0?x=1",
        f"redis://ann:{SECRET}@h",
        f"redis://ann:{SECRET}@h:notaport",
        f"nosuch://ann:{SECRET}@h",
        f"redis://:{SECRET}/x@h",
        f"redis://:x/{SECRET}@h",
        f"redis://:x@{SECRET}@h?y",
        f"redis://:x#{SECRET}@h",
        f"redis://:x?{SECRET}@h",
        f"redis://:{SECRET}@h?x=1&x=2",
        f"redis://:{SECRET}@h?nosuch=1",
    ],
)
def test_a_password_is_in_no_message(url: str, caplog: pytest.LogCaptureFixture) -> None:
    assert SECRET not in redacted(url)
    try:
        said = repr(Sessions.from_url(url, keys=[KEY]).strategy)
    except ConfigError as error:
        said = f"{error!r}"
    assert SECRET not in said + caplog.text


@given(st.text(max_size=30) | st.text("redis:/@?&=#[]%1 \n", max_size=30))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    with suppress(ConfigError):
        Url.parse(text)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "sticky:///nowhere", "valkey://h"])
def test_every_strategy_but_memory_needs_keys(url: str) -> None:
    with pytest.raises(ConfigError, match="SAMESESSION_KEYS"):
        Sessions.from_url(url)


# -- the environment -------------------------------------------------------------------------------

ENV = {"SAMESESSION_URL": "memory://", "SAMESESSION_KEYS": KEY}


def test_the_environment_says_everything(tmp_path: Path) -> None:
    sessions = Sessions.from_env(
        {
            "SAMESESSION_URL": "memory://",
            "SAMESESSION_KEYS": f"{KEY},{KEY[::-1]} {KEY * 2}",
            "SAMESESSION_IDLE": "10m",
            "SAMESESSION_LIFETIME": "1h",
            "SAMESESSION_SECURE": "0",
            "SAMESESSION_COOKIE": "sid",
            "SAMESESSION_MAX_SIZE": "1KB",
        }
    )
    assert sessions.limits == Limits(idle_ms=600_000, lifetime_ms=3_600_000, size_bytes=1024)
    assert sessions.cookie == Cookie(name="sid", secure=False)
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n\n{KEY[::-1]}\n")
    Sessions.from_env({"SAMESESSION_URL": "memory://", "SAMESESSION_KEYS_FILE": str(file)})


def no_file(folder: Path) -> str:
    return str(folder / "nothing")


def not_text(folder: Path) -> str:
    (folder / "keys").write_bytes(b"\xff" * 40)
    return str(folder / "keys")


@pytest.mark.parametrize("file", [no_file, not_text, str])
def test_a_file_of_keys_that_cannot_be_read_is_named(
    file: Callable[[Path], str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="SAMESESSION_KEYS_FILE"):
        Sessions.from_env({"SAMESESSION_URL": "memory://", "SAMESESSION_KEYS_FILE": file(tmp_path)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAMESESSION_URL", ""),
        ("SAMESESSION_URL", "nosuch://"),
        ("SAMESESSION_KEYS", "short"),
        ("SAMESESSION_KEYS", f"{KEY} {KEY}"),
        ("SAMESESSION_KEYS_FILE", "/nowhere"),
        ("SAMESESSION_IDLE", ""),
        ("SAMESESSION_IDLE", "999999999d"),
        ("SAMESESSION_LIFETIME", "forever"),
        ("SAMESESSION_SECURE", "true"),
        ("SAMESESSION_COOKIE", "a b"),
        ("SAMESESSION_MAX_SIZE", "big"),
    ],
)
def test_a_wrong_variable_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError):
        Sessions.from_env({**ENV, name: value})


def test_no_environment_at_all_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="SAMESESSION_URL is not set"):
        Sessions.from_env({})


# -- counts ----------------------------------------------------------------------------------------


def test_counts_are_a_mapping_of_numbers() -> None:
    counts = Counts()
    assert dict(counts) == dict.fromkeys(NAMES, 0)
    counts.add("lost", 2)
    assert (counts["lost"], len(counts), "lost" in counts) == (2, len(NAMES), True)
    assert repr(counts) == "Counts({'lost': 2})"
    with pytest.raises(KeyError):
        counts.add("no such count")


@pytest.mark.parametrize(("url", "told"), [("memory://", True), ("redis://127.0.0.1:1/0", False)])
def test_up_is_told_whether_the_environments_url_is_used(
    monkeypatch: pytest.MonkeyPatch, url: str, told: bool
) -> None:
    monkeypatch.setattr("samesession.sessions.opened_from_env", False)
    monkeypatch.setenv("SAMESESSION_URL", "memory://")
    Sessions.from_url(url, keys=["k" * 32])  # as Django's settings do
    assert samesession.sessions.opened_from_env is told
