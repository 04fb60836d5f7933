"""Which old cookie came, and what becomes of it in the answer (`samesession.takeover`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

from samesession.adopt import Reader, StoredReader, is_stored
from samesession.life import Client, Life
from samesession.session import Session
from samesession.settings import Cookie
from samesession.takeover import TakeOver
from samesession.web._http import CookieCodec


class OldCookies:
    """The old cookies of an application, looked for in requests that have none of ours."""

    def __init__(
        self,
        take_over: Callable[[], TakeOver],
        readers: Sequence[Reader | StoredReader],
        cookie: Cookie,
        login_keys: Sequence[str],
    ) -> None:
        """Prepare what does not change from request to request.

        Args:
            take_over: for loops or for threads; opened at the first need.
            readers: of the old libraries.
            cookie: ours.
            login_keys: see `Life`.
        """
        self._take_over = take_over
        self._login_keys = login_keys
        self._old = []
        for reader in readers:
            old = _cookie_of(reader)
            codec = CookieCodec(old)
            same = (old.name, old.path, old.domain) == (cookie.name, cookie.path, cookie.domain)
            self._old.append((reader, codec, b"" if same else codec.set(Life(0, 0, Client))))

    def __bool__(self) -> bool:
        """Whether there is any to look for."""
        return bool(self._old)

    async def moved_in(self, session: Session, headers: Iterable[bytes]) -> Session:
        """Return the session with what an old cookie leads to; one that has a token is left alone.

        Args:
            session: as it was opened.
            headers: the request's Cookie headers.
        """
        life = session._life
        if not self._old or life.token is not None or life.failure is not None:
            return session
        headers = list(headers)
        for reader, codec, gone in self._old:
            values = [value for header in headers for value in codec.values(header)]
            if len(values) != 1:  # none, or two, of which one may be planted
                continue
            old = self._take_over()
            moved: Session | None
            if is_stored(reader):
                moved = await old.from_shelf(session, reader, values[0], self._login_keys, gone)
            else:
                moved = old.from_cookie(session, cast(Reader, reader), values[0], gone)
            if moved is not None:
                return moved
            if session._life.failure is not None:
                break
        return session


def _cookie_of(reader: Reader | StoredReader) -> Cookie:
    prefixed = reader.cookie.lower().startswith(("__host-", "__secure-"))
    return Cookie(name=reader.cookie, path=reader.path, domain=reader.domain, secure=prefixed)
