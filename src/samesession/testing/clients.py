"""Test clients that are signed in, without a login form."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from http.cookiejar import Cookie
from typing import Any
from urllib.parse import urlsplit

from samesession.errors import ConfigError
from samesession.sessions import Sessions
from samesession.settings import Carrier

HEADER = "Session-Token"


def sign_in(client: Any, sessions: Sessions, principal: Any, **contents: Any) -> None:
    """Sign a test client in: it holds the cookie of a new session from now on.

    Args:
        client: of httpx, Starlette, FastAPI, Litestar, Flask, Quart, aiohttp, requests, Falcon,
            WebTest or Django. Falcon's keeps no cookies: it sends this one with every request.
        sessions: the application's, usually over ``memory://``.
        principal: who; for Django's client the user object.
        contents: what else the session holds. The application's own login key is set too where
            ``principal_key`` names it.

    Raises:
        ConfigError: the client speaks plain http, and would not return the Secure cookie.
    """
    if hasattr(client, "force_login"):  # Django's: it knows what Django's login needs
        client.force_login(principal)
        kept = client.session
        kept.update(contents)
        kept.save()
        return
    by_header = sessions.carrier is Carrier.HEADER
    if sessions.cookie.secure and not by_header:
        _check_https(client)
    blocking = sessions.blocking
    session = blocking.open(None)
    session.login(principal)
    session.update(dict.fromkeys(session._life.login_keys, principal) | contents)
    blocking.finish(session)
    hand_over = _hand_header_over if by_header else _hand_cookie_over
    hand_over(client, sessions.cookie.name, session._life.cookie or "")


def _check_https(client: Any) -> None:
    base = getattr(client, "base_url", "") or (
        client.make_url("/") if hasattr(client, "make_url") else ""
    )
    if urlsplit(str(base)).scheme == "http":
        raise ConfigError(
            f"sign_in: this client asks {base}, and a Secure cookie does not travel over http; "
            "write Sessions.from_url(…, cookie=Cookie(secure=False)) for tests, or give the "
            "client an https:// base_url"
        )


def _hand_cookie_over(client: Any, name: str, value: str) -> None:
    if hasattr(client, "simulate_request"):  # Falcon's: it keeps no cookies
        client._default_headers = {**(client._default_headers or {}), "Cookie": f"{name}={value}"}
        return
    jar = getattr(getattr(client, "session", None), "cookie_jar", None)
    if jar is not None:  # aiohttp's
        jar.update_cookies({name: value}, client.make_url("/"))
    elif hasattr(client, "set_cookie") and not hasattr(client, "cookiejar"):
        # Flask's takes the name first, Quart's the server's.
        first = next(iter(inspect.signature(client.set_cookie).parameters))
        client.set_cookie(*(["localhost"] if first == "server_name" else []), name, value)
    else:  # httpx's, requests' and WebTest's
        cookies = client.cookiejar if hasattr(client, "cookiejar") else client.cookies
        jar = getattr(cookies, "jar", cookies)
        jar.set_cookie(_cookie_of_any_host(name, value))
        _give_way(jar, name)


def _cookie_of_any_host(name: str, value: str) -> Cookie:
    anywhere, everywhere = ("", False, False), ("/", True)
    return Cookie(
        0, name, value, None, False, *anywhere, *everywhere, False, None, True, None, None, {}
    )


def _give_way(jar: Any, name: str) -> None:
    """Have an answer's cookie take the place of ours, which belongs to no host in particular."""
    extract = jar.extract_cookies

    def extracting(response: Any, request: Any) -> None:
        said = response.info().get_all("Set-Cookie", [])
        if any(header.startswith(f"{name}=") for header in said):
            with suppress(KeyError):
                jar.clear("", "/", name)
        extract(response, request)

    jar.extract_cookies = extracting


def _connecting(connection: Callable[..., Any], value: str) -> Callable[..., Any]:
    """Connect as Quart's client does, and send the header along."""

    def connecting(app: Any, scope: Any, **more: Any) -> Any:
        scope["headers"] = [*scope["headers"], (HEADER.lower().encode(), value.encode())]
        return connection(app, scope, **more)

    return connecting


def _hand_header_over(client: Any, _name: str, value: str) -> None:
    if hasattr(client, "simulate_request"):
        client._default_headers = {**(client._default_headers or {}), HEADER: value}
    elif hasattr(client, "environ_base") or hasattr(client, "extra_environ"):  # Flask's, WebTest's
        kept = getattr(client, "environ_base", None) or client.extra_environ
        kept["HTTP_SESSION_TOKEN"] = value
    elif hasattr(client, "make_url"):  # aiohttp's
        client.session.headers[HEADER] = value
    elif hasattr(client, "headers"):
        client.headers[HEADER] = value
    elif hasattr(client, "http_connection_class"):  # Quart's
        for kind in ("http_connection_class", "websocket_connection_class"):
            setattr(client, kind, _connecting(getattr(client, kind), value))
    else:
        raise ConfigError(
            "sign_in cannot give this client a header for all its requests; with carrier='both' "
            "it hands a cookie over"
        )
