"""What is wrong at the start is said at the start: one `ConfigError` that names the line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from functools import wraps
from inspect import Parameter, iscoroutinefunction, isfunction, signature
from typing import Any, NamedTuple, ParamSpec, TypeVar

from samesession.errors import ConfigError
from samesession.session import Session
from samesession.sessions import Sessions

P = ParamSpec("P")
T = TypeVar("T")


def called_as(line: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have a call with other arguments than a function takes say what to write.

    Frameworks make the call themselves, so Python's own `TypeError` names no line of the user's.

    Args:
        line: the whole of it, without what may be left out.
    """

    def around(function: Callable[P, T]) -> Callable[P, T]:
        bind = signature(function).bind

        @wraps(function)
        def checked(*given: P.args, **named: P.kwargs) -> T:
            try:
                bind(*given, **named)
            except TypeError as error:
                raise ConfigError(f"{function.__qualname__}: {error}; write {line}") from None
            return function(*given, **named)

        return checked

    return around


def check_once(app: object, kind: type) -> None:
    """Refuse a second layer of ours below the first, or another library's.

    Args:
        app: what is wrapped; layers keep theirs in ``app``, as Starlette's, ours and most do.
        kind: our layer's type.
    """
    for layer in _layers(app):
        if isinstance(layer, kind):
            raise ConfigError(
                "SessionMiddleware is installed twice; keep one of the two lines "
                "(one application has one Sessions)"
            )
        if type(layer).__name__ == "SessionMiddleware":
            raise another(layer)


def _layers(app: object) -> Iterator[object]:
    for _ in range(100):
        yield app
        app = vars(app).get("app") if hasattr(app, "__dict__") else None
        if app is None:
            return


_OWN_WORDS = {
    "flask": ("Flask", "init_app(app, sessions) with init_app from samesession.web.flask"),
    "quart": ("Quart", "init_app(app, sessions) with init_app from samesession.web.quart"),
    "litestar": (
        "Litestar",
        "middleware=[session_middleware(sessions)] (it is in samesession.web.litestar)",
    ),
    "aiohttp": ("aiohttp", "setup(app, sessions) with setup from samesession.web.aiohttp"),
    "django": ("Django", 'SESSION_ENGINE = "samesession.web.django" into its settings'),
}
"""By the package that an application's type comes from: whose it is, and what to write there."""


def check_plain(app: object) -> None:
    """Refuse an application whose framework's own sessions a layer around it does not reach.

    Args:
        app: what is wrapped; the framework's object, or a method of it (``app.wsgi_app``).
    """
    for layer in _layers(app):
        framework = _framework_of(layer)
        if framework is not None:
            name, line = _OWN_WORDS[framework]
            raise ConfigError(
                f"a layer around a {name} application does not reach {name}'s own sessions; "
                f"instead of SessionMiddleware write {line}"
            )


def check_application(app: object, framework: str, call: str) -> None:
    """Refuse what is no application of this framework, such as one of its sibling's."""
    found = _framework_of(app)
    if found != framework:
        line = "the application first" if found is None else _OWN_WORDS[found][1]
        raise ConfigError(
            f"{call} of samesession.web.{framework} got {type(app).__name__!r}; write {line}"
        )


def _framework_of(app: object) -> str | None:
    kinds = type(getattr(app, "__self__", app)).__mro__
    packages = (kind.__module__.partition(".")[0] for kind in kinds)
    return next((name for name in packages if name in _OWN_WORDS), None)  # Quart's is Flask's, too


def check_mounted(app: object, kind: type, cookie: str, path: str = "") -> None:
    """Refuse a session layer in an application that is mounted, when it answers by our cookie.

    Admin interfaces bring one (sqladmin's ``authentication_backend``). With a cookie of its own it
    may stay: that application has its own sessions then.

    Args:
        app: routes as Starlette does, and keeps its layers' names until the first request.
        kind: our layer's type.
        cookie: our cookie's name.
        path: where the application is mounted.
    """
    for layer in _layers(app):
        for line in getattr(layer, "user_middleware", ()) if path else ():
            if not isinstance(line.cls, type) or line.cls.__name__ != "SessionMiddleware":
                continue
            if issubclass(line.cls, kind):
                raise ConfigError(_INSIDE)
            if line.kwargs.get("session_cookie", "session") == cookie:
                raise ConfigError(
                    f"the application mounted at {path!r} has a {line.cls.__module__}."
                    f"SessionMiddleware of its own, which answers by the cookie {cookie!r}, too; "
                    "remove its line (sqladmin: authentication_backend.middlewares = []) or give "
                    "it another session_cookie"
                )
        routes = getattr(layer, "routes", ())
        for route in routes if isinstance(routes, list) else ():
            inner = getattr(route, "app", None)
            if hasattr(inner, "routes"):
                check_mounted(inner, kind, cookie, path + getattr(route, "path", "/"))


def another(found: object) -> ConfigError:
    """What to say of another library's layer that does the same."""
    kind: Any = found if isfunction(found) else type(found)
    # A function inside another one is what that made; a class may be an application factory's.
    name = kind.__qualname__.partition(".<locals>")[0] if isfunction(found) else kind.__name__
    return ConfigError(
        f"{kind.__module__}.{name} is installed beside samesession's; "
        "remove its line (samesession.adopt takes over what it kept)"
    )


_INSIDE = (
    "SessionMiddleware is installed twice: for an application and for one inside it; "
    "keep the outer line (one application has one Sessions)"
)


def check_alone(session: object) -> None:
    """Refuse a request that has a session already; earlier nobody can know of the other layer.

    Args:
        session: what stands where ours belongs.
    """
    if isinstance(session, Session):
        raise ConfigError(_INSIDE)
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
