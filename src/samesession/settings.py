"""What a user can set: the cookie, the limits, and the parameters of a strategy's URL."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from samesession.errors import ConfigError

_DURATION_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE_BYTES = {"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
MAKE_A_KEY = "make one: samesession keys new"
# RFC 6265 4.1.1: a cookie's name is an RFC 2616 token.
_COOKIE_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_ATTRIBUTE = re.compile(r"[\x21-\x3a\x3c-\x7e]{1,256}")
_HOST_NAME = re.compile(r"\.?[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,32}")


def duration_ms(text: str, where: str) -> int:
    """Read ``250ms``, ``30s``, ``30m``, ``12h`` or ``7d``; a bare number counts seconds.

    Raises:
        ConfigError: naming ``where`` when the text is none of these, or is not positive.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)?", text.strip())
    milliseconds = round(float(match[1]) * _DURATION_MS[match[2] or "s"]) if match else 0
    if milliseconds < 1:
        raise ConfigError(f"{where}={text!r} is no duration; write 250ms, 30s, 30m, 12h or 7d")
    return milliseconds


def size_bytes(text: str, where: str) -> int:
    """Read ``64KB``, ``16MB`` or ``1GB``; a bare number counts bytes."""
    match = re.fullmatch(r"(\d{1,12})\s?(B|KB|MB|GB)?", text.strip().upper())
    size = int(match[1]) * _SIZE_BYTES[match[2] or ""] if match else 0
    if size < 1:
        raise ConfigError(f"{where}={text!r} is no size; write 64KB, 16MB or 1GB")
    return size


@dataclass(frozen=True, slots=True)
class Url:
    """A strategy's URL, taken apart; parameters are read by type and unknown ones refused."""

    text: str = field(repr=False)  # with the password
    scheme: str
    hosts: tuple[tuple[str, int | None], ...]
    path: str
    username: str | None
    password: str | None = field(repr=False)
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Url:
        """Take ``text`` apart.

        Raises:
            ConfigError: it is no URL, a port is no number, or a parameter stands twice.
        """
        if not isinstance(text, str):
            raise ConfigError(
                f"{text!r} is no URL; is its variable set? Write redis://127.0.0.1:6379"
            )
        try:
            parts = urlsplit(text)
            hosts = _hosts(parts.netloc.rpartition("@")[2])
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError as error:
            # A password that is not encoded is mistaken for the port, and the error would show it.
            why = "in a password write @ as %40, / as %2F, # as %23" if "@" in text else error
            raise ConfigError(f"{redacted(text)!r} cannot be read as a URL: {why}") from None
        if not text.isprintable():
            raise ConfigError(f"{redacted(text)!r} holds a control character; take it out")
        if not parts.scheme or "://" not in text:
            raise ConfigError(
                f"{redacted(text)!r} is no strategy; write one such as redis://127.0.0.1:6379"
            )
        parameters = dict(pairs)
        if len(parameters) != len(pairs):
            raise ConfigError(f"{redacted(text)!r} gives a parameter twice; keep one")
        return cls(
            text=text,
            scheme=parts.scheme.lower(),
            hosts=hosts,
            path=unquote(parts.path),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password is not None else None,
            parameters=parameters,
        )

    @property
    def host(self) -> str:
        """The first host, or nothing."""
        return self.hosts[0][0] if self.hosts else ""

    @property
    def port(self) -> int | None:
        """The first host's port."""
        return self.hosts[0][1] if self.hosts else None

    def single(self) -> None:
        """Refuse several hosts, for a strategy that knows one."""
        if len(self.hosts) > 1:
            raise ConfigError(
                f"{redacted(self.text)!r} names {len(self.hosts)} hosts; "
                f"{self.scheme}:// takes one (put what fails over in front of them)"
            )

    def only(self, *known: str) -> None:
        """Refuse parameters that this strategy does not have, naming the nearest one."""
        for name in self.parameters:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = (
                    f"did you mean {near[0]!r}?"
                    if near
                    else f"it has: {', '.join(known) or 'none'}"
                )
                raise ConfigError(f"{self.scheme}:// has no parameter {name!r}; {hint}")

    def duration_ms(self, name: str, default_ms: int) -> int:
        """The parameter as milliseconds."""
        text = self.parameters.get(name)
        return default_ms if text is None else duration_ms(text, f"{self.scheme}://?{name}")

    def size_bytes(self, name: str, default: int) -> int:
        """The parameter as bytes."""
        text = self.parameters.get(name)
        return default if text is None else size_bytes(text, f"{self.scheme}://?{name}")

    def count(self, name: str, default: int) -> int:
        """The parameter as a number above zero."""
        text = self.parameters.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"[1-9]\d{0,8}", text):
            raise ConfigError(f"{self.scheme}://?{name}={text!r} is no number above 0")
        return int(text)


def _hosts(text: str) -> tuple[tuple[str, int | None], ...]:
    """``a,b:1,[::1]:2`` as names and ports; ValueError when one of them is none."""
    if not text:
        return ()
    hosts = []
    for part in text.split(","):
        one = urlsplit(f"//{part}")
        if not one.hostname and "," in text:
            raise ValueError("a host between two commas is empty")
        (one.hostname or "").encode("idna")  # as every connection will
        hosts.append((one.hostname or "", one.port))
    return tuple(hosts)


def redacted(url: str) -> str:
    """The URL without its passwords, for messages and logs."""
    url = re.sub(r"(://[^/@:]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    return re.sub(r"([?&][a-z_]*password=)[^&]*", r"\1***", url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cookie:
    """How the session's cookie looks; the default is the strictest that every browser keeps.

    Attributes:
        secure: ``False`` is the one switch for plain http (development); it also drops the
            ``__Host-`` prefix from the default name, since browsers tie the two together.
        name: defaults to ``__Host-session``, ``__Secure-session`` with a domain or another path,
            ``session`` without ``secure``.
        persistent: adds ``Max-Age`` up to the absolute deadline; without it the browser forgets
            the cookie when it closes.
    """

    name: str = ""
    secure: bool = True
    http_only: bool = True
    same_site: Literal["lax", "strict", "none"] = "lax"
    path: str = "/"
    domain: str | None = None
    partitioned: bool = False
    persistent: bool = False

    def __post_init__(self) -> None:
        """Choose the name, and refuse what a browser would silently drop."""
        host_only = self.path == "/" and self.domain is None
        if not self.name:
            prefix = ("__Host-" if host_only else "__Secure-") if self.secure else ""
            object.__setattr__(self, "name", f"{prefix}session")
        for problem, wrong in self._contradictions(host_only).items():
            if wrong:
                raise ConfigError(f"Cookie: {problem}")

    def _contradictions(self, host_only: bool) -> dict[str, bool]:
        # RFC 6265bis 4.1.3: prefixes are compared without regard to case.
        prefix = self.name.lower()
        return {
            f"name={self.name!r} is no cookie name (letters, digits, - and _)": (
                _COOKIE_NAME.fullmatch(self.name) is None
            ),
            f"same_site={self.same_site!r} is none of 'lax', 'strict', 'none'": (
                self.same_site not in {"lax", "strict", "none"}
            ),
            "same_site='none' needs secure=True": self.same_site == "none" and not self.secure,
            "partitioned=True needs secure=True": self.partitioned and not self.secure,
            f"name={self.name!r} needs secure=True (or name='session')": (
                prefix.startswith(("__host-", "__secure-")) and not self.secure
            ),
            f"name={self.name!r} needs path='/' and no domain (or a __Secure- name)": (
                prefix.startswith("__host-") and not host_only
            ),
            f"path={self.path!r} must begin with / and hold no ; or control character": (
                not self.path.startswith("/") or _ATTRIBUTE.fullmatch(self.path) is None
            ),
            f"domain={self.domain!r} must be a host name such as example.org": (
                self.domain is not None and _HOST_NAME.fullmatch(self.domain) is None
            ),
        }

    @property
    def attributes(self) -> str:
        """What follows the value, the same when the cookie is set and when it is deleted."""
        parts = [f"Path={self.path}"]
        if self.domain is not None:
            parts.append(f"Domain={self.domain}")
        if self.secure:
            parts.append("Secure")
        if self.http_only:
            parts.append("HttpOnly")
        parts.append(f"SameSite={self.same_site.capitalize()}")
        if self.partitioned:
            parts.append("Partitioned")
        return "; ".join(parts)


class Carrier(StrEnum):
    """How the token travels: browsers keep a cookie, programs and mobile clients a header.

    Attributes:
        HEADER: ``Session-Token``, in the request and, when it changed, in the answer; an empty one
            means that there is none any more.
        BOTH: by header for whoever sends that header, be it empty, and by cookie for the others.
    """

    COOKIE = "cookie"
    HEADER = "header"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Quota:
    """How many sessions a principal may have at a time.

    Attributes:
        most: sessions.
        evicts: whether one more login ends the oldest session; otherwise it is refused.
    """

    most: int
    evicts: bool = True

    @classmethod
    def of(cls, most: int | None, on_limit: str) -> Quota | None:
        """Check what a user gave; None when there is no limit.

        Raises:
            ConfigError: not a number above 0, or no such way.
        """
        if on_limit not in _ON_LIMIT:
            raise ConfigError(f"on_limit={on_limit!r} is none of 'evict-oldest', 'reject'")
        if most is None:
            return None
        if type(most) is not int or most < 1:
            raise ConfigError(
                f"max_sessions={most!r} is no number above 0; leave it out for no limit"
            )
        return cls(most, on_limit == "evict-oldest")


_ON_LIMIT = ("evict-oldest", "reject")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one session and one principal may take; in milliseconds, bytes, sessions."""

    idle_ms: int = 30 * 60_000
    lifetime_ms: int = 12 * 3_600_000
    size_bytes: int = 64 * 1024
    quota: Quota | None = None

    @classmethod
    def of(
        cls, idle: timedelta, lifetime: timedelta, size: int, quota: Quota | None = None
    ) -> Limits:
        """Check and convert what a user gave.

        Raises:
            ConfigError: a limit is not positive, or idle is longer than the lifetime.
        """
        for name, given, kind, usual in (
            ("idle", idle, timedelta, "timedelta(minutes=30)"),
            ("lifetime", lifetime, timedelta, "timedelta(hours=12)"),
            ("max_size", size, int, "65536"),
        ):
            if not isinstance(given, kind):
                raise ConfigError(f"{name}={given!r} is no {kind.__name__}; {usual} is usual")
        idle_ms, lifetime_ms = (
            round(limit / timedelta(milliseconds=1)) for limit in (idle, lifetime)
        )
        if idle_ms < 1 or lifetime_ms < 1:
            raise ConfigError(f"idle={idle} and lifetime={lifetime} must be above 0")
        if idle_ms > lifetime_ms:
            raise ConfigError(
                f"idle={idle} is longer than lifetime={lifetime}; raise lifetime or lower idle"
            )
        if lifetime > timedelta(days=400):
            raise ConfigError(
                f"lifetime={lifetime} is above 400 days, the most that browsers keep a cookie"
            )
        if size < 256:
            raise ConfigError(f"max_size={size} bytes is too small for any session; 65536 is usual")
        return cls(idle_ms=idle_ms, lifetime_ms=lifetime_ms, size_bytes=size, quota=quota)


def keys_from(texts: Iterable[str | bytes], where: str) -> tuple[bytes, ...]:
    """Check the key ring: each key 32 bytes or more; the first signs, every one verifies."""
    if isinstance(texts, str | bytes):
        raise ConfigError(f"{where} is one text; write a list: {where}=[…]")
    if not isinstance(texts, Iterable):
        raise ConfigError(f"{where}={texts!r} is no list; write {where}=[…] ({MAKE_A_KEY})")
    keys = tuple(key_from(text, f"{where}[{index}]") for index, text in enumerate(texts))
    if len(set(keys)) != len(keys):
        raise ConfigError(f"{where} holds the same key twice; keep one")
    return keys


def key_from(text: object, where: str) -> bytes:
    """Check one of them."""
    key = text.encode(errors="surrogateescape") if isinstance(text, str) else text
    if not isinstance(key, bytes):
        raise ConfigError(f"{where} is {key!r}, no text; is its variable set? ({MAKE_A_KEY})")
    if len(key) < 32:
        raise ConfigError(f"{where} has {len(key)} bytes; needs 32 or more ({MAKE_A_KEY})")
    return key
