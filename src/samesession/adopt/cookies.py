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

from samesession.adopt.formats import age_of, contents, library, untagged
from samesession.errors import ConfigError


class _Cookie:
    """What every reader of one is told, and what is wrong with it."""

    def __init__(
        self, key: object, cookie: str, max_age: timedelta, path: str, domain: str | None
    ) -> None:
        if not key:
            raise ConfigError(
                f"adopt=[{type(self).__name__}({key!r})] has no key; give it the old site's"
            )
        self.cookie, self.path, self.domain = cookie, path, domain
        self._max_age_s = int(age_of(max_age, self).total_seconds())


class StarletteCookie(_Cookie):
    """Starlette's and FastAPI's signed cookie (``starlette.middleware.sessions``)."""

    def __init__(
        self,
        secret_key: object,
        *,
        cookie: str = "session",
        max_age: timedelta = timedelta(days=14),
        path: str = "/",
        domain: str | None = None,
    ) -> None:
        """As the old middleware was configured; the key may be a `Secret` of Starlette's.

        Raises:
            ConfigError: a wrong word, or itsdangerous is missing.
        """
        super().__init__(secret_key, cookie, max_age, path, domain)
        itsdangerous = library("itsdangerous", "itsdangerous", "StarletteCookie")
        self._signer = itsdangerous.TimestampSigner(str(secret_key))

    def read(self, value: str) -> dict[str, Any] | None:
        """See `Reader`."""
        data = self._signer.unsign(value.encode(), max_age=self._max_age_s)
        return contents(json.loads(b64decode(data, validate=True)))


class FlaskCookie(_Cookie):
    """Flask's and Quart's signed cookie, with its tagged types."""

    def __init__(
        self,
        secret_key: str | bytes | None,
        *,
        cookie: str = "session",
        max_age: timedelta = timedelta(days=31),
        path: str = "/",
        domain: str | None = None,
    ) -> None:
        """As the old application was configured; ``max_age`` is PERMANENT_SESSION_LIFETIME.

        Raises:
            ConfigError: a wrong word, or itsdangerous is missing.
        """
        super().__init__(secret_key, cookie, max_age, path, domain)
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


class AiohttpFernetCookie(_Cookie):
    """aiohttp-session's ``EncryptedCookieStorage``."""

    def __init__(
        self,
        secret_key: Any,
        *,
        cookie: str = "AIOHTTP_SESSION",
        max_age: timedelta = timedelta(days=14),
        path: str = "/",
        domain: str | None = None,
    ) -> None:
        """As the old storage was configured; one without ``max_age`` believed a cookie for ever.

        Args:
            secret_key: what the storage was given: 32 bytes, text, or a `Fernet`.
            cookie: the storage's ``cookie_name``.
            max_age: how long a cookie shall be believed.
            path: of the old cookie.
            domain: of the old cookie.

        Raises:
            ConfigError: a wrong word, or cryptography is missing.
        """
        super().__init__(secret_key, cookie, max_age, path, domain)
        fernet = library("cryptography.fernet", "cryptography", "AiohttpFernetCookie")
        if isinstance(secret_key, fernet.Fernet):
            self._fernet = secret_key
            return
        try:
            text = isinstance(secret_key, str)
            self._fernet = fernet.Fernet(secret_key if text else urlsafe_b64encode(secret_key))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"adopt=[AiohttpFernetCookie(…)]: {error}") from None

    def read(self, value: str) -> dict[str, Any] | None:
        """See `Reader`."""
        raw = self._fernet.decrypt(value.encode(), ttl=self._max_age_s)
        return aiohttp_contents(json.loads(raw), self._max_age_s)


class AiohttpNaClCookie(_Cookie):
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
            ConfigError: a wrong word, or PyNaCl is missing.
        """
        super().__init__(secret_key, cookie, max_age, path, domain)
        secret = library("nacl.secret", "pynacl", "AiohttpNaClCookie")
        try:
            self._box = secret.SecretBox(secret_key)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"adopt=[AiohttpNaClCookie(…)]: {error}") from None

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
