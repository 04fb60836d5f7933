"""Django's settings as our `Sessions`, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from django.conf import global_settings, settings
from django.contrib.sessions.middleware import SessionMiddleware
from django.core import checks
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from samesession.errors import ConfigError
from samesession.sessions import Sessions
from samesession.settings import Cookie, key_from, keys_from
from samesession.web._django_adopt import readers

ENGINE = "samesession.web.django"
LOGIN_KEYS = ("_auth_user_id", "_auth_user_backend", "_auth_user_hash")
"""What `django.contrib.auth.login` sets; the first is who."""

_TAKEN = {
    "url",
    "keys",
    "idle",
    "lifetime",
    "max_size",
    "max_sessions",
    "on_limit",
    "carrier",
    "adopt",
}
_MIDDLEWARE = "django.contrib.sessions.middleware.SessionMiddleware"
_DEFAULT_AGE_S = 14 * 24 * 3600


@lru_cache(maxsize=1)
def get_sessions() -> Sessions:
    """The sessions of the settings, for administration: ``get_sessions().blocking.held_by("7")``.

    Raises:
        ConfigError: naming the setting, its value and the way out.
    """
    given = getattr(settings, "SAMESESSION", None)
    if not isinstance(given, dict) or "url" not in given:
        raise ConfigError(
            f"SAMESESSION={given!r} names no store; "
            'write SAMESESSION = {"url": "redis://127.0.0.1:6379/0"}'
        )
    for name in given:
        if name not in _TAKEN:
            near = get_close_matches(name, _TAKEN, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(sorted(_TAKEN))}"
            raise ConfigError(f"SAMESESSION has no setting {name!r}; {hint}")
    age = timedelta(seconds=settings.SESSION_COOKIE_AGE)
    _check_age(given, age)
    lifetime = given.get("lifetime", max(age, given.get("idle", age)))
    sessions = Sessions.from_url(
        given["url"],
        keys=given["keys"] if "keys" in given else _djangos_keys(),
        idle=given.get("idle", min(age, lifetime)),
        lifetime=lifetime,
        cookie=_cookie(),
        max_size=given.get("max_size", 64 * 1024),
        max_sessions=given.get("max_sessions"),
        on_limit=given.get("on_limit", "evict-oldest"),
        principal_key=LOGIN_KEYS[0],
        carrier=given.get("carrier", "cookie"),
        adopt=readers(given.get("adopt", [])),
    )
    _ = sessions.threads  # Django's middleware runs in them, under ASGI too
    return sessions


def _djangos_keys() -> list[str]:
    key, others = settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS
    key_from(key, "SECRET_KEY")
    keys_from(others, "SECRET_KEY_FALLBACKS")
    return [key, *others]


def _check_age(given: dict[str, Any], age: timedelta) -> None:
    if age == timedelta(seconds=_DEFAULT_AGE_S):
        return
    ours = {given[name] for name in ("idle", "lifetime") if name in given}
    if ours and age not in ours:
        raise ConfigError(
            f"SESSION_COOKIE_AGE={settings.SESSION_COOKIE_AGE} contradicts SAMESESSION's idle and "
            'lifetime; remove that line, or "idle" and "lifetime" from SAMESESSION'
        )


def _cookie() -> Cookie:
    """Django's cookie in our words, which refuse what a browser would silently drop."""
    same_site = settings.SESSION_COOKIE_SAMESITE
    try:
        return Cookie(
            name=settings.SESSION_COOKIE_NAME,
            secure=bool(settings.SESSION_COOKIE_SECURE),
            http_only=bool(settings.SESSION_COOKIE_HTTPONLY),
            same_site=same_site.lower() if same_site else "lax",
            path=settings.SESSION_COOKIE_PATH,
            domain=settings.SESSION_COOKIE_DOMAIN,
        )
    except ConfigError as error:
        said = str(error).removeprefix("Cookie: ")
        for ours in ("name", "secure", "same_site", "path", "domain"):
            django = f"SESSION_COOKIE_{ours.replace('_', '').upper()}"
            said = said.replace(f"{ours}=", f"{django}=")
        raise ConfigError(said) from None


def is_engine() -> bool:
    """Whether SESSION_ENGINE is ours, or one that extends it."""
    try:
        store = import_string(f"{settings.SESSION_ENGINE}.SessionStore")
    except ImportError:  # Django's business
        return False
    return any(kind.__module__ == ENGINE for kind in store.__mro__)


def check_middleware() -> None:
    """Refuse a list of middleware that gives a request no session, or two.

    Raises:
        ConfigError: naming the line.
    """
    found = [name for name in settings.MIDDLEWARE if _is_session_middleware(name)]
    if len(found) == 1:
        return
    if not found:
        raise ConfigError(
            "MIDDLEWARE has no session middleware, so there is no request.session; "
            f"add {_MIDDLEWARE!r}"
        )
    raise ConfigError(f"MIDDLEWARE has {' and '.join(map(repr, found))}; keep one of the lines")


def _is_session_middleware(name: str) -> bool:
    try:
        found = import_string(name)
    except ImportError:  # Django's business
        return False
    return isinstance(found, type) and issubclass(found, SessionMiddleware)


def check_settings(**_given: object) -> list[checks.CheckMessage]:
    """Django's system checks, for ``manage.py check``; a server says the errors when it starts."""
    if not is_engine():  # another one's business
        return []
    found: list[checks.CheckMessage] = []
    tried: tuple[Callable[[], object], ...] = (get_sessions, check_middleware)
    for number, check in enumerate(tried, 1):
        try:
            check()
        except ConfigError as error:
            found.append(checks.Error(str(error), id=f"samesession.E00{number}"))
    if settings.SESSION_SERIALIZER != global_settings.SESSION_SERIALIZER:
        found.append(
            checks.Warning(
                f"SESSION_SERIALIZER={settings.SESSION_SERIALIZER!r} is not used: sessions hold "
                "plain data, dates and decimals included; remove that line",
                id="samesession.W001",
            )
        )
    given = getattr(settings, "SAMESESSION", None)
    if settings.SESSION_SAVE_EVERY_REQUEST and "lifetime" not in (given or {}):
        found.append(
            checks.Warning(
                "SESSION_SAVE_EVERY_REQUEST prolongs no session beyond its lifetime, which is "
                "SESSION_COOKIE_AGE after it was made; write "
                '"lifetime": timedelta(days=…) into SAMESESSION',
                id="samesession.W002",
            )
        )
    return found


def _forget(*, setting: str, **_given: object) -> None:
    if setting.startswith(("SAMESESSION", "SESSION_COOKIE", "SECRET_KEY")):
        get_sessions.cache_clear()


checks.register(check_settings)
setting_changed.connect(_forget)
