"""One history: browsers that log in, write, rotate and log out while servers are hurt; and a judge.

A history is its seed: the same seed, the same history. Everything that a browser was told is
remembered, and must hold:

1. an acknowledged write is read by the next request of its jar, on any server (or 503);
2. what was logged out shows on no server after the acknowledgement, paused or lagging or not;
3. a rotation under way never outruns a logout or a sign-out everywhere;
4. after quiet: one authority a shard, every owner holds the same, nobody else holds any of it,
   digests are what is on the shelf, and every acknowledged write is there.

Between the sides of a partition 1 and 2 hold on the side that heard it, and everywhere after it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from samesession.cluster.claims import WIDER_ROUND
from samesession.cluster.digest import Digest
from samesession.cluster.placement import shard_of
from samesession.cluster.replica import Replica
from samesession.commits import Tools
from samesession.counts import Counts
from samesession.errors import RetryableError
from samesession.lifecycle import Lifecycle
from samesession.record import Record
from samesession.settings import Limits
from samesession.token import Signer, Token
from tests.cluster.simulator import Host, WorkerStore, World, reads, spawn

SIGNER = Signer((b"k" * 32,))
QUIET_MS = 14_000
KINDS = ("calm", "faults", "faults", "split", "link", "refuse", "ends", "ends")


class BrokenError(AssertionError):
    """A promise was broken."""


@dataclass
class Jar:
    """A browser: its cookie, and what it was told."""

    name: str
    cookie: bytes = b""
    acked: dict[str, int] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    principal: str | None = None
    busy: bool = False
    lineage: list[bytes] = field(default_factory=list)
    written: int = 0
    users: int = 0
    excused: bool = False
    """It was used on both sides of a partition: only the end of the history counts."""

    @property
    def user(self) -> str:
        return f"{self.name}/{self.users}"


@dataclass
class Ended:
    """Cookies that must not show anything since then, to those who could hear."""

    cookies: list[bytes]
    since_ms: int
    heard_by: frozenset[str]


class History:
    """A world with browsers in it, and what they were told."""

    def __init__(
        self,
        seed: int,
        build: Callable[..., Replica] = Replica,
        kind: str | None = None,
        *,
        loss: float | None = None,
    ) -> None:
        self.seed = seed
        size = (2, 3, 3, 3, 4, 5)[(seed * 7919 >> 3) % 6]
        self.kind = kind or KINDS[random.Random(seed).randrange(len(KINDS))]
        if self.kind == "link":
            size = max(size, 3)
        names = [f"s{n + 1}" for n in range(size)]
        copies = {4: 0, 5: 2}.get(size, 3)
        refuse = self.kind == "refuse"
        self.world = world = World(seed, names, build=build, copies=copies, refuse=refuse)
        rng = self.rng = world.rng
        world.loss = rng.choice([0, 0, 0.01, 0.03]) if loss is None else loss
        world.doubled = rng.choice([0, 0, 0.05])
        world.slow = rng.choice([0, 0, 0.02, 0.1])
        if rng.random() < 0.25:  # in the middle of a rolling upgrade
            world.old_builds = set(rng.sample(names, rng.randrange(1, size + 1)))
        self.jars = [Jar(f"j{n}") for n in range(rng.randrange(2, 5))]
        self.ended: list[Ended] = []
        self.log: list[str] = []
        self.stopped = False
        self.requests = 0
        self.checked = 0
        self.asking = 0
        self.split_at: dict[str, int] = {}
        self.excusing = False
        self.aiming = False
        self.victim: Host | None = None

    # -- the run -----------------------------------------------------------------------------------

    def run(self) -> None:
        world, rng = self.world, self.rng
        for host in world.hosts.values():
            world.after(rng.randrange(0, 200), host.start)
        world.after(300, lambda: None)
        world.run(300)
        if not world.run(15_000, world.calm):
            raise BrokenError("never came up")
        for jar in self.jars:
            self._next(jar)
        self._probe()
        start = world.now
        if self.kind != "calm":
            for _ in range(rng.randrange(1, 3)):
                world.run(world.now + rng.randrange(200, 2500))
                self._fault()
        world.run(max(world.now, start + 3000) + rng.randrange(0, 1500))
        self.stopped = True
        world.cut = set()
        world.links()
        world.loss = world.doubled = world.slow = 0.0
        for host in world.hosts.values():
            if host.agent is None and not host.left:
                host.start()
        world.run(world.now + 700)
        if not world.run(world.now + QUIET_MS, world.calm):
            raise BrokenError("never calm again: " + self._state())
        world.run(world.now + 2200)
        for _ in range(WIDER_ROUND):  # a late message may have filled who is no owner any more
            if not self._strays():
                break
            world.run(world.now + 2000)
        self._judge()

    def say(self, *words: object) -> None:
        self.log.append(f"{self.world.now:6} " + " ".join(map(str, words)))

    # -- faults ------------------------------------------------------------------------------------

    def _fault(self) -> None:
        world, rng = self.world, self.rng
        if not world.run(world.now + 15_000, world.calm):
            raise BrokenError("not calm before the next fault: " + self._state())
        host = rng.choice([h for h in world.hosts.values() if not h.left])
        faults = [self._pause, self._kill, self._aim, self._aim, self._agent, self._leave]
        faults += [self._restart_all, self._join]
        splits = self.kind in ("split", "link", "refuse")
        fault = self._partition if splits else rng.choice(faults)
        if self.kind == "ends":
            fault = rng.choice([self._pause, self._pause, self._agent])
        fault(host)

    def _pause(self, host: Host) -> None:
        ms = self.rng.choice([300, 1500, 2500, 4000, 9000])
        workers = self.rng.random() < 0.3
        self.say("pause", host.name, ms, "with its workers" if workers else "agent only")
        host.pause(ms, workers=workers)
        if ms > 2200:
            late = self.rng.randrange(1800, 2200)
            self.world.after(late, partial(self.world.paused_for_long, host.name))
        self.world.run(self.world.now + ms + 10)

    def _kill(self, host: Host) -> None:
        disk, silently = self.rng.random() < 0.5, self.rng.random() < 0.3
        self.say("kill", host.name, "disk kept" if disk else "disk lost", silently)
        host.stop(disk=disk, silently=silently)
        self._away(host, self.rng.choice([100, 1000, 4000]))

    def _aim(self, _host: Host) -> None:
        """Kill the authority of the next write, disk and all, when the write is acknowledged."""
        self.aiming = True
        self.world.run(self.world.now + 3000, lambda: not self.aiming)
        self.aiming = False
        if self.victim is not None:
            self._away(self.victim, self.rng.choice([300, 2000]))
            self.victim = None

    def _assassin(self, session: Any) -> None:
        if not self.aiming or session._life.record is None:
            return
        shard = shard_of(session._life.record.key, self.world._settings["shards"])
        for host in self.world.hosts.values():
            if host.agent is not None and host.agent._claims.serving(shard) is not None:
                self.say("assassinate", host.name)
                self.aiming, self.victim = False, host
                host.stop(disk=False, silently=self.rng.random() < 0.2)
                return

    def _agent(self, host: Host) -> None:
        self.say("kill agent", host.name)
        host.stop(workers=False)
        self._away(host, self.rng.choice([50, 500, 3500]))

    def _leave(self, host: Host) -> None:
        if sum(not h.left for h in self.world.hosts.values()) < 3:
            return
        self.say("leave", host.name)
        assert host.agent is not None
        host.do(host.agent.leave(host.now))
        if not self.world.run(self.world.now + 12_000, lambda: host.agent is None):
            raise BrokenError(f"{host.name} could not leave")
        self.say("left", host.name)
        host.workers_up = False
        if self.rng.random() < 0.7:
            self._away(host, self.rng.choice([100, 3000]))

    def _restart_all(self, _host: Host) -> None:
        """Everything stops at once, without a word, and comes back with its disks."""
        hosts = [host for host in self.world.hosts.values() if host.agent is not None]
        self.say("stop all", [host.name for host in hosts])
        for host in hosts:
            host.stop()
        for host in hosts:
            self.world.after(self.rng.randrange(100, 1500), host.start)
        self.world.run(self.world.now + 1600)

    def _join(self, _host: Host) -> None:
        """A server that nobody knew comes; its share of the sessions moves to it."""
        name = f"s{len(self.world.hosts) + 1}"
        self.say("join", name)
        host = self.world.hosts[name] = Host(self.world, name)
        host.start()
        self.world.run(self.world.now + 500)

    def _away(self, host: Host, ms: int) -> None:
        self.world.run(self.world.now + ms)
        self.say("start", host.name)
        host.start()
        self.world.run(self.world.now + 100)

    def _partition(self, host: Host) -> None:
        world, rng = self.world, self.rng
        names = [h.name for h in world.hosts.values() if not h.left]
        side = set(rng.sample(names, rng.randrange(1, len(names))))
        ways = rng.choice(["both", "both", "out", "in"])
        pairs: set[tuple[str, str]] = set()
        for one in side:
            for other in set(names) - side:
                if ways != "in":
                    pairs.add((one, other))
                if ways != "out":
                    pairs.add((other, one))
        if self.kind == "link" and len(names) > 2:
            # One link: nobody is cut off, so nothing is excused.
            one, other = rng.sample(names, 2)
            pairs = {(one, other), (other, one)}
            self.say("cut the link of", one, other)
        elif self.kind == "refuse":
            # The smaller side answers nothing once it noticed; what it acknowledged until then
            # waits for the heal, but what either side ended is over on both.
            self.say("cut", sorted(side), ways)
            self.excusing = True
        else:
            self.say("cut", sorted(side), ways)
            self.split_at = {name: int(name in side) for name in names}
            self.excusing = True
        for jar in self.jars:
            jar.excused = jar.excused or self.excusing
        world.partition(pairs)
        world.run(world.now + rng.choice([500, 2500, 6000, 10_000]))
        self.say("heal")
        world.partition(set())
        if not world.run(world.now + 5000, world.calm):
            raise BrokenError("not converged 5 s after the heal: " + self._state())
        self.split_at, self.excusing = {}, False
        self.say("healed")
        for ended in self.ended:
            ended.heard_by = frozenset(world.hosts)

    # -- browsers ----------------------------------------------------------------------------------

    def _next(self, jar: Jar) -> None:
        if not self.stopped:
            self.world.after(self.rng.randrange(1, 400), lambda: self._act(jar))

    def _hosts(self) -> list[Host]:
        return [host for host in self.world.hosts.values() if host.workers_up and not host.left]

    def _act(self, jar: Jar) -> None:
        hosts = self._hosts()
        if self.stopped or not hosts:
            self._next(jar)
            return
        host, rng = self.rng.choice(hosts), self.rng
        acts = ["write", "write", "read", "read"]
        acts += ["login"] if jar.principal is None else ["rotate", "logout"]
        if self.kind == "ends":
            acts += ["login", "race", "race"] if jar.principal is not None else ["login"] * 4
        if rng.random() < 0.03 and jar.principal is not None:
            acts = ["end_all"]
        act = rng.choice(acts)
        if act == "login" and jar.principal is not None:
            act = "logout"
        self.requests += 1
        if act == "race":
            self._race(jar, host, rng.choice(hosts))
        elif act == "end_all":
            self._end_all(jar, host)
        else:
            getattr(self, "_" + act)(jar, host)

    def _core(self, host: Host) -> tuple[Lifecycle, WorkerStore, Counts]:
        store, counts = WorkerStore(host), Counts()
        tools = Tools(SIGNER, Limits(), counts, lambda: host.now.wall_ms, self.rng.randbytes)
        return Lifecycle(store, tools), store, counts

    def _request(
        self,
        jar: Jar,
        host: Host,
        change: Callable[[Any], None],
        then: Callable[[bool, Any, WorkerStore], None],
        cookie: bytes | None = None,
    ) -> None:
        core, store, _ = self._core(host)
        sent = jar.cookie if cookie is None else cookie

        async def request() -> Any:
            session = await core.open(sent or None)
            session.mark_accessed()
            store.found = session._life.record is not None
            store.principal = session.principal
            change(session)
            await core.finish(session)
            return session

        def done(session: Any, fault: BaseException | None) -> None:
            if fault is not None and not isinstance(fault, RetryableError):
                raise fault
            if session is not None:
                failure = session._life.failure
                if failure is not None:
                    fault = failure
            if session is not None and fault is None and session._life.cookie is not None:
                jar.cookie = session._life.cookie.encode()
                if not store.found:
                    jar.lineage = []  # what it had was not found: that is no part of this session
                if jar.cookie:
                    jar.lineage.append(jar.cookie)
            then(fault is None, session, store)

        spawn(request(), done)

    def _write(self, jar: Jar, host: Host) -> None:
        jar.written += 1
        key, value = f"k{jar.written % 9}", jar.written

        def then(ok: bool, session: Any, store: WorkerStore) -> None:
            self.say(jar.name, "write", key, value, "on", host.name, ok, "weak" * store.weak)
            if ok and session is not None and (session._life.record is not None):
                if not store.found:
                    jar.acked, jar.unknown, jar.excused = {}, set(), self.excusing
                    jar.principal = None
                twice = jar.excused and key in jar.acked
                jar.acked[key] = value
                jar.unknown.discard(key)
                if twice:
                    jar.unknown.add(key)  # maybe written on both sides: one of the two stays
                self._assassin(session)
            elif not ok:
                jar.unknown.add(key)
            self._next(jar)

        self._checked_request(jar, host, lambda session: session.update({key: value}), then)

    def _read(self, jar: Jar, host: Host) -> None:
        def then(ok: bool, _session: Any, _store: WorkerStore) -> None:
            self.say(jar.name, "read on", host.name, ok)
            self._next(jar)

        self._checked_request(jar, host, lambda _session: None, then)

    def _checked_request(
        self, jar: Jar, host: Host, change: Callable[[Any], None], then: Callable[..., None]
    ) -> None:
        def look(session: Any) -> None:
            if jar.excused and session._life.record is not None:
                jar.principal = session.principal
            if jar.cookie and session._life.failure is None and not jar.excused:
                self.checked += 1
                self._compare(jar, dict(session), session.principal, f"on {host.name}")
            change(session)

        self._request(jar, host, look, then)

    def _compare(self, jar: Jar, values: dict[str, Any], principal: str | None, where: str) -> None:
        for key, value in jar.acked.items():
            if key not in jar.unknown and values.get(key) != value:
                raise BrokenError(
                    f"{jar.name} wrote {key}={value}, and {where} shows {values.get(key)}"
                )
        if principal != jar.principal:
            raise BrokenError(f"{jar.name} is {jar.principal}, and {where} shows {principal}")

    def _login(self, jar: Jar, host: Host) -> None:
        before = list(jar.lineage)

        def then(ok: bool, session: Any, store: WorkerStore) -> None:
            self.say(jar.name, "login on", host.name, ok, "weak" * store.weak)
            if ok:
                jar.principal = jar.user
                self._moved(jar)
                self._over(jar, before, host, store, login=True)
                if not store.found:
                    jar.acked, jar.unknown, jar.excused = {}, set(), self.excusing
            else:
                self._doubtful(jar)
            self._next(jar)

        self._checked_request(jar, host, lambda session: session.login(jar.user), then)

    def _rotate(self, jar: Jar, host: Host) -> None:
        before, lives = list(jar.lineage), self._lives()

        def then(ok: bool, session: Any, store: WorkerStore) -> None:
            self.say(jar.name, "rotate on", host.name, ok, "weak" * store.weak)
            if ok and session._life.record is not None:
                self._moved(jar)
                self._over(jar, before, host, store)
            elif ok and store.found and not jar.excused and self._lives() == lives:
                # (An authority that dies over it may sign the user out: L1 says so.)
                raise BrokenError(f"{jar.name} rotated on {host.name}, which signed it out")
            else:
                self._doubtful(jar)
            self._next(jar)

        self._checked_request(jar, host, lambda session: session.rotate(), then)

    def _lives(self) -> list[int]:
        return [host.life for host in self.world.hosts.values()]

    def _logout(self, jar: Jar, host: Host) -> None:
        before = list(jar.lineage)

        def then(ok: bool, session: Any, store: WorkerStore) -> None:
            self.say(jar.name, "logout on", host.name, ok)
            if ok:
                self._over(jar, before, host, store)
                self._anew(jar)
            else:
                self._doubtful(jar)
            self._next(jar)

        self._request(jar, host, lambda session: session.logout(), then)

    def _end_all(self, jar: Jar, host: Host) -> None:
        before, core = list(jar.lineage), self._core(host)[0]

        def done(_count: Any, fault: BaseException | None) -> None:
            if fault is not None and not isinstance(fault, RetryableError):
                raise fault
            self.say(jar.name, "end_all on", host.name, fault is None)
            if fault is None:
                self._over(jar, before, host)
                self._anew(jar)
            else:
                self._doubtful(jar)
            self._next(jar)

        spawn(core.end_all(jar.user), done)

    def _race(self, jar: Jar, host: Host, other: Host) -> None:  # noqa: C901
        """A rotation or a write, and an end of the same session, at once: nothing may survive."""
        if jar.excused or self.split_at:
            self._read(jar, host)
            return
        cookie, before = jar.cookie, list(jar.lineage)
        outcome: dict[str, bool] = {}
        everywhere = self.rng.random() < 0.5
        moves = self.rng.random() < 0.7
        jar.written += 1
        value = {f"k{jar.written % 9}": jar.written}
        self.say(jar.name, "race on", host.name, other.name, "end_all" if everywhere else "logout")

        def both() -> None:
            if len(outcome) < 2:
                return
            self.say(jar.name, "raced", outcome)
            if outcome["end"]:
                self._over(jar, list(jar.lineage), other)
                self._anew(jar)
            else:
                self._doubtful(jar)
            self._next(jar)

        def rotated(ok: bool, _session: Any, _store: WorkerStore) -> None:
            outcome["rotate"] = ok
            both()

        def ended(ok: bool, _session: Any, _store: WorkerStore) -> None:
            outcome["end"] = ok
            if ok:
                self._over(jar, before, other)
            both()

        def write_if_known(session: Any) -> None:
            if session._life.record is not None:
                session.update(value)

        def begin(which: str) -> None:
            if which == "rotate" and moves:
                self._request(jar, host, lambda session: session.rotate(), rotated, cookie)
            elif which == "rotate":
                self._request(jar, host, write_if_known, rotated, cookie)
            elif everywhere:
                core = self._core(other)[0]
                spawn(core.end_all(jar.user), lambda _n, fault: ended(fault is None, None, None))
            else:
                self._request(jar, other, lambda session: session.logout(), ended, cookie)

        first, second = self.rng.sample(["rotate", "end"], 2)
        begin(first)
        self.world.after(self.rng.randrange(0, 15), lambda: begin(second))

    def _moved(self, jar: Jar) -> None:
        """What the other side of a partition wrote to the old record meanwhile ended with it."""
        if jar.excused:
            jar.unknown |= jar.acked.keys()

    def _anew(self, jar: Jar) -> None:
        jar.cookie, jar.lineage, jar.principal = b"", [], None
        jar.acked, jar.unknown, jar.excused = {}, set(), False

    def _doubtful(self, jar: Jar) -> None:
        """Nobody knows what became of this session; the browser begins anew."""
        self._anew(jar)
        jar.users += 1  # a sign-out everywhere may still be under way

    # -- the judge ---------------------------------------------------------------------------------

    def _over(
        self,
        jar: Jar,
        cookies: list[bytes],
        host: Host,
        store: WorkerStore | None = None,
        *,
        login: bool = False,
    ) -> None:
        heard = set(self.world.hosts)
        if self.split_at:
            heard = {host.name}
        if jar.excused or self.split_at:
            # What this side does not know it could not end, and what was nobody's does not wait.
            known = store is not None and store.found and (login or store.principal is not None)
            cookies = cookies[-1:] if known else []
        self.ended.append(Ended(cookies, self.world.now, frozenset(heard)))

    def _probe(self) -> None:
        if self.stopped:
            return
        for ended in self.ended[-4:]:
            for host in self._hosts():
                if host.name in ended.heard_by:
                    for cookie in ended.cookies[-2:]:
                        self._shows(host, cookie)
        self.world.after(self.rng.randrange(40, 300), self._probe)

    def _shows(self, host: Host, cookie: bytes) -> None:
        token = SIGNER.loads(cookie, now_ms=0)
        assert isinstance(token, Token)
        found = reads(host, token.key, token.version)
        self.checked += 1
        if isinstance(found, Record):
            raise BrokenError(f"{host.name} still shows {token.key}, which ended")

    def _judge(self) -> None:
        world = self.world
        running = [host for host in world.hosts.values() if host.agent is not None]
        for shard in range(world._settings["shards"]):
            self._judge_shard(shard, running)
        for ended in self.ended:
            for cookie in ended.cookies:
                for host in running:
                    self._shows(host, cookie)
                    self._asks(host, cookie)
        self._answered()
        for jar in self.jars:
            if jar.cookie and (jar.acked or jar.principal):
                jar.excused = False
                for host in running:
                    self._finally(jar, host)
        self._answered()

    def _answered(self) -> None:
        if not self.world.run(self.world.now + 1000, lambda: not self.asking) and self.asking:
            raise BrokenError(f"{self.asking} requests after quiet were not answered within 1 s")

    def _asks(self, host: Host, cookie: bytes) -> None:
        core = self._core(host)[0]

        def done(session: Any, fault: BaseException | None) -> None:
            self.asking -= 1
            if fault is not None:
                raise fault
            if not session.is_new:
                raise BrokenError(f"{host.name} still serves a session that ended")

        self.asking += 1
        spawn(core.open(cookie), done)

    def _finally(self, jar: Jar, host: Host) -> None:
        core = self._core(host)[0]

        def done(session: Any, fault: BaseException | None) -> None:
            self.asking -= 1
            if fault is not None or session._life.failure is not None:
                raise BrokenError(f"{host.name} does not answer after quiet")
            self.checked += 1
            self._compare(jar, dict(session), session.principal, f"{host.name} at the end")

        self.asking += 1
        spawn(core.open(jar.cookie), done)

    def _strays(self) -> bool:
        """Whether a server holds what it does not own."""
        running = [host for host in self.world.hosts.values() if host.agent is not None]
        shards = self.world._settings["shards"]
        for host in running:
            held = {shard_of(k, shards) for k, copy in host.shelf.copies.items() if copy.held}
            if any(host.name not in host.agent._claims.owners(shard) for shard in held):
                return True
        return False

    def _judge_shard(self, shard: int, running: list[Host]) -> None:
        serving = [host for host in running if host.agent._claims.serving(shard)]
        if len(serving) != 1:
            raise BrokenError(f"shard {shard} has {len(serving)} authorities")
        owners = serving[0].agent._claims.owners(shard)
        wanted = self.world._settings["copies"] or len(running)
        if len(owners) != min(wanted, len(running)):
            raise BrokenError(f"shard {shard} has owners {owners}")
        first = serving[0].name
        for host in running:
            held = {
                key: copy.item
                for key, copy in host.shelf.copies.items()
                if copy.held and shard_of(key, self.world._settings["shards"]) == shard
            }
            digest = Digest().exchanged((None, item) for item in held.values())
            state = host.agent._state.shard(shard)
            if digest != state.digest:
                raise BrokenError(f"{host.name}'s digest of shard {shard} is not what it holds")
            if host.name not in owners:
                if held:
                    raise BrokenError(f"{host.name} holds shard {shard} and does not own it")
                continue
            if digest != self.world.hosts[first].agent._state.shard(shard).digest:
                raise BrokenError(f"{host.name} and {first} differ in shard {shard}")

    def _state(self) -> str:
        lines = []
        for host in self.world.hosts.values():
            if host.agent is not None:
                status = host.agent.status(host.now)
                status["members"] = list(status["members"])
                lines.append(f"{status}")
        return "\n".join(lines)


def replay(
    seed: int,
    build: Callable[..., Replica] = Replica,
    kind: str | None = None,
    *,
    loss: float | None = None,
) -> History:
    """Run the history of a seed."""
    history = History(seed, build, kind, loss=loss)
    try:
        # A context of its own: the request that a test before this one left in the common one has
        # an ending token already, and each token that is not drawn shifts all chances after it.
        Context().run(history.run)
    except BrokenError as broken:
        raise BrokenError(
            f"seed {seed} ({history.kind}, {len(history.world.hosts)} servers) at "
            f"{history.world.now} ms: {broken}\n"
            f"replay: python -m tests.cluster.histories {seed}"
        ) from None
    return history


if __name__ == "__main__":
    import sys

    played = History(int(sys.argv[1]), kind=sys.argv[2] if len(sys.argv) > 2 else None)
    try:
        played.run()
    finally:
        print("\n".join(played.log[-60:]))
    print(f"{played.requests} requests, {played.checked} checks: all kept")
