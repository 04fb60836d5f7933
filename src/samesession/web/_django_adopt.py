"""What Django's engines left: ``SAMESESSION["adopt"] = ["django.contrib.sessions.backends.db"]``.

The old engine's name says where to look. Its table and its signed cookies hold signed JSON, which
is read. Its cache engine keeps pickles, unless the cache was given a serializer: those are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, Literal, cast
from urllib.parse import quote

from django.conf import settings
from django.contrib.sessions.backends import cache, db, signed_cookies
from django.core import signing
from django.core.cache import caches
from django.db import Error as DatabaseError
from django.utils import timezone
from django.utils.module_loading import import_string

from samesession.adopt import LARGEST, Reader, StoredReader
from samesession.adopt.formats import dict_from, from_json, from_msgpack
from samesession.errors import ConfigError, StoreCorruptError, StoreUnavailableError
from samesession.sessions import Sessions
from samesession.web._adopt import OldCookies

_KEY = re.compile(r"[a-z0-9]{8,40}")
_REDIS = ("django.core.cache.backends.redis.", "django_redis.")


class _Raw:
    """Django's seam for a serializer: what was signed, still in bytes."""

    def loads(self, data: bytes) -> bytes:
        return data


class _Old:
    """What all three have."""

    path: str
    domain: str | None
    max_age: timedelta

    def __init__(self) -> None:
        self.cookie = settings.SESSION_COOKIE_NAME
        self.path, self.domain = settings.SESSION_COOKIE_PATH, settings.SESSION_COOKIE_DOMAIN
        self.max_age = timedelta(seconds=settings.SESSION_COOKIE_AGE)

    def name(self, value: str) -> str | None:
        return value if _KEY.fullmatch(value) else None


class _Table(_Old):
    """``db`` and ``cached_db``, and engines that extend them."""

    def __init__(self, store: Any) -> None:
        super().__init__()
        self.url = f"{store.__module__}.{store.__qualname__}"
        self._store = store
        self._salt = store().key_salt

    def open_shelf(self, opener: Literal["open_loop", "open_threads"]) -> _Rows:
        return _Rows(self._store.get_model_class(), suspends=opener == "open_loop")

    def contents(self, raw: bytes) -> dict[str, Any]:
        signed = signing.loads(raw.decode("ascii"), salt=self._salt, serializer=_Raw)
        return dict_from(signed, from_json)


class _Rows:
    """The table, by Django's own ORM."""

    def __init__(self, model: Any, *, suspends: bool) -> None:
        self._model = model
        self._suspends = suspends

    async def get(self, name: str) -> bytes | None:
        live = self._model.objects.filter(session_key=name, expire_date__gt=timezone.now())
        rows = live.values_list("session_data", flat=True)
        try:
            data: str | None = await rows.afirst() if self._suspends else rows.first()
        except DatabaseError as error:
            raise StoreUnavailableError(f"the old table of sessions: {error}") from None
        if data is not None and len(data) > LARGEST:
            raise StoreCorruptError(f"an old session has {len(data)} characters")
        return None if data is None else data.encode()

    async def close(self) -> None:
        """Django closes its connections itself."""


class _Cache(_Old):
    """``cache`` over a Redis, and engines that extend it."""

    def __init__(self, store: Any) -> None:
        super().__init__()
        self.url = _redis_url(settings.SESSION_CACHE_ALIAS)
        self._cache = caches[settings.SESSION_CACHE_ALIAS]
        self._prefix = store.cache_key_prefix

    def name(self, value: str) -> str | None:
        known = super().name(value)
        return None if known is None else str(self._cache.make_key(self._prefix + known))

    def contents(self, raw: bytes) -> dict[str, Any]:
        return dict_from(raw, from_json, from_msgpack)


class _Signed(_Old):
    """``signed_cookies``."""

    def read(self, value: str) -> dict[str, Any]:
        signed = signing.loads(
            value,
            salt="django.contrib.sessions.backends.signed_cookies",
            serializer=_Raw,
            max_age=settings.SESSION_COOKIE_AGE,
        )
        return dict_from(signed, from_json)


def readers(given: object) -> list[Reader | StoredReader]:
    """The readers that ``SAMESESSION["adopt"]`` names: old engines, or readers themselves.

    Raises:
        ConfigError: an engine that nobody can read from, or a reader of another cookie.
    """
    if not isinstance(given, list | tuple):
        raise ConfigError(
            f'SAMESESSION["adopt"]={given!r} is no list; '
            'write "adopt": ["django.contrib.sessions.backends.db"], the SESSION_ENGINE until now'
        )
    return [_reader(one) for one in given]


def _reader(given: Any) -> Reader | StoredReader:
    if not isinstance(given, str):
        name = getattr(given, "cookie", None)
        if name is not None and name != settings.SESSION_COOKIE_NAME:
            raise ConfigError(
                f'SAMESESSION["adopt"]: {type(given).__name__} reads the cookie {name!r}, and '
                f"SESSION_COOKIE_NAME={settings.SESSION_COOKIE_NAME!r}; give both the same name"
            )
        return cast(Reader, given)  # whether it is one, Sessions judges
    try:
        store = import_string(f"{given}.SessionStore")
    except ImportError as error:
        raise ConfigError(
            f'SAMESESSION["adopt"]: {given!r} is no session engine: {error}'
        ) from None
    if issubclass(store, db.SessionStore):
        djangos = store.get_model_class.__func__ is db.SessionStore.get_model_class.__func__
        if djangos and "django.contrib.sessions" not in settings.INSTALLED_APPS:
            raise ConfigError(
                f'SAMESESSION["adopt"]: {given!r} needs "django.contrib.sessions" in '
                "INSTALLED_APPS until its sessions have moved"
            )
        return _Table(store)
    if issubclass(store, cache.SessionStore):
        return _Cache(store)
    if issubclass(store, signed_cookies.SessionStore):
        return _Signed()
    raise ConfigError(
        f'SAMESESSION["adopt"]: {given!r} cannot be read from; Django\'s db, cached_db, cache '
        "(over Redis) and signed_cookies can"
    )


def _redis_url(alias: str) -> str:
    """The Redis of a cache as a URL of ours."""
    cache_settings: dict[str, Any] = settings.CACHES.get(alias, {})
    backend = cache_settings.get("BACKEND", "")
    if not backend.startswith(_REDIS):
        raise ConfigError(
            f'SAMESESSION["adopt"]: CACHES[{alias!r}] is {backend}, which keeps pickles; nobody '
            "opens those, so leave the cache engine out, and its users sign in again"
        )
    location = cache_settings.get("LOCATION", "")
    first = location[0] if isinstance(location, list | tuple) else re.split("[;,]", location)[0]
    options = {name.lower(): v for name, v in cache_settings.get("OPTIONS", {}).items()}
    password = options.get("password")
    if password and "@" not in first:
        who = f"{quote(options.get('username') or '', safe='')}:{quote(password, safe='')}@"
        first = first.replace("://", f"://{who}", 1)
    return str(first)


@lru_cache(maxsize=4)
def old_cookies(sessions: Sessions, *, loops: bool) -> OldCookies:
    """What looks for the old sessions, for a loop's requests or for those of threads."""
    login_keys: Sequence[str] = sessions.login_keys
    return OldCookies(
        lambda: sessions.old_loops if loops else sessions.old_threads,
        sessions.adopt,
        sessions.cookie,
        login_keys,
    )
