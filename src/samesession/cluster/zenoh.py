"""The transport over zenoh in peer mode; the only file that imports it.

Settings are those that were measured (MEASURED 7): a lease of 2 s, DROP rather than BLOCK, no
multicast unless asked, gossip from the seeds, stable liveliness keys, and the threads that
`samesession.cluster.election` sets in the environment. Callbacks run in zenoh's own threads and
only post: handlers are called by whoever empties the queue behind ``post``.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zenoh
from zenoh.handlers import Callback

from samesession.errors import StoreUnavailableError

log = logging.getLogger("samesession")

LEASE_MS = 2000
"""A host that dies without a word is noticed after this long; zenoh's own 10 s are too many."""

LARGEST = 16 << 20
"""Bytes of a frame; zenoh would gather up to 1 GiB for whoever sends it."""

INTRODUCTION_S = 2.0

Post = Callable[..., object]
"""Called as ``post(function, *arguments)`` from any thread; has the function called later."""

_PREFIX = "samesession"
_URGENT: dict[str, Any] = {
    "congestion_control": zenoh.CongestionControl.DROP,
    "express": True,  # a frame waits for no other one: somebody waits for it
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens, whom it knows, and who it is.

    Attributes:
        server: its name.
        listen: ``host:port``.
        seeds: ``host:port`` of others.
        tls: folder with ``ca.pem``, ``cert.pem`` and ``key.pem``; None for plain TCP.
    """

    server: str
    listen: str
    seeds: tuple[str, ...]
    tls: Path | None = None
    multicast: bool = False


class ZenohTransport:
    """See `samesession.cluster.transport.Transport`."""

    def __init__(self, place: Place, post: Post) -> None:
        """Join.

        Raises:
            StoreUnavailableError: the address cannot be listened on, or a certificate is unusable.
        """
        self._place = place
        self._post = post
        self._introducing = threading.Lock()
        self.linked: dict[str, str] = {}
        """The others' names, and where they listen."""
        self._session = _open(place, [place.listen], place.seeds)
        self._kept: list[object] = []  # what is not referred to is undeclared

    def publish(self, topic: str, frame: bytes) -> None:
        """See `Transport`."""
        with suppress(zenoh.ZError):  # it gives up silently
            self._session.put(
                f"{_PREFIX}/p/{topic}",
                frame,
                allowed_destination=zenoh.Locality.REMOTE,
                **_URGENT,
            )

    def subscribe(self, topic: str, heard: Callable[[bytes], None]) -> None:
        """See `Transport`."""
        post = self._post

        def sample(sample: zenoh.Sample) -> None:
            post(heard, sample.payload.to_bytes())

        self._kept.append(
            self._session.declare_subscriber(
                f"{_PREFIX}/p/{topic}",
                Callback(sample, indirect=False),
                allowed_origin=zenoh.Locality.REMOTE,
            )
        )

    def query(
        self, server: str, frame: bytes, replied: Callable[[bytes | None], None], *, within_ms: int
    ) -> None:
        """See `Transport`."""
        pending = _Pending(self._post, replied)
        try:
            self._session.get(
                f"{_PREFIX}/q/{server}",
                # indirect would start a thread for each query
                Callback(pending.reply, pending.over, indirect=False),
                payload=frame,
                timeout=within_ms / 1000,
                # The usual consolidation holds replies back until nobody else can answer.
                consolidation=zenoh.ConsolidationMode.NONE,
                target=zenoh.QueryTarget.ALL,
                allowed_destination=zenoh.Locality.REMOTE,
                **_URGENT,
            )
        except zenoh.ZError:
            pending.over()

    def reply(self, asked: Callable[[Question, bytes], None]) -> None:
        """See `Transport`."""
        post, name = self._post, f"{_PREFIX}/q/{self._place.server}"

        def query(query: zenoh.Query) -> None:
            payload = query.payload
            post(asked, Question(query, name), b"" if payload is None else payload.to_bytes())

        self._kept.append(self._session.declare_queryable(name, Callback(query, indirect=False)))

    def liveness(self, changed: Callable[[str, bool], None]) -> None:
        """See `Transport`; also begins to be seen by the others."""
        live = self._session.liveliness()

        def sample(sample: zenoh.Sample) -> None:
            *_, server, address = str(sample.key_expr).split("/")
            if server != self._place.server:
                alive = sample.kind == zenoh.SampleKind.PUT
                self._post(self._linked, server, address, alive, changed)
            elif address != self._place.listen:
                log.error(
                    "another server at %s is called %r too; give each a SAMESESSION_SERVER of its "
                    "own",
                    address,
                    server,
                )

        self._kept.append(
            live.declare_subscriber(
                f"{_PREFIX}/live/*/*", Callback(sample, indirect=False), history=True
            )
        )
        self._kept.append(
            live.declare_token(f"{_PREFIX}/live/{self._place.server}/{self._place.listen}")
        )

    def reach(self, addresses: Iterable[str]) -> None:
        """Introduce ourselves to servers that nobody tries any more; returns at once.

        zenoh reconnects only whom it was configured to connect to, and its configuration cannot
        be changed: peers that met by gossip and were cut, or that DNS tells of later, stay apart.
        A session of a moment, linked to us and to them, has gossip tell each of the other.
        """
        wanted = [*addresses]
        if wanted and self._introducing.acquire(blocking=False):
            threading.Thread(target=self._introduce, args=(wanted,), daemon=True).start()

    def close(self) -> None:
        """See `Transport`."""
        with suppress(zenoh.ZError):
            self._session.close()

    def _introduce(self, addresses: list[str]) -> None:
        try:
            session = _open(self._place, [], (self._place.listen, *addresses))
            try:
                threading.Event().wait(INTRODUCTION_S)
            finally:
                session.close()
        except (StoreUnavailableError, zenoh.ZError) as error:
            log.debug("cannot reach %s: %s", addresses, error)
        finally:
            self._introducing.release()

    def _linked(
        self, server: str, address: str, alive: bool, changed: Callable[[str, bool], None]
    ) -> None:
        if alive:
            self.linked[server] = address
        elif self.linked.get(server) == address:
            del self.linked[server]
        else:
            return  # of an address that it has left
        changed(server, alive)


class Question:
    """See `samesession.cluster.transport.Question`."""

    __slots__ = ("_name", "_query")

    def __init__(self, query: zenoh.Query, name: str) -> None:
        """Keep it until it is answered, or until nobody keeps this."""
        self._query = query
        self._name = name

    def reply(self, frame: bytes) -> None:
        """See there."""
        with suppress(zenoh.ZError):  # the asker is gone
            self._query.reply(self._name, frame, express=True)
        self._query.drop()


class _Pending:
    """A query on its way: one reply is posted, or None when it is over without one."""

    __slots__ = ("_post", "_replied")

    def __init__(self, post: Post, replied: Callable[[bytes | None], None]) -> None:
        self._post = post
        self._replied: Callable[[bytes | None], None] | None = replied

    def reply(self, reply: zenoh.Reply) -> None:
        if reply.ok is not None:
            self._tell(reply.ok.payload.to_bytes())

    def over(self) -> None:
        self._tell(None)

    def _tell(self, frame: bytes | None) -> None:
        replied, self._replied = self._replied, None
        if replied is not None:
            self._post(replied, frame)


def _open(place: Place, listen: Iterable[str], seeds: Iterable[str]) -> zenoh.Session:
    protocol = "tcp" if place.tls is None else "tls"
    settings: dict[str, object] = {
        "mode": "peer",
        "listen/endpoints": [f"{protocol}/{address}" for address in listen],
        "connect/endpoints": [f"{protocol}/{address}" for address in seeds],
        "connect/timeout_ms": -1,
        "connect/exit_on_failure": False,
        "connect/retry": {
            "period_init_ms": 100,
            "period_max_ms": 1000,
            "period_increase_factor": 2,
        },
        "scouting/delay": 200,
        "scouting/multicast/enabled": place.multicast,
        "scouting/gossip/enabled": True,
        "transport/unicast/open_timeout": LEASE_MS,
        "transport/unicast/accept_timeout": LEASE_MS,
        "transport/link/protocols": [protocol],
        "transport/link/tx/lease": LEASE_MS,
        # Each express frame takes a batch; of zenoh's two, the third frame within the millisecond
        # that DROP waits is lost whenever the machine is busy.
        "transport/link/tx/queue/size/data": 16,
        "transport/link/rx/max_message_size": LARGEST,
        "transport/shared_memory/enabled": False,
    }
    if place.tls is not None:
        # Who is signed by the folder's authority is a member, and nobody else is: names add
        # nothing, and addresses that come from DNS could not stand in a certificate.
        settings["transport/link/tls"] = {
            "root_ca_certificate": str(place.tls / "ca.pem"),
            "listen_certificate": str(place.tls / "cert.pem"),
            "listen_private_key": str(place.tls / "key.pem"),
            "connect_certificate": str(place.tls / "cert.pem"),
            "connect_private_key": str(place.tls / "key.pem"),
            "enable_mtls": True,
            "verify_name_on_connect": False,
        }
    try:
        config = zenoh.Config()
        for name, value in settings.items():
            config.insert_json5(name, json.dumps(value))
        return zenoh.open(config)
    except zenoh.ZError as error:
        raise StoreUnavailableError(f"the cluster's agent at {place.listen}: {error}") from None
