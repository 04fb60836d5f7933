"""Old sessions that travel whole in their cookie, signed or encrypted.

A copy of such a cookie stays worth what it was for as long as the reader believes it (``max_age``):
nobody keeps a list of those that have been used.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode, urlsafe_b64encode
from datetime import timedelta
from hashlib import sha1
from typing import Any

from samesession.adopt.formats import contents, library, untagged


class StarletteCookie:
    """Starlette's and FastAPI's signed cookie (``starlette.middleware.sessions``)."""

    def __init__(
        self,
        secret_key: str,
        *,
        cookie: str = "session",
        max_age: timedelta = timedelta(days=14),
        path: str = "/",
        domain: str | None = None,
    ) -> None:
        """As the old middleware was configured.

        Raises:
            ConfigError: itsdangerous is missing.
        """
        self.cookie, self.path, self.domain = cookie, path, domain
        self._max_age_s = int(max_age.total_seconds())
        itsdangerous = library("itsdangerous", "itsdangerous", "StarletteCookie")
        self._signer = itsdangerous.TimestampSigner(secret_key)

    def read(self, value: str) -> dict[str, Any] | None:
        """See `Reader`."""
        data = self._signer.unsign(value.encode(), max_age=self._max_age_s)
        return contents(json.loads(b64decode(data, validate=True)))


class FlaskCookie:
    """Flask's and Quart's signed cookie, with its tagged types."""

    def __init__(
        self,
        secret_key: str,
        *,
        cookie: str = "session",
        max_age: timedelta = timedelta(days=31),
        path: str = "/",
        domain: str | None = None,
    ) -> None:
        """As the old application was configured; ``max_age`` is PERMANENT_SESSION_LIFETIME.

        Raises:
            ConfigError: itsdangerous is missing.
        """
        self.cookie, self.path, self.domain = cookie, path, domain
        self._max_age_s = int(max_age.total_seconds())
        self._serializer = library(
            "itsdangerous", "itsdangerous", "FlaskCookie"
        ).URLSafeTimedSerializer(
            secret_key,
            salt="cookie-session",
            signer_kwargs={"key_derivation": "hmac", "digest_method": sha1},
        )

    def read(self, value: str) -> dict[str, Any] | None:
        """See `Reader`."""
        return contents(untagged(self._serializer.loads(value, max_age=self._max_age_s)))


class AiohttpFernetCookie:
    """aiohttp-session's ``EncryptedCookieStorage``."""

    def __init__(
        self,
        secret_key: str | bytes,
        *,
        cookie: str = "AIOHTTP_SESSION",
        max_age: timedelta = timedelta(days=14),
        path: str = "/",
        domain: str | None = None,
    ) -> None:
        """As the old storage was configured; one without ``max_age`` believed a cookie for ever.

        Raises:
            ConfigError: cryptography is missing.
        """
        self.cookie, self.path, self.domain = cookie, path, domain
        self._max_age_s = int(max_age.total_seconds())
        key = secret_key if isinstance(secret_key, str) else urlsafe_b64encode(secret_key)
        fernet = library("cryptography.fernet", "cryptography", "AiohttpFernetCookie")
        self._fernet = fernet.Fernet(key)

    def read(self, value: str) -> dict[str, Any] | None:
        """See `Reader`."""
        raw = self._fernet.decrypt(value.encode(), ttl=self._max_age_s)
        return aiohttp_contents(json.loads(raw), self._max_age_s)


class AiohttpNaClCookie:
    """aiohttp-session's ``NaClCookieStorage``."""

    def __init__(
        self,
        secret_key: bytes,
        *,
        cookie: str = "AIOHTTP_SESSION",
        max_age: timedelta = timedelta(days=14),
        path: str = "/",
        domain: str | None = None,
    ) -> None:
        """As the old storage was configured; one without ``max_age`` believed a cookie for ever.

        Raises:
            ConfigError: PyNaCl is missing.
        """
        self.cookie, self.path, self.domain = cookie, path, domain
        self._max_age_s = int(max_age.total_seconds())
        self._box = library("nacl.secret", "pynacl", "AiohttpNaClCookie").SecretBox(secret_key)

    def read(self, value: str) -> dict[str, Any] | None:
        """See `Reader`."""
        raw = self._box.decrypt(b64decode(value, validate=True))
        return aiohttp_contents(json.loads(raw), self._max_age_s)


def aiohttp_contents(data: Any, max_age_s: int) -> dict[str, Any] | None:
    """What aiohttp-session writes: when the session was last changed, and the session."""
    if not isinstance(data, dict) or "session" not in data:  # an empty one is written as {}
        return None
    age_s = time.time() - float(data.get("created", 0))
    return contents(data["session"]) if age_s <= max_age_s else None
