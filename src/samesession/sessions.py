"""Every session of an application: where it is configured, and the verbs that it is used by."""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from samesession._bridge import ready
from samesession._random import random_bytes
from samesession.adopt import Reader, Shelf, StoredReader, checked, is_stored
from samesession.commits import Tools
from samesession.counts import Counts
from samesession.errors import ConfigError, StoreUnavailableError
from samesession.life import Client
from samesession.lifecycle import Held, Lifecycle
from samesession.session import Session
from samesession.settings import (
    MAKE_A_KEY,
    Carrier,
    Cookie,
    Limits,
    Quota,
    duration_ms,
    keys_from,
    redacted,
    size_bytes,
)
from samesession.store import Store
from samesession.strategies import Strategy, open_shelf, strategy_of
from samesession.takeover import TakeOver
from samesession.token import Signer

log = logging.getLogger("samesession")

opened_from_env = False
"""Whether this process has sessions where ``SAMESESSION_URL`` says; `samesession up` asks."""

_HANDLE = re.compile(r"[0-9a-f]{32}")


def now_ms() -> int:
    """Milliseconds since the epoch, by this machine's clock."""
    return time.time_ns() // 1_000_000


class Sessions:
    """Every session of an application, whichever server answers.

    The same object serves event loops (its own coroutines) and threads (`blocking`).
    """

    def __init__(
        self,
        strategy: Strategy,
        keys: Iterable[bytes],
        *,
        limits: Limits,
        cookie: Cookie,
        principal_key: str | None = None,
        carrier: Carrier = Carrier.COOKIE,
        adopt: Sequence[Reader | StoredReader] = (),
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """Compose; `from_url` and `from_env` are the usual ways in."""
        self.strategy = strategy
        self.limits = limits
        self.cookie = cookie
        self.carrier = carrier
        self.adopt = checked(adopt)
        self._counts = Counts()
        self.login_keys = () if principal_key is None else (principal_key,)
        signer = Signer(tuple(keys))
        self._tools = Tools(signer, limits, self._counts, clock, random_bytes, self.login_keys)

    @classmethod
    def from_url(  # noqa: PLR0913  (settings, by keyword only)
        cls,
        url: str,
        *,
        keys: Iterable[str] = (),
        idle: timedelta = timedelta(minutes=30),
        lifetime: timedelta = timedelta(hours=12),
        cookie: Cookie | None = None,
        max_size: int = 64 * 1024,
        max_sessions: int | None = None,
        on_limit: Literal["evict-oldest", "reject"] = "evict-oldest",
        principal_key: str | None = None,
        carrier: Carrier | Literal["cookie", "header", "both"] = Carrier.COOKIE,
        adopt: Sequence[Reader | StoredReader] = (),
    ) -> Sessions:
        """Make the sessions of a strategy.

        Args:
            url: such as ``redis://127.0.0.1:6379/0``, ``sticky://`` or ``memory://``.
            keys: 32 bytes or more each; the first signs, every one verifies.
            idle: a session that nobody used for so long is over.
            lifetime: its absolute end, fixed when it is made, never infinite.
            cookie: ``Cookie(secure=False)`` for plain http while developing.
            max_size: bytes of one session's keys and encoded values.
            max_sessions: of one principal at a time, on all servers; None for no limit.
            on_limit: what one more login does: it ends the oldest session, or is refused
                (`TooManySessionsError`, answered 409).
            principal_key: where the application itself marks who is signed in, such as
                ``"user_id"``: a change of that key is a login or a logout.
            carrier: ``"header"`` for programs that keep no cookies, ``"both"`` for a site that
                has both kinds of clients.
            adopt: readers of what another session library left (`samesession.adopt`).

        Raises:
            ConfigError: naming the setting, its value and the way out.
        """
        limits = Limits.of(idle, lifetime, max_size, Quota.of(max_sessions, on_limit))
        ring = keys_from(keys, "keys")
        if not isinstance(cookie, Cookie | None):
            raise ConfigError(f"cookie={cookie!r} is no Cookie; write cookie=Cookie(secure=False)")
        sessions = cls._checked(url, ring, limits, cookie or Cookie(), principal_key, carrier)
        return sessions._adopting(adopt)

    @classmethod
    def from_env(
        cls,
        env: Mapping[str, str] = os.environ,
        *,
        adopt: Sequence[Reader | StoredReader] = (),
    ) -> Sessions:
        """Make the sessions that the environment describes.

        ``SAMESESSION_URL``, ``SAMESESSION_KEYS`` (separated by spaces or commas) or
        ``SAMESESSION_KEYS_FILE`` (one a line), ``SAMESESSION_IDLE`` and ``SAMESESSION_LIFETIME``
        (``30m``, ``12h``), ``SAMESESSION_SECURE`` (``0`` for plain http), ``SAMESESSION_COOKIE``
        (its name), ``SAMESESSION_MAX_SIZE`` (``64KB``), ``SAMESESSION_MAX_SESSIONS`` (a number),
        ``SAMESESSION_ON_LIMIT`` (``evict-oldest``, ``reject``), ``SAMESESSION_PRINCIPAL_KEY``,
        ``SAMESESSION_CARRIER`` (``cookie``, ``header``, ``both``).

        Args:
            env: the variables.
            adopt: as in `from_url`; no text says it.

        Raises:
            ConfigError: naming the variable, its value and the way out.
        """
        url = env.get("SAMESESSION_URL")
        if not url:
            raise ConfigError(
                "SAMESESSION_URL is not set; set it to redis://127.0.0.1:6379/0, for one"
            )
        secure = env.get("SAMESESSION_SECURE", "1")
        if secure not in {"0", "1"}:
            raise ConfigError(f"SAMESESSION_SECURE={secure!r}; write 1 (https) or 0 (plain http)")
        limits = Limits.of(
            _duration(env, "SAMESESSION_IDLE", "30m"),
            _duration(env, "SAMESESSION_LIFETIME", "12h"),
            size_bytes(env.get("SAMESESSION_MAX_SIZE", "64KB"), "SAMESESSION_MAX_SIZE"),
            _quota(env),
        )
        cookie = Cookie(name=env.get("SAMESESSION_COOKIE", ""), secure=secure == "1")
        principal_key = env.get("SAMESESSION_PRINCIPAL_KEY")
        carrier = env.get("SAMESESSION_CARRIER", "cookie")
        sessions = cls._checked(url, _keys(env), limits, cookie, principal_key, carrier)
        return sessions._adopting(adopt)

    @classmethod
    def _checked(
        cls,
        url: str,
        keys: tuple[bytes, ...],
        limits: Limits,
        cookie: Cookie,
        principal_key: str | None,
        carrier: str,
    ) -> Sessions:
        global opened_from_env  # noqa: PLW0603  (one flag a process is what it says)
        opened_from_env = opened_from_env or url == os.environ.get("SAMESESSION_URL")
        strategy = strategy_of(url)
        if principal_key == "" or not isinstance(principal_key, str | None):
            raise ConfigError(
                f"principal_key={principal_key!r} is no key of a session; "
                "write the one that your login sets, such as 'user_id'"
            )
        if carrier not in list(Carrier):
            raise ConfigError(f"carrier={carrier!r} is none of 'cookie', 'header', 'both'")
        if not keys and strategy.name != "memory":
            raise ConfigError(
                f"{redacted(url)} needs keys, the same on every server: keys=[…] or "
                f"SAMESESSION_KEYS ({MAKE_A_KEY})"
            )
        if not cookie.secure and carrier != Carrier.HEADER:
            log.warning("cookie %r travels over plain http: development only", cookie.name)
        sessions = cls(
            strategy,
            keys or (secrets.token_bytes(32),),
            limits=limits,
            cookie=cookie,
            principal_key=principal_key,
            carrier=Carrier(carrier),
        )
        store = sessions.loops.store  # a wrong URL or a missing client library fails here
        if limits.quota is not None and not getattr(store, "limits", False):
            raise ConfigError(
                f"max_sessions={limits.quota.most}: {redacted(url)} cannot count a principal's "
                "sessions across servers; redis://, postgresql://, mysql://, sqlite:// and "
                "cluster:// can"
            )
        return sessions

    def _adopting(self, readers: Sequence[Reader | StoredReader]) -> Sessions:
        self.adopt = checked(readers)
        _ = self.old_loops  # a wrong URL of an old store fails here
        return self

    @property
    def counts(self) -> Counts:
        """What happened in this process since it started (`samesession.counts.NAMES`)."""
        return self._counts

    # -- one request ---------------------------------------------------------------------------

    async def open(self, value: bytes | None, client: Callable[[], Client] = Client) -> Session:
        """Return the session that a cookie's value names, or a new one. Never raises.

        A store that does not answer is told at the session's first use, not here: a request that
        does not use its session is not harmed.

        Args:
            value: of the cookie, any bytes whatever; None when no cookie came.
            client: called when a signed-in record is made.
        """
        return await self.loops.open(value, client)

    async def commit(self, session: Session) -> None:
        """Keep what changed, now: in streams, websockets and background work, or to know.

        Raises:
            StoreUnavailableError: nobody knows whether it was kept; the answer will be 503.
            NotSavedError: the session went on under another id meanwhile; the answer will be 503.
            ResponseStartedError: it would need a cookie, and the response has begun.
        """
        session._written = True  # whoever says so means all of it (`Contents.forgets`)
        await self.loops.commit(session)

    async def finish(self, session: Session, *, failed: bool = False) -> None:
        """End a request before its response's first byte.

        Args:
            session: the request's.
            failed: an exception reached the adapter: only a ``logout()`` counts.

        Raises:
            RetryableError: answer 503 with ``Retry-After``, whatever the handler answered.
        """
        await self.loops.finish(session, failed=failed)

    # -- administration ------------------------------------------------------------------------

    async def held_by(self, principal: str) -> list[Held]:
        """Return a principal's live sessions, oldest first."""
        return await self.loops.held_by(principal)

    async def end(self, handle: str) -> bool:
        """End one session, and what it went on as; True when this call ended it."""
        return await self.loops.end(_checked_handle(handle))

    async def end_all(self, principal: str, *, keep: Session | None = None) -> int:
        """Sign a principal out everywhere, ``keep`` excepted; returns how many sessions ended."""
        return await self.loops.end_all(principal, keep=keep)

    async def ready(self) -> None:
        """Wait until the store can answer: a cluster's server has to join first (10 s at most).

        Adapters do it at start-up where their protocol has one, so that a balancer sends nobody
        too early. What is not ready then answers 503 until it is.
        """
        await _joined(self.loops.store)

    async def close(self) -> None:
        """Close connections and files; adapters do it at shutdown, and a later use reopens them."""
        await self.loops.store.close()
        await self._close_old("old_loops")
        await self._close_old("old_threads")
        threads: Lifecycle | None = self.__dict__.get("threads")  # opened only if it was used
        if threads is not None and threads is not self.loops:
            await threads.store.close()

    async def _close_old(self, opened: Literal["old_loops", "old_threads"]) -> None:
        old: TakeOver | None = self.__dict__.get(opened)  # opened only if it was used
        if old is not None:
            await old.close()

    async def __aenter__(self) -> Sessions:
        """Nothing to do: everything opens at its first use."""
        return self

    async def __aexit__(self, *_exception: object) -> None:
        """Close."""
        await self.close()

    # -- loops and threads -----------------------------------------------------------------------

    @cached_property
    def loops(self) -> Lifecycle:
        """The core over the store for event loops."""
        return Lifecycle(self.strategy.open_loop(self._counts.add), self._tools)

    @cached_property
    def threads(self) -> Lifecycle:
        """The core over the store for threads: its coroutines never suspend."""
        store: Store = self.loops.store
        if not store.suspends:
            return self.loops
        store = self.strategy.open_threads(self._counts.add)
        if store.suspends:
            raise ConfigError(
                f"{self.strategy.scheme}:// serves event loops only; "
                "use it under ASGI or aiohttp, or choose redis:// for threads"
            )
        return Lifecycle(store, self._tools)

    @cached_property
    def old_loops(self) -> TakeOver:
        """What another library left, for event loops."""
        return TakeOver(self.loops, self._shelves("open_loop"))

    @cached_property
    def old_threads(self) -> TakeOver:
        """The same for threads."""
        return TakeOver(self.threads, self._shelves("open_threads"))

    def _shelves(self, opener: Literal["open_loop", "open_threads"]) -> dict[str, Shelf]:
        """The old stores by their URLs."""
        shelves: dict[str, Shelf] = {}
        for reader in self.adopt:
            if is_stored(reader) and reader.url not in shelves:
                opens = getattr(reader, "open_shelf", None)
                shelves[reader.url] = opens(opener) if opens else open_shelf(reader.url, opener)
        return shelves

    @cached_property
    def blocking(self) -> BlockingSessions:
        """The same verbs as plain functions, for threads."""
        return BlockingSessions(self)


class BlockingSessions:
    """The verbs of `Sessions` as plain functions; see there for what they do and raise."""

    def __init__(self, sessions: Sessions) -> None:
        """Step the core that never suspends."""
        self._sessions = sessions
        self._core = sessions.threads

    def open(
        self,
        value: bytes | None,
        client: Callable[[], Client] = Client,
        kind: type[Session] = Session,
    ) -> Session:
        """As `Sessions.open`."""
        return ready(self._core.open(value, client, kind))

    def commit(self, session: Session) -> None:
        """As `Sessions.commit`."""
        session._written = True
        ready(self._core.commit(session))

    def finish(self, session: Session, *, failed: bool = False) -> None:
        """As `Sessions.finish`."""
        ready(self._core.finish(session, failed=failed))

    def held_by(self, principal: str) -> list[Held]:
        """As `Sessions.held_by`."""
        return ready(self._core.held_by(principal))

    def end(self, handle: str) -> bool:
        """As `Sessions.end`."""
        return ready(self._core.end(_checked_handle(handle)))

    def end_all(self, principal: str, *, keep: Session | None = None) -> int:
        """As `Sessions.end_all`."""
        return ready(self._core.end_all(principal, keep=keep))

    def ready(self) -> None:
        """As `Sessions.ready`; WSGI has no start-up, so a server's own hook calls it."""
        ready(_joined(self._core.store))

    def close(self) -> None:
        """As `Sessions.close`."""
        ready(self._core.store.close())
        ready(self._sessions._close_old("old_threads"))


async def _joined(store: Store) -> None:
    join = getattr(store, "ready", None)
    if join is not None:
        with suppress(StoreUnavailableError):
            await join()


def _checked_handle(handle: str) -> str:
    if _HANDLE.fullmatch(handle) is None:
        raise ValueError(f"{handle!r} is no handle; take it from held_by() or session.handle")
    return handle


def _duration(env: Mapping[str, str], name: str, default: str) -> timedelta:
    return timedelta(milliseconds=duration_ms(env.get(name, default), name))


def _quota(env: Mapping[str, str]) -> Quota | None:
    text = env.get("SAMESESSION_MAX_SESSIONS")
    if text is not None and not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise ConfigError(f"SAMESESSION_MAX_SESSIONS={text!r} is no number above 0")
    return Quota.of(
        None if text is None else int(text), env.get("SAMESESSION_ON_LIMIT", "evict-oldest")
    )


def _keys(env: Mapping[str, str]) -> tuple[bytes, ...]:
    text, path = env.get("SAMESESSION_KEYS", ""), env.get("SAMESESSION_KEYS_FILE")
    if path is None:
        return keys_from(text.replace(",", " ").split(), "SAMESESSION_KEYS")
    if text:
        raise ConfigError("SAMESESSION_KEYS and SAMESESSION_KEYS_FILE are both set; keep one")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"SAMESESSION_KEYS_FILE={path!r} cannot be read: {error}") from None
    return keys_from(text.split(), "SAMESESSION_KEYS_FILE")
