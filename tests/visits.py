"""What the tests of the core share: a clock by hand, a store that fails, a browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from samesession import Cookie, Session, Sessions
from samesession.counts import Count, uncounted
from samesession.errors import StoreCorruptError, StoreUnavailableError
from samesession.record import Delta, Record
from samesession.settings import Limits, Url
from samesession.store import Store
from samesession.stores.memory import MemoryStore
from samesession.strategies import SCHEMES, Strategy
from samesession.token import Token

KEY = b"the key of every server in these tests"
SECOND = 1000
MINUTE = 60 * SECOND
IDLE = 30 * MINUTE
LIFETIME = 12 * 60 * MINUTE


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now_ms = 1_795_366_800_000

    def __call__(self) -> int:
        return self.now_ms

    def goes_on(self, ms: int) -> None:
        self.now_ms += ms


class Watched:
    """A layer that notes each call to its store, and can lose touch with it.

    Attributes:
        calls: the verbs, in order.
        deltas: what was to be committed.
        corrupt: what is loaded is no record.
        down: verbs that are not answered.
        lost: verbs that are carried out, and the answer is lost.
        faults: how many calls were not answered.
        before: called with each verb before it is carried out: what races with a request.
    """

    suspends = False

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lags = store.lags
        self.calls: list[str] = []
        self.deltas: list[Delta] = []
        self.corrupt = False
        self.down: set[str] = set()
        self.lost: set[str] = set()
        self.faults = 0
        self._fails_in = 0
        self._carried_out = False
        self.before: Callable[[str], None] = lambda _verb: None

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self.store, verb)

        async def watched(*args: Any, **kwargs: Any) -> Any:
            before, self.before = self.before, lambda _verb: None
            before(verb)
            self.before = before
            self.calls.append(verb)
            if verb == "commit":
                self.deltas.append(args[0])
            if verb == "load" and self.corrupt:
                raise StoreCorruptError("the test's store holds something else")
            self._fails_in -= 1
            fails = self._fails_in == 0
            lost = verb in self.lost or (fails and self._carried_out)
            if verb in self.down or (fails and not lost):
                raise self._fault()
            result = await call(*args, **kwargs)
            if lost:
                raise self._fault()
            return result

        return watched

    def fails(self, step: int, carried_out: bool) -> None:
        """Do not answer the call that comes ``step``-th from now, carried out or not."""
        self._fails_in, self._carried_out = step, carried_out

    def _fault(self) -> StoreUnavailableError:
        self.faults += 1
        return StoreUnavailableError("the test's store did not answer")


VERBS = {"load", "commit", "end", "admit", "dismiss", "held_by", "end_all"}


@dataclass(frozen=True)
class Given(Strategy):
    """A strategy whose store the test has made."""

    store: Any = None

    def open_loop(self, count: Count = uncounted) -> Store:
        return self.store  # type: ignore[no-any-return]

    open_threads = open_loop


@dataclass
class World:
    """One application's sessions over a watched store in memory, and a clock."""

    keys: tuple[bytes, ...] = (KEY,)
    idle: timedelta = timedelta(milliseconds=IDLE)
    lifetime: timedelta = timedelta(milliseconds=LIFETIME)
    max_size: int = 64 * 1024
    cookie: Cookie = field(default_factory=Cookie)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.memory = MemoryStore(self.clock)
        self.store = Watched(self.memory)
        self.sessions = self.server()

    def server(self, keys: tuple[bytes, ...] | None = None) -> Sessions:
        """One more server over the same store."""
        strategy = Given(Url.parse("memory://"), SCHEMES["memory"], store=self.store)
        limits = Limits.of(self.idle, self.lifetime, self.max_size)
        return Sessions(
            strategy, keys or self.keys, limits=limits, cookie=self.cookie, clock=self.clock
        )

    @property
    def records(self) -> dict[Any, Any]:
        """What is stored: records and marks."""
        return self.memory._stored

    @property
    def record(self) -> Record:
        """The only record that is stored."""
        (record,) = (found for found in self.records.values() if isinstance(found, Record))
        return record

    def counted(self, *names: str) -> dict[str, int]:
        """The counts above zero, or those that are named."""
        counts = self.sessions.counts
        return {name: counts[name] for name in names or counts if counts[name]}

    def calls_of(self, action: Callable[[], object]) -> list[str]:
        """The verbs that an action asks of the store."""
        before = len(self.store.calls)
        action()
        return self.store.calls[before:]


Change = Callable[[Session], object]


def looks(session: Session) -> None:
    """Use the session, change nothing."""
    session.mark_accessed()


class Browser:
    """Keeps the cookie as a real one does, and sends it to one server or another."""

    def __init__(self, world: World, cookie: bytes | None = None) -> None:
        self.world = world
        self.cookie = cookie

    @property
    def token(self) -> Token:
        """What its cookie says."""
        assert self.cookie is not None
        token = self.world.sessions._tools.signer.loads(self.cookie, now_ms=0)
        assert isinstance(token, Token)
        return token

    def opens(self, sessions: Sessions | None = None) -> Session:
        """Begin a request."""
        return (sessions or self.world.sessions).blocking.open(self.cookie)

    def answered(self, session: Session, sessions: Sessions | None = None) -> Session:
        """End a request: commit, and keep the cookie that the response sets."""
        (sessions or self.world.sessions).blocking.finish(session)
        if session._life.cookie is not None:
            self.cookie = session._life.cookie.encode() or None
        return session

    def visits(self, change: Change = looks, sessions: Sessions | None = None) -> Session:
        """Make a whole request.

        Raises:
            RetryableError: it would be answered 503.
        """
        session = self.opens(sessions)
        change(session)
        return self.answered(session, sessions)

    def copy(self) -> Browser:
        """A second one with the same cookie: another tab, or a thief."""
        return Browser(self.world, self.cookie)

    def reads(self, sessions: Sessions | None = None) -> dict[str, Any]:
        """What a page would show."""
        return dict(self.visits(sessions=sessions))


def sets(**values: Any) -> Change:
    """Write some keys."""
    return lambda session: session.update(values)
