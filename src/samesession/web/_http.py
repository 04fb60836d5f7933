"""What every adapter says in HTTP: our cookie in, our headers out, and 503 when nobody knows."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from samesession.errors import RetryableError
from samesession.session import Client, Life
from samesession.settings import Cookie

USER_AGENT_CHARACTERS = 128
Headers = list[tuple[bytes, bytes]]


class CookieCodec:
    """Finds our cookie among a client's, and writes it."""

    def __init__(self, cookie: Cookie) -> None:
        """Prepare what does not change from request to request."""
        self._needle = f"{cookie.name}=".encode("latin-1")
        self._attributes = f"; {cookie.attributes}"
        self._persistent = cookie.persistent
        self._name = cookie.name

    def values(self, header: bytes) -> list[bytes]:
        """Every different value that our name has in one Cookie header, whatever else is in it."""
        found: list[bytes] = []
        needle, at = self._needle, header.find(self._needle)
        while at >= 0:
            before = header[:at].rstrip(b" \t") if at else b""
            after = at + len(needle)
            if not before or before.endswith(b";"):
                end = header.find(b";", after)
                value = header[after:end] if end >= 0 else header[after:]
                value = value.strip(b" \t")
                if value not in found:
                    found.append(value)
            at = header.find(needle, after)
        return found

    def set(self, life: Life) -> str:
        """The Set-Cookie header's value for what the request decided; deletion repeats the flags."""
        if not life.cookie:
            gone = "; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
            return f"{self._name}={self._attributes}{gone}"
        age = ""
        if self._persistent and life.token is not None:
            age = f"; Max-Age={max(0, (life.token.absolute_ms - life.arrived_ms) // 1000)}"
        return f"{self._name}={life.cookie}{self._attributes}{age}"


def varied(headers: Headers) -> Headers:
    """Add ``Vary: Cookie``, unless it is said already: the answer depends on the session (S12)."""
    said = [value for name, value in headers if name.lower() == b"vary"]
    names = {part.strip().lower() for value in said for part in value.split(b",")}
    if names & {b"cookie", b"*"}:
        return headers
    return [*headers, (b"vary", b"Cookie")]


def uncached(headers: Headers) -> Headers:
    """Replace whatever was said about caching: this answer carries somebody's cookie (S12)."""
    kept = [(name, value) for name, value in headers if name.lower() != b"cache-control"]
    return [*kept, (b"cache-control", b"no-store")]


def unavailable(error: RetryableError) -> tuple[Headers, bytes]:
    """Headers and body of the 503: something was not done, or nobody knows."""
    body = f"Your session could not be read or kept ({error}). Please try again.\n".encode()
    return [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", str(error.retry_after_s).encode()),
        (b"cache-control", b"no-store"),
    ], body


def client_of(user_agent: str, address: str) -> Client:
    """Who asks, with no more of the address than its network: /24 or /48."""
    printable = "".join(c for c in user_agent[:USER_AGENT_CHARACTERS] if c.isprintable())
    try:
        prefix = 24 if ip_address(address).version == 4 else 48  # noqa: PLR2004
        network = str(ip_network(f"{address}/{prefix}", strict=False))
    except ValueError:  # a unix socket, or a test client's name
        network = ""
    return Client(printable, network)
