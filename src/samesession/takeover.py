"""An old session moves into a new one of ours, once, whoever asks for it at the same time.

A session that travels whole in its cookie becomes a new one at its first commit. One that stands in
an old store is made at once, under an id that follows from its old name: so the parallel requests
of a page meet in the same session, and an answer that got lost is given again. With its first use
comes a note that it has moved, for as long as the old store may keep it: it does not come back
after a logout. The old store is only read (DESIGN S4, S6, S13).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from hashlib import blake2b

from samesession.adopt import PickledError, Reader, Shelf, StoredReader, text_of
from samesession.errors import (
    SessionTooLargeError,
    StoreCorruptError,
    StoreUnavailableError,
    TooManySessionsError,
    ValueNotStorableError,
)
from samesession.life import Adopted, Life
from samesession.lifecycle import Lifecycle
from samesession.record import (
    MARK_MS,
    TOKEN_BYTES,
    Delta,
    Key,
    Mark,
    Origin,
    Reason,
    Record,
)
from samesession.session import PRINCIPAL_BYTES, Session
from samesession.token import ID_BYTES, Token, id_from, key_of


class TakeOver:
    """Old sessions over one core."""

    def __init__(self, core: Lifecycle, shelves: Mapping[str, Shelf]) -> None:
        """``shelves`` by the readers' URLs are closed with it."""
        self._core = core
        self._shelves = shelves

    def from_cookie(
        self, session: Session, reader: Reader, value: bytes, gone: bytes
    ) -> Session | None:
        """Return a new session filled with what an old cookie holds, or None for a stranger."""
        text = text_of(value)
        contents = None
        if text is not None:
            try:
                contents = reader.read(text)
            except PickledError:
                self._core.counts.add("pickled")
            except Exception:  # noqa: BLE001, S110  (forged, too old, cut off: a stranger)
                pass
        if not contents:
            return None
        try:
            session.update(contents)
        except (SessionTooLargeError, ValueNotStorableError):
            self._core.counts.add("not_adopted")
            return None
        self._core.counts.add("adopted")
        session._life.adopted = Adopted(gone)
        return session

    async def from_shelf(
        self,
        session: Session,
        reader: StoredReader,
        value: bytes,
        login_keys: Sequence[str],
        gone: bytes,
    ) -> Session | None:
        """Return the session into which the old one has moved, or None for a stranger.

        Args:
            session: a new one, as `Lifecycle.open` gave it.
            reader: of the old library.
            value: of the old cookie.
            login_keys: the first one's value is who was signed in.
            gone: see `Adopted`.
        """
        core, life = self._core, session._life
        text, name = text_of(value), None
        if text is not None:
            with suppress(Exception):  # not signed by the old site: a stranger
                name = reader.name(text)
        if name is None:
            return None
        move = _Move(core, session, f"{reader.cookie}={name}")
        try:
            shelf = self._shelves[reader.url]
            record = await move.record(reader, shelf, name, login_keys)
        except StoreUnavailableError as failure:
            core.counts.add("unavailable")
            life.failure = failure
            return None
        if record is None:
            return None
        life.adopted = Adopted(gone, move.note(reader.max_age))
        life.record, life.seen = record, record.version.number
        life.token = Token(move.id, record.version, record.origin.absolute_ms, record.key)
        # Asked once more before it is sent: another request of the page may sign in meanwhile.
        life.cookie, life.catches_up = core.commits.cookie(life, record), True
        return type(session)(life)

    async def close(self) -> None:
        """Let go of the old stores."""
        for shelf in self._shelves.values():
            await shelf.close()


class _Move:
    """One old session's way."""

    def __init__(self, core: Lifecycle, session: Session, known_as: str) -> None:
        self.id = _id(b"samesession.old", known_as)
        self._key, self._noted = key_of(self.id), key_of(_id(b"samesession.note", known_as))
        self._core = core
        self._session = session

    async def record(
        self, reader: StoredReader, shelf: Shelf, name: str, login_keys: Sequence[str]
    ) -> Record | None:
        life = self._session._life
        # The note first: it is written after the record, so whoever sees one without the other
        # knows that the session has ended since.
        moved = await self._load(self._noted) is not None
        found = await self._load(self._key)
        over = isinstance(found, Record) and found.ends_ms <= life.arrived_ms
        if over and not moved:
            # It idled out before anybody used it: some request came by that asked for no session.
            self.id = id_from(self._core.commits.random(ID_BYTES))
            self._key = key_of(self.id)
        if (found is None or over) and not moved:
            contents = await self._read(reader, shelf, name)
            found = await self._make(contents, login_keys) if contents else None
        if isinstance(found, Mark):
            life.quiet = life.arrived_ms - found.at_ms < MARK_MS
        live = isinstance(found, Record) and self._core.is_live(found, life.arrived_ms)
        return found if live else None  # type: ignore[return-value]

    async def _load(self, key: Key) -> Record | Mark | None:
        try:
            return await self._core.store.load(key)
        except StoreCorruptError:
            self._core.counts.add("corrupt")
            return Mark(Reason.EXPIRED, 0, b"")

    async def _read(
        self, reader: StoredReader, shelf: Shelf, name: str
    ) -> dict[str, object] | None:
        counts = self._core.counts
        try:
            raw = await shelf.get(name)
        except StoreCorruptError:
            counts.add("not_adopted")
            return None
        try:
            return None if raw is None else reader.contents(raw)
        except PickledError:
            counts.add("pickled")
        except Exception:  # noqa: BLE001  (a reader may be the application's own)
            counts.add("not_adopted")
        return None

    async def _make(
        self, contents: dict[str, object], login_keys: Sequence[str]
    ) -> Record | Mark | None:
        core, asking = self._core, self._session._life
        life = Life(asking.arrived_ms, asking.size_limit, asking.client)
        scratch = Session(life)
        try:
            scratch.update(contents)
            sets = scratch.changes().sets
        except (SessionTooLargeError, ValueNotStorableError):
            core.counts.add("not_adopted")
            return None
        now = core.commits.clock()
        life.principal = _principal(contents.get(login_keys[0]) if login_keys else None)
        origin = core.commits.origin(life, now)
        try:
            _, record = await core.commits.create(origin, sets, now, floor=0, id_=self.id)
        except TooManySessionsError:  # a stranger, who is told when signing in
            core.counts.add("not_adopted")
            return None
        if record is None:  # another request of the same page was first
            return await self._load(self._key)
        core.counts.add("adopted")
        return record

    def note(self, max_age: timedelta) -> Delta:
        """What makes the note."""
        core = self._core
        now = core.commits.clock()
        until = now + round(max_age / timedelta(milliseconds=1))
        return Delta(
            key=self._noted,
            token=core.commits.random(TOKEN_BYTES),
            now_ms=now,
            idle_until_ms=until,
            sets={"moved": b"\xc3"},
            origin=Origin(now, until),
        )


def _principal(value: object) -> str | None:
    text = "" if value is None else str(value)
    return text if 0 < len(text.encode(errors="replace")) <= PRINCIPAL_BYTES else None


def _id(person: bytes, known_as: str) -> str:
    return id_from(blake2b(known_as.encode(), digest_size=ID_BYTES, person=person).digest())
