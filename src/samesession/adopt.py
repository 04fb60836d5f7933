"""Taking over a running site without a logout: readers of the cookies that others signed.

    Sessions.from_url(…, adopt=[FlaskCookie("the application's SECRET_KEY")])

On the first request with the old cookie, and none of ours, its data moves into a new session of
ours; the answer sets our cookie and expires the old one. Read only, limited in size, never
unpickled. What nobody can read means a stranger. Take the line out when the old cookies have
expired: until then a copy of one is worth what it was.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from datetime import timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha1
from importlib import import_module
from typing import Any, Protocol
from uuid import UUID

from samesession.errors import ConfigError

LONGEST = 16 * 1024
"""Characters of a cookie's value: four times what a browser keeps."""


class Reader(Protocol):
    """Reads one kind of old cookie; an application may bring its own."""

    cookie: str
    path: str
    domain: str | None

    def read(self, value: str) -> dict[str, Any] | None:
        """The contents, or None for what was not written by the old site; may raise ValueError."""
        ...


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
        self._signer = _itsdangerous().TimestampSigner(secret_key)

    def read(self, value: str) -> dict[str, Any] | None:
        """See `Reader`."""
        data = self._signer.unsign(value.encode(), max_age=self._max_age_s)
        return _contents(json.loads(b64decode(data, validate=True)))


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
        self._serializer = _itsdangerous().URLSafeTimedSerializer(
            secret_key,
            salt="cookie-session",
            signer_kwargs={"key_derivation": "hmac", "digest_method": sha1},
        )

    def read(self, value: str) -> dict[str, Any] | None:
        """See `Reader`."""
        return _contents(_untagged(self._serializer.loads(value, max_age=self._max_age_s)))


def read(reader: Reader, value: bytes) -> dict[str, Any] | None:
    """The contents of an old cookie, or None; whatever it holds."""
    if len(value) > LONGEST:
        return None
    try:
        return reader.read(value.decode("ascii"))
    except Exception:  # noqa: BLE001  (forged, too old, cut off: a stranger)
        return None


def _contents(data: object) -> dict[str, Any] | None:
    return data if isinstance(data, dict) and data else None


def _untagged(value: Any) -> Any:
    """Flask's ``json.tag``: a dict of one key that begins with a space is another type."""
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, inner),) = value.items()
        untag = _TAGS.get(tag)
        if untag is not None:
            return untag(inner)
    return {key: _untagged(item) for key, item in value.items()}


def _markup(text: str) -> str:
    try:
        marked: str = import_module("markupsafe").Markup(text)
    except ImportError:
        return text
    return marked


_TAGS: dict[str, Callable[[Any], Any]] = {
    " t": lambda items: tuple(_untagged(item) for item in items),
    " b": lambda text: b64decode(text, validate=True),
    " m": _markup,
    " u": UUID,
    " d": parsedate_to_datetime,
    # A dict whose only key looks like a tag: Flask adds two underscores to it.
    " di": lambda inner: {key.removesuffix("__"): _untagged(item) for key, item in inner.items()},
}


def _itsdangerous() -> Any:
    try:
        return import_module("itsdangerous")
    except ImportError:
        raise ConfigError("adopt= of signed cookies needs itsdangerous; pip install it") from None
