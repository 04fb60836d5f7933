"""What is wrong at the start is said at the start: one `ConfigError` that names the line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from inspect import Parameter, iscoroutinefunction, isfunction, signature
from typing import Any, NamedTuple

from samesession.errors import ConfigError
from samesession.session import Session
from samesession.sessions import Sessions


def check_once(app: object, kind: type) -> None:
    """Refuse a second layer of ours below the first, or another library's.

    Args:
        app: what is wrapped; layers keep theirs in ``app``, as Starlette's, ours and most do.
        kind: our layer's type.
    """
    for _ in range(100):
        if isinstance(app, kind):
            raise ConfigError(
                "SessionMiddleware is installed twice; keep one of the two lines "
                "(one application has one Sessions)"
            )
        if type(app).__name__ == "SessionMiddleware":
            raise another(app)
        inner = vars(app).get("app") if hasattr(app, "__dict__") else None
        if inner is None:
            return
        app = inner


def another(found: object) -> ConfigError:
    """What to say of another library's layer that does the same."""
    kind: Any = found if isfunction(found) else type(found)
    name = kind.__qualname__.partition(".<locals>")[0]
    return ConfigError(
        f"{kind.__module__}.{name} is installed beside samesession's; "
        "remove its line (samesession.adopt takes over what it kept)"
    )


def check_alone(session: object) -> None:
    """Refuse a request that has a session already; earlier nobody can know of the other layer.

    Args:
        session: what stands where ours belongs.
    """
    if isinstance(session, Session):
        raise ConfigError(
            "SessionMiddleware is installed twice: for an application and for one inside it; "
            "keep the outer line (one application has one Sessions)"
        )
    raise ConfigError(
        "another session middleware is installed around samesession's; remove its line "
        "(samesession.adopt takes over what it kept)"
    )


def check_sessions(sessions: object, call: str) -> None:
    """Refuse what is no `Sessions`, such as a URL."""
    if not isinstance(sessions, Sessions):
        raise ConfigError(
            f"{call} got {type(sessions).__name__!r} for sessions; "
            "write Sessions.from_url(…) or Sessions.from_env()"
        )


def is_asgi(app: object) -> bool:
    """Whether an application is a coroutine function, or an object whose call is one."""
    return iscoroutinefunction(app) or iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004


def is_wsgi(app: object) -> bool:
    """Whether an application is plain code of two: ``environ, start_response``."""
    try:
        parameters = signature(app).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):  # compiled code that does not say
        return False
    takes = [one.kind for one in parameters if one.default is Parameter.empty]
    return not is_asgi(app) and takes == [Parameter.POSITIONAL_OR_KEYWORD] * 2


class Setting(NamedTuple):
    """A framework's own setting, and what we have in its place.

    Attributes:
        name: in the framework's configuration.
        default: of the framework; whoever did not set it contradicts nobody.
        ours: what it would have to be.
        write: the line of ours to change, without its value; "" where there is none.
    """

    name: str
    default: object
    ours: object
    write: str = ""


def cookie_settings(sessions: Sessions, defaults: Mapping[str, Any]) -> list[Setting]:
    """The settings that Flask, Quart and Django call alike.

    Args:
        sessions: whose cookie counts.
        defaults: the framework's, for those that it has.
    """
    cookie = sessions.cookie
    ours: dict[str, tuple[object, str]] = {
        "SESSION_COOKIE_NAME": (cookie.name, "Cookie(name={})"),
        "SESSION_COOKIE_DOMAIN": (cookie.domain, "Cookie(domain={})"),
        "SESSION_COOKIE_PATH": (cookie.path, "Cookie(path={})"),
        "SESSION_COOKIE_HTTPONLY": (cookie.http_only, "Cookie(http_only={})"),
        "SESSION_COOKIE_SECURE": (cookie.secure, "Cookie(secure={})"),
        "SESSION_COOKIE_SAMESITE": (cookie.same_site, "Cookie(same_site={})"),
        "SESSION_COOKIE_PARTITIONED": (cookie.partitioned, "Cookie(partitioned={})"),
    }
    return [
        Setting(name, defaults[name], value, write)
        for name, (value, write) in ours.items()
        if name in defaults
    ]


def contradictions(given: Mapping[str, Any], settings: Iterable[Setting]) -> list[str]:
    """One sentence for each setting that says something else than we do."""
    found = []
    for name, default, ours, write in settings:
        value = given.get(name, default)
        said = value.lower() if name.endswith("SAMESITE") and isinstance(value, str) else value
        if said in (default, ours):
            continue
        way = f"write {write.format(repr(said))} or remove that line" if write else "remove it"
        found.append(f"{name}={value!r} contradicts {ours!r}, which Sessions has; {way}")
    return found


def check_lifetime(given: timedelta, default: timedelta, sessions: Sessions) -> list[str]:
    """The same for the one duration that Flask and Quart have."""
    limits = sessions.limits
    milliseconds = round(given / timedelta(milliseconds=1))
    if given == default or milliseconds in {limits.idle_ms, limits.lifetime_ms}:
        return []
    idle, lifetime = (timedelta(milliseconds=ms) for ms in (limits.idle_ms, limits.lifetime_ms))
    said = f"PERMANENT_SESSION_LIFETIME={given!r} contradicts Sessions"
    way = f"write Sessions.from_url(…, idle={given!r}, …) or remove that line"
    return [f"{said} (idle={idle}, lifetime={lifetime}); {way}"]
