"""The short way of a commit, where nobody came between, and `Store.commit` come to the same."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from visits import Clock

from samesession._bridge import ready
from samesession.codec import decode_all, encode
from samesession.commits import Tools
from samesession.counts import Counts
from samesession.errors import RetryableError
from samesession.lifecycle import Lifecycle
from samesession.record import Applied, Delta, Origin, Outcome, Record, Version, with_changes
from samesession.session import Session
from samesession.settings import Limits
from samesession.stores.local import LocalStore
from samesession.stores.memory import MemoryStore
from samesession.testing.contract import changed, created, fresh_key, now_ms, values_of
from samesession.token import Signer, Token

IDLE_MS = 100_000
KEYS = ("a", "b", "c")

Opens = Callable[[Clock, Path], Any]
OPENS: dict[str, Opens] = {
    "memory": lambda clock, _folder: MemoryStore(clock),
    "local": lambda clock, folder: LocalStore(folder, 1 << 20, clock),
}


def _sets(session: Session, key: str, value: Any) -> None:
    session[key] = value


def _appends(session: Session, key: str, value: Any) -> None:
    found = session.setdefault(key, [])
    if isinstance(found, list):
        found.append(value)


HANDLERS: dict[str, Callable[[Session, str, Any], object]] = {
    "reads": lambda session, key, _value: session.get(key),
    "sets": _sets,
    "appends": _appends,
    "removes": lambda session, key, _value: session.pop(key, None),
    "clears": lambda session, _key, _value: session.clear(),
    "logs in": lambda session, key, _value: session.login(key),
    "logs out": lambda session, _key, _value: session.logout(),
}
_handled = st.tuples(
    st.sampled_from([*HANDLERS, "sets", "sets", "appends"]),
    st.sampled_from(KEYS),
    st.one_of(st.integers(0, 2), st.just([1]), st.just("text")),
)
_requests = st.lists(
    st.tuples(
        st.integers(0, 2),  # how many requests are still under way when its answer is sent
        st.lists(_handled, min_size=1, max_size=3),
        st.sampled_from((0, 0, 0, 900, 6_000, IDLE_MS)),  # milliseconds that pass before it
        st.booleans(),  # whether the browser's newest cookie goes along, or the one before
    ),
    max_size=14,
)


class Site:
    """One server with a clock and dice of its own, and what it has answered."""

    def __init__(self, opens: Opens, folder: Path, *, short: bool) -> None:
        self.clock, self.counts = Clock(), Counts()
        drawn = itertools.count(1)
        self.store = opens(self.clock, folder)
        self.core = Lifecycle(
            self.store,
            Tools(
                Signer((b"k" * 32,)),
                Limits(idle_ms=IDLE_MS, lifetime_ms=10 * IDLE_MS),
                self.counts,
                self.clock,
                lambda count: next(drawn).to_bytes(count, "little"),
            ),
        )
        self.exchanged = 0
        self.core.commits._exchange = self.exchange if short else None
        self.cookies: list[bytes | None] = [None, None]
        self.seen: list[Any] = []

    def exchange(self, *told: Any) -> bool:
        taken: bool = self.store.exchange(*told)
        self.exchanged += taken
        return taken

    async def answers(self, requests: list[Any]) -> None:
        under_way: list[tuple[Session, Any]] = []
        for late, handled, passed, newest in requests:
            self.clock.goes_on(passed)
            session = await self.core.open(self.cookies[-1 if newest else -2])
            record = session._life.record
            assert dict.copy(session) == ({} if record is None else decode_all(record.values))
            self.seen.append(dict.copy(session))
            under_way.append((session, handled))
            while len(under_way) > late:
                await self.answer(*under_way.pop(0))
        for session, handled in under_way:
            await self.answer(session, handled)

    async def answer(self, session: Session, handled: Any) -> None:
        for what, key, value in handled:
            with suppress(RetryableError):
                HANDLERS[what](session, key, deepcopy(value))
        failed = ""
        try:
            if not self.core.only_read(session):
                await self.core.finish(session)
        except RetryableError as error:
            failed = type(error).__name__
        life = session._life
        if life.cookie is not None:
            self.cookies.append(life.cookie.encode() or None)
        stored = None if life.record is None else await self.store.load(life.record.key)
        self.seen.append((failed, life.cookie, dict.copy(session), session.changes(), stored))


@pytest.mark.parametrize("name", OPENS)
def test_nobody_sees_which_way_a_commit_went(name: str) -> None:
    taken = 0

    @settings(max_examples=150, deadline=None)
    @given(requests=_requests)
    def agree(requests: list[Any]) -> None:
        nonlocal taken
        with TemporaryDirectory(dir="/dev/shm") as folder:
            short = Site(OPENS[name], Path(folder, "short"), short=True)
            long = Site(OPENS[name], Path(folder, "long"), short=False)
            for site in (short, long):
                asyncio.run(site.answers(requests))
                asyncio.run(site.store.close())
        assert short.seen == long.seen
        assert dict(short.counts) == dict(long.counts)
        taken += short.exchanged

    agree()
    assert taken > 20


@pytest.mark.anyio
@pytest.mark.parametrize("name", OPENS)
async def test_the_absolute_deadline_is_judged_on_the_short_way_too(
    name: str, tmp_path: Path
) -> None:
    site = Site(OPENS[name], tmp_path, short=True)
    token, now = Token.of("A" * 22, Version(1, b"12"), site.clock() + 10), site.clock()
    origin = Origin(now, token.absolute_ms)
    idle_until = now + IDLE_MS  # as none of ours would ask: beyond it
    made = Delta(token.key, b"12345678", now, idle_until, {"a": encode("a", 1)}, origin=origin)
    assert isinstance(await site.store.commit(made), Applied)
    session = await site.core.open(site.core.commits.signer.dumps(token).encode())
    session["a"] = 2
    site.clock.goes_on(10)
    await site.core.finish(session)
    assert site.counts["refused"] == 1
    assert (await site.store.load(token.key)).values == made.sets
    await site.store.close()


ANOTHER = """
import sys, time
from pathlib import Path
from samesession._bridge import ready
from samesession.record import Applied, Delta
from samesession.stores.local import LocalStore

now = time.time_ns() // 1_000_000
store = LocalStore(Path(sys.argv[1]), 1 << 20, lambda: now)
delta = Delta(sys.argv[2], b"theirs..", now, sets={"b": b"theirs"})
assert isinstance(ready(store.commit(delta)), Applied)
"""


def test_what_another_process_wrote_meanwhile_is_merged(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, 1 << 20, now_ms)
    key = fresh_key()
    ready(store.commit(created(key, a=b"0", b=b"0")))
    before = ready(store.load(key))
    assert isinstance(before, Record)
    subprocess.run([sys.executable, "-c", ANOTHER, tmp_path, key], check=True)
    mine = changed(key, a=b"mine")
    after = with_changes(before, mine.sets, mine.removes, mine.token, 0)
    assert not store.exchange(before, after, mine.now_ms)
    assert isinstance(ready(store.commit(mine)), Applied)
    assert ready(values_of(store, key)) == {"a": b"mine", "b": b"theirs"}
    ready(store.close())


def test_a_store_that_was_given_another_commit_has_no_way_past_it() -> None:
    """As whoever counts commits, slows them or sends them on would expect."""

    class Counted(MemoryStore):
        commits = 0

        async def commit(self, delta: Delta) -> Outcome:
            self.commits += 1
            return await super().commit(delta)

    store = Counted(now_ms)
    key = fresh_key()
    ready(store.commit(created(key, a=b"1")))
    found = ready(store.load(key))
    assert isinstance(found, Record)
    later = with_changes(found, {"a": b"2"}, (), b"token...", 0)
    assert not store.exchange(found, later, now_ms())
    assert MemoryStore.exchange(store, found, later, now_ms())
