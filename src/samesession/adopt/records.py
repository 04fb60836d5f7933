"""Old sessions that stand in Redis, and whose cookie only names them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from samesession.adopt.cookies import aiohttp_contents
from samesession.adopt.formats import age_of, dict_from, from_json, from_msgpack, library, untagged
from samesession.errors import ConfigError

_ID = re.compile(r"[A-Za-z0-9_-]{16,128}")
"""No colon, dot or slash: whoever invents an id shall not reach another key of that Redis."""

_HEX = re.compile(r"[0-9a-f]{16,512}")


class FlaskSessionRedis:
    """Flask-Session with ``SESSION_TYPE = "redis"``.

    Its msgpack and JSON are read. What versions before 0.7 wrote is a pickle: refused and counted,
    and the user signs in again.
    """

    _salt = "flask-session"

    def __init__(
        self,
        url: str,
        *,
        cookie: str = "session",
        prefix: str = "session:",
        signed_with: str | bytes | None = None,
        max_age: timedelta = timedelta(days=31),
        path: str = "/",
        domain: str | None = None,
    ) -> None:
        """As the old application was configured.

        Args:
            url: of its Redis.
            cookie: SESSION_COOKIE_NAME.
            prefix: SESSION_KEY_PREFIX.
            signed_with: SECRET_KEY, where SESSION_USE_SIGNER was on.
            max_age: PERMANENT_SESSION_LIFETIME.
            path: of the old cookie.
            domain: of the old cookie.

        Raises:
            ConfigError: a wrong word, or itsdangerous is missing, which ``signed_with`` needs.
        """
        self.url, self.max_age = url, age_of(max_age, self)
        self.cookie, self.path, self.domain = cookie, path, domain
        self._prefix = prefix
        self._signer = None
        if signed_with is not None:
            itsdangerous = library("itsdangerous", "itsdangerous", type(self).__name__)
            if not isinstance(signed_with, str | bytes):
                raise ConfigError(
                    f"adopt=[{type(self).__name__}(…)]: signed_with={signed_with!r} is no key; "
                    "give it the old SECRET_KEY"
                )
            self._signer = itsdangerous.Signer(signed_with, salt=self._salt, key_derivation="hmac")

    def name(self, value: str) -> str | None:
        """See `StoredReader`."""
        if self._signer is not None:
            value = self._signer.unsign(value).decode("ascii")
        return self._prefix + value if _ID.fullmatch(value) else None

    def contents(self, raw: bytes) -> dict[str, Any] | None:
        """See `StoredReader`."""
        return dict_from(raw, from_msgpack, from_json)


class QuartSessionRedis(FlaskSessionRedis):
    """Quart-Session with ``SESSION_TYPE = "redis"``: JSON with Flask's tags."""

    _salt = "quart-session"

    def contents(self, raw: bytes) -> dict[str, Any] | None:
        """See `StoredReader`; the address that its SESSION_PROTECTION compared stays behind."""
        data = dict_from(raw, lambda raw: untagged(from_json(raw)))
        data.pop("_addr", None)
        return data


class StarsessionsRedis:
    """starsessions' ``RedisStore`` with its JSON."""

    def __init__(
        self,
        url: str,
        *,
        cookie: str = "session",
        prefix: str = "starsessions.",
        max_age: timedelta = timedelta(days=30),
        path: str = "/",
        domain: str | None = None,
    ) -> None:
        """As the old middleware and store were configured; ``max_age`` is lifetime or gc_ttl."""
        self.url, self.max_age = url, age_of(max_age, self)
        self.cookie, self.path, self.domain = cookie, path, domain
        self._prefix = prefix

    def name(self, value: str) -> str | None:
        """See `StoredReader`."""
        return self._prefix + value if _ID.fullmatch(value) else None

    def contents(self, raw: bytes) -> dict[str, Any] | None:
        """See `StoredReader`."""
        data = dict_from(raw, from_json)
        data.pop("__metadata__", None)
        return data


class AiohttpSessionRedis:
    """aiohttp-session's ``RedisStorage`` with its JSON."""

    def __init__(
        self,
        url: str,
        *,
        cookie: str = "AIOHTTP_SESSION",
        max_age: timedelta = timedelta(days=31),
        path: str = "/",
        domain: str | None = None,
    ) -> None:
        """As the old storage was configured."""
        self.url, self.max_age = url, age_of(max_age, self)
        self.cookie, self.path, self.domain = cookie, path, domain

    def name(self, value: str) -> str | None:
        """See `StoredReader`."""
        return f"{self.cookie}_{value}" if _ID.fullmatch(value) else None

    def contents(self, raw: bytes) -> dict[str, Any] | None:
        """See `StoredReader`."""
        return aiohttp_contents(dict_from(raw, from_json), int(self.max_age.total_seconds()))


class LitestarRedis:
    """Litestar's ``ServerSideSessionConfig`` over its ``RedisStore`` or ``ValkeyStore``."""

    def __init__(
        self,
        url: str,
        *,
        cookie: str = "session",
        namespace: str | None = "LITESTAR",
        max_age: timedelta = timedelta(days=14),
        path: str = "/",
        domain: str | None = None,
    ) -> None:
        """As the old configuration and store were made.

        Args:
            url: of its Redis.
            cookie: the configuration's ``key``.
            namespace: the store's; ``with_namespace("sessions")`` made ``LITESTAR_sessions`` of it.
            max_age: the configuration's.
            path: of the old cookie.
            domain: of the old cookie.
        """
        self.url, self.max_age = url, age_of(max_age, self)
        self.cookie, self.path, self.domain = cookie, path, domain
        self._prefix = f"{namespace}:" if namespace else ""

    def name(self, value: str) -> str | None:
        """See `StoredReader`; limits and cached answers, which may stand beside it, are no hex."""
        return self._prefix + value if _HEX.fullmatch(value) else None

    def contents(self, raw: bytes) -> dict[str, Any] | None:
        """See `StoredReader`."""
        return dict_from(raw, from_json)
