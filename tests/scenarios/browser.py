"""A browser: a real HTTP client with a cookie jar of its own, and requests held open on purpose."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx

from scenarios.site import TLS, Site

COOKIE = "session"
PATIENCE_S = 30.0


class Browser:
    """One visitor.

    ``at="s2"`` goes past the balancer where any server serves any session; where sessions stay on
    one server it goes through the balancer with the jar's affinity cookie, as PROMISES says.
    """

    def __init__(self, site: Site, like: Browser | None = None) -> None:
        self.site = site
        self.http = httpx.Client(trust_env=False, timeout=PATIENCE_S, verify=TLS)
        if like is not None:
            self.http.cookies.update(like.http.cookies)

    def twin(self) -> Browser:
        """Another browser with the same cookies: a tab, or a thief."""
        return Browser(self.site, like=self)

    @property
    def cookie(self) -> str | None:
        """Our cookie's value."""
        return self.http.cookies.get(COOKIE)

    @cookie.setter
    def cookie(self, value: str) -> None:
        self.http.cookies.delete(COOKIE) if self.cookie is not None else None
        self.http.cookies.set(COOKIE, value, domain="127.0.0.1", path="/")

    def ask(self, method: str, path: str, *, at: str | None = None, **more: Any) -> httpx.Response:
        """Send a request; any answer is an answer."""
        return self.http.request(method, self.site.door(at) + path, **more)

    def done(self, method: str, path: str, *, at: str | None = None, **more: Any) -> httpx.Response:
        """Send a request that must succeed."""
        answer = self.ask(method, path, at=at, **more)
        assert answer.status_code == 200, (method, path, answer.status_code, answer.text)
        return answer

    def read(self, at: str | None = None) -> dict[str, Any]:
        """What a server knows about this browser."""
        answer: dict[str, Any] = self.done("GET", "/api/session", at=at).json()
        return answer

    def put(self, key: str, value: object, at: str | None = None) -> httpx.Response:
        """Set a key."""
        return self.done("PUT", f"/api/session/{key}", at=at, json=value)

    def login(self, principal: str, at: str | None = None) -> httpx.Response:
        """Sign in."""
        return self.done("POST", f"/api/login/{principal}", at=at)

    def logout(self, at: str | None = None) -> httpx.Response:
        """Sign out."""
        return self.done("POST", "/api/logout", at=at)

    def rotate(self, at: str | None = None) -> httpx.Response:
        """Change the cookie."""
        return self.done("POST", "/api/rotate", at=at)

    def everywhere(self) -> list[dict[str, Any]]:
        """What every way in knows about this browser."""
        return [self.read(at) for at in self.site.doors]

    def is_nobody(self) -> bool:
        """Whether every way in takes this browser for a stranger."""
        return all(
            (seen["known"], seen["principal"], seen["data"]) == (False, None, {})
            for seen in self.everywhere()
        )

    def hold(
        self, method: str, path: str, body: bytes = b'"late"', *, at: str | None = None
    ) -> Held:
        """Start a request; return when its server has read the session and waits for the body."""
        return Held(self, method, path, body, at)

    def close(self) -> None:
        """Let go of connections."""
        self.http.close()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Held:
    """A request on its way: as slow as the test wants, without a clock."""

    def __init__(
        self, browser: Browser, method: str, path: str, body: bytes, at: str | None
    ) -> None:
        self._go = threading.Event()
        sent = threading.Event()

        def trace(event: str, _info: object) -> None:
            if event == "http11.send_request_headers.complete":
                sent.set()

        def pieces() -> Iterator[bytes]:
            assert self._go.wait(PATIENCE_S)
            yield body

        def run() -> httpx.Response:
            return browser.ask(method, path, at=at, content=pieces(), extensions={"trace": trace})

        self._pool = ThreadPoolExecutor(1)
        self._answer: Future[httpx.Response] = self._pool.submit(run)
        self._pool.shutdown(wait=False)
        assert sent.wait(PATIENCE_S)
        # The server reads a session as soon as the headers are there, in the order of arrival: when
        # it has answered two later questions of the same kind, it has read this one's.
        for _ in range(2):
            browser.done("GET", "/api/plain", at=at)

    def let_go(self) -> None:
        """Send the body, and do not wait."""
        self._go.set()

    def answer(self) -> httpx.Response:
        """Send the body, and return the answer."""
        self._go.set()
        return self._answer.result(PATIENCE_S)


def sets_our_cookie(answer: httpx.Response) -> bool:
    """Whether an answer sets or deletes our cookie; the balancer's own does not count."""
    return any(value.startswith(f"{COOKIE}=") for value in answer.headers.get_list("set-cookie"))
