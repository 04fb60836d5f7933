"""What every adapter says in HTTP: our cookie in, our headers out, and 503 when nobody knows."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable
from ipaddress import ip_address, ip_network

from samesession.errors import ResponseStartedError, RetryableError, TooManySessionsError
from samesession.life import Client, Life
from samesession.lifecycle import Lifecycle
from samesession.record import Reason
from samesession.session import Session
from samesession.settings import Carrier, Cookie

log = logging.getLogger("samesession")

USER_AGENT_CHARACTERS = 128
Headers = list[tuple[bytes, bytes]]


TOKEN_HEADER = b"session-token"
_NO_STORE = (b"cache-control", b"no-store")
_OURS = frozenset({b"vary", b"cache-control"})
_VARY = {
    Carrier.COOKIE: (b"Cookie",),
    Carrier.HEADER: (b"Session-Token",),
    Carrier.BOTH: (b"Cookie", b"Session-Token"),
}


class CookieCodec:
    """Finds our token among what a client sends, and writes it.

    Attributes:
        plain: it travels in the cookie only, as most do.
    """

    def __init__(self, cookie: Cookie, carrier: Carrier = Carrier.COOKIE) -> None:
        """Prepare what does not change from request to request."""
        self.plain = carrier is Carrier.COOKIE
        self._carrier = carrier
        self._vary = _VARY[carrier]
        self._varies = (b"vary", b", ".join(self._vary))
        self._varies_text = ("vary", b", ".join(self._vary).decode())
        self._needle = f"{cookie.name}=".encode("latin-1")
        self._skip = len(self._needle)
        self._attributes = f"; {cookie.attributes}".encode("latin-1")
        self._persistent = cookie.persistent

    def values(self, header: bytes) -> list[bytes]:
        """The value that our name has in one Cookie header, or the first two different ones."""
        needle = self._needle
        # The only cookie of this site; `find`, because `in` tries the needle as a number first.
        if header.find(b";") < 0 and header.startswith(needle):
            return [header[self._skip :].strip(b" \t")]
        found: list[bytes] = []
        past, at = 0, header.find(needle)
        while at >= 0 and len(found) < 2:
            # No look back beyond the last match: 64 KB of look-alikes cost no more than 64 KB.
            semicolon = header.rfind(b";", past, at)
            begins = (semicolon >= 0 or not past) and not header[semicolon + 1 : at].strip(b" \t")
            past = at + len(needle)
            if begins:
                end = header.find(b";", past)
                value = (header[past:end] if end >= 0 else header[past:]).strip(b" \t")
                if value not in found:
                    found.append(value)
            at = header.find(needle, past)
        return found

    def set(self, life: Life) -> bytes:
        """The Set-Cookie header's value that the request decided; deletion repeats the flags."""
        cookie = life.cookie or ""
        value = self._needle + cookie.encode() + self._attributes
        if not cookie:
            return value + b"; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        if (self._persistent or life.persistent) and life.token is not None:
            return value + b"; Max-Age=%d" % max(
                0, (life.token.absolute_ms - life.arrived_ms) // 1000
            )
        return value

    def carried(self, header: bytes | None, cookie: bytes | None) -> tuple[bytes | None, bool]:
        """The token among what came, and whether it is answered by header.

        Args:
            header: ``Session-Token``'s value, if that header came.
            cookie: our cookie's, if one came.
        """
        by_cookie = self._carrier is Carrier.COOKIE
        if self._carrier is Carrier.HEADER or (header is not None and not by_cookie):
            return header or None, True
        return cookie, False

    def answered(self, headers: Iterable[tuple[bytes, bytes]], life: Life) -> Headers:
        """A response's headers with what its session adds to them (S12)."""
        headers = list(headers)
        for name, _ in headers:
            if name in _OURS or not name.islower():
                headers, said = _without_ours(headers, drop_caching=life.cookie is not None)
                headers.append((b"vary", _merged(said, self._vary)))
                break
        else:
            headers.append(self._varies)
        if life.cookie is not None:
            headers.append(_NO_STORE)
            if life.by_header:
                headers.append((TOKEN_HEADER, life.cookie.encode()))
                return headers
            if life.adopted is not None and life.adopted.gone:
                headers.append((b"set-cookie", life.adopted.gone))
            headers.append((b"set-cookie", self.set(life)))
        return headers

    def added(self, names: Container[str], life: Life) -> list[tuple[str, str]] | None:
        """What `answered` only adds, as text; None where the response's own headers change, too.

        Args:
            names: of the response's headers, in lower case or compared so.
            life: the session's.
        """
        if "vary" in names:
            return None
        if life.cookie is None:
            return [self._varies_text]
        if life.by_header or life.adopted or "cache-control" in names:
            return None
        token = self.set(life).decode("latin-1")
        return [self._varies_text, ("cache-control", "no-store"), ("set-cookie", token)]


def _without_ours(headers: Headers, *, drop_caching: bool) -> tuple[Headers, list[bytes]]:
    """Take out what is said anew.

    Args:
        headers: of the application.
        drop_caching: a token goes along, so nothing said about caching stands.

    Returns:
        The other headers, and what was said in ``Vary``.
    """
    said = [value for name, value in headers if name.lower() == b"vary"]
    ours = _OURS if drop_caching else {b"vary"}
    return [pair for pair in headers if pair[0].lower() not in ours], said


def _merged(said: list[bytes], vary: tuple[bytes, ...]) -> bytes:
    """One header in the end: middleware around ours may keep only the first (Starlette's do)."""
    names = {part.strip().lower() for value in said for part in value.split(b",")}
    if b"*" not in names:
        said = said + [name for name in vary if name.lower() not in names]
    return b", ".join(said)


async def nothing_left(core: Lifecycle, session: Session) -> None:
    """Drop nothing silently: what changed after the response began was committed, or raises (S11).

    Called when `Lifecycle.uncommitted` says so. A logout is carried out.
    """
    if session._life.leaving is Reason.LOGOUT:
        await core.finish(session, failed=True)
        if not core.uncommitted(session):
            return
    session.saw(session.take())  # said once
    raise ResponseStartedError(
        "the session was changed after the response began, and its commit is over; change it "
        "earlier, or call `await sessions.commit(session)` (in threads `sessions.blocking.commit`)"
    )


def refusal(error: Exception | None) -> tuple[int, Headers, bytes]:
    """Status, headers and body where something was not done, or nobody knows (503).

    Why is for the log, since the error names hosts and folders; that there are too many sessions
    (409) is for whoever would sign in.
    """
    status, body = RetryableError.status_code, _NOT_NOW
    if isinstance(error, TooManySessionsError):
        status, body = error.status_code, f"You are {error}.\n".encode()
    else:
        log.warning("answered 503: %s", error)
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status == RetryableError.status_code:
        headers.append((b"retry-after", str(RetryableError.retry_after_s).encode()))
    return status, headers, body


def refused(error: Exception) -> tuple[str, int, dict[str, str]]:
    """The same as Flask and Quart take an answer, whose own handler would make it a 500."""
    status, headers, body = refusal(error)
    return body.decode(), status, {name.decode(): value.decode() for name, value in headers}


_NOT_NOW = b"Your session could not be read or kept just now. Please try again.\n"


def client_of(user_agent: str, address: str) -> Client:
    """Who asks, with no more of the address than its network: /24 or /48."""
    printable = "".join(c for c in user_agent[:USER_AGENT_CHARACTERS] if c.isprintable())
    try:
        parsed = ip_address(address)
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        network = str(ip_network((parsed, 24 if parsed.version == 4 else 48), strict=False))
    except ValueError:  # a unix socket, or a test client's name
        network = ""
    return Client(printable, network)
