"""Any Cookie header: anonymous, counted, never 5xx. ``SAMESESSION_TRIALS=100000`` runs all."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from scenarios.browser import Browser
from scenarios.conftest import Figure
from scenarios.raw import Wire
from scenarios.site import PATIENT_REDIS, Site

from samesession.record import Version
from samesession.token import Signer, Token, id_from

TRIALS = int(os.environ.get("SAMESESSION_TRIALS", "3000"))
NAME = b"session"
COUNTED = ("malformed", "forged", "expired", "ambiguous", "gone")
ABC = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.="
# What may stand in a header's line; the server itself refuses NUL, CR, LF and other controls.
LEGAL = bytes([9, *range(32, 127), *range(128, 256)])


@pytest.fixture(scope="module")
def target() -> Iterator[Site]:
    with Site(PATIENT_REDIS, servers=1) as site:
        yield site
        assert site.complaints() == []


class Headers:
    """Generated Cookie headers, and what each value in them is."""

    def __init__(self, site: Site, seed: int, honest: bytes, ended: bytes) -> None:
        self.random = random.Random(seed)
        self.honest, self.ended = honest, ended
        self.signer = Signer((site.key.encode(),))
        self.stranger = Signer((b"k" * 40,))
        self.now = time.time_ns() // 1_000_000

    def line(self) -> bytes:
        """One header line."""
        make: Callable[[], bytes] = self.random.choice(
            [
                self.one,
                self.one,
                self.one,
                self.among_others,
                self.twice,
                self.look_alikes,
                self.thousand_pairs,
                self.eight_kib,
                self.any_bytes,
                self.odd_spelling,
            ]
        )
        return b"Cookie: " + make()

    def one(self) -> bytes:
        return NAME + b"=" + self.value()

    def among_others(self) -> bytes:
        pairs = [self.noise() for _ in range(self.random.randrange(1, 6))]
        pairs.insert(self.random.randrange(len(pairs) + 1), self.one())
        return self.random.choice([b"; ", b";", b" ;\t", b";;; "]).join(pairs)

    def twice(self) -> bytes:
        first = self.one()
        return first + b"; " + self.random.choice([first, self.one(), self.one() + b"; " + first])

    def look_alikes(self) -> bytes:
        honest = self.honest
        return self.random.choice(
            [
                b"Session=" + honest,
                b"SESSION=" + honest,
                b"xsession=" + honest,
                b"session2=" + honest,
                b"sessio=" + honest,
                b"session =" + honest,
                b"__Host-session=" + honest,
                b"a=session=" + honest,
                b"session" + honest,
                b"session:" + honest,
                b'"session"=' + honest,
                b"session%3D" + honest,
                b"a=1 session=" + honest,
                b'a="; session=' + self.value() + b'"',
                b"$Version=1; session=" + self.value() + b"; $Path=/",
                b"=" + honest,
                b";",
                b"=",
            ]
        )

    def thousand_pairs(self) -> bytes:
        pairs = [b"n%d=%d" % (n, n) for n in range(1000)]
        if self.random.random() < 0.5:
            pairs[self.random.randrange(1000)] = self.one()
        if self.random.random() < 0.2:
            pairs = [NAME + b"=%d" % n for n in range(1000)]
        return b"; ".join(pairs)

    def eight_kib(self) -> bytes:
        return self.random.choice([NAME + b"=", b"big=", b"session=a; big="]) + self.bytes(
            8192, ABC
        )

    def any_bytes(self) -> bytes:
        return self.bytes(self.random.randrange(300), LEGAL)

    def odd_spelling(self) -> bytes:
        return self.random.choice([b"", b" ", b"\t"]) + self.random.choice(
            [
                b"session",
                b"session=",
                b"session==",
                b"session=;",
                b"session=; session=",
                b" ; session = x",
                b"session=" + b" " * 300,
                b"session=\xff\xfe\x00"[:10],
            ]
        )

    def value(self) -> bytes:
        """A value for our name."""
        chance, honest = self.random.random(), self.honest
        if chance < 0.08:
            return honest
        if chance < 0.12:
            return self.ended
        if chance < 0.3:  # a valid one with something changed
            at = self.random.randrange(len(honest))
            return honest[:at] + self.bytes(1, LEGAL.replace(b";", b"")) + honest[at + 1 :]
        if chance < 0.4:  # cut, lengthened, repeated, quoted
            at = self.random.randrange(len(honest))
            return self.random.choice(
                [
                    honest[:at],
                    honest + honest[:at],
                    honest[at:],
                    b'"' + honest + b'"',
                    honest.upper(),
                    honest.replace(b".", b"%2E"),
                    honest + b"\xc3\xa9",
                ]
            )
        if chance < 0.6:  # in the shape of one
            signer = self.random.choice([self.signer, self.stranger])
            late = self.random.choice([-1, -(10**6), 10**6, 10**12])
            number = self.random.choice([1, 7, 2**32 - 1, 9_999_999_999])
            version = Version(number, self.random.randbytes(2))
            return signer.dumps(
                Token.of(id_from(self.random.randbytes(16)), version, self.now + late)
            ).encode()
        if chance < 0.7:  # the same, with a mac that is nobody's
            return b"%s.%d-%04x.%d.%032x" % (
                self.bytes(22, ABC[:64]),
                self.random.randrange(10**10),
                self.random.randrange(2**16),
                self.now + 10**6,
                self.random.randrange(2**128),
            )
        if chance < 0.8:
            return self.random.choice(
                [
                    b"../../x",
                    b"%0d%0aSet-Cookie:x",
                    b"' OR 1=1 --",
                    b"null",
                    b"{}",
                    b"\x80\x04K\x01.",
                    b"0",
                    b"-",
                    b".",
                    b"...",
                    b"$$",
                ]
            )
        return self.bytes(self.random.randrange(300), LEGAL.replace(b";", b""))

    def noise(self) -> bytes:
        return (
            self.bytes(self.random.randrange(1, 9), ABC[:52])
            + b"="
            + self.bytes(self.random.randrange(20), ABC)
        )

    def bytes(self, size: int, of: bytes) -> bytes:
        return bytes(self.random.choices(of, k=size))

    def judge(self, lines: list[bytes]) -> str | None:
        """What the headers must be counted as: read again, in the plainest way there is."""
        values = set()
        for line in lines:
            for pair in line.removeprefix(b"Cookie:").split(b";"):
                name, equals, value = pair.strip(b" \t").partition(b"=")
                if equals and name == NAME:
                    values.add(value.strip(b" \t"))
        if len(values) != 1:
            return "ambiguous" if values else None
        (value,) = values
        if value == self.honest:
            return "known"
        if value == self.ended:
            return "gone"
        found = self.signer._verify(value)  # judged by the module: the counting is what is tested
        if not isinstance(found, Token):
            return found.value
        return "expired" if found.absolute_ms <= self.now else "gone"


@pytest.mark.timeout(60 + TRIALS // 50)
def test_any_cookie_header_is_anonymous_and_counted_and_never_5xx(
    target: Site, figure: Figure
) -> None:
    expected: Counter[str] = Counter()
    statuses: Counter[int] = Counter()
    with Browser(target) as ann, Browser(target) as gone:
        ann.put("secret", "ann's", "s1")
        ann.login("ann", "s1")
        gone.login("gone", "s1")
        ended = str(gone.cookie).encode()
        honest = str(ann.cookie).encode()
        headers = Headers(target, TRIALS, honest, ended)
        past, through = Wire(target.door("s1")), Wire(target.url)
        with Browser(target, like=gone) as leaving:
            leaving.logout("s1")
        before = target.counts()
        for number in range(TRIALS):
            lines = [headers.line() for _ in range(headers.random.choice([1, 1, 1, 2, 3]))]
            wire = through if number % 10 == 0 else past
            method, path, body = headers.random.choice(
                [("GET", "/api/session", b"")] * 7
                + [
                    ("GET", "/api/sessions", b""),
                    ("PUT", "/api/session/x", b"1"),
                    ("POST", "/api/logout", b""),
                    ("GET", "/api/plain", b""),
                ]
            )
            judged = headers.judge(lines)
            if judged == "known":  # hers is read, never written: nothing of hers may change
                method, path, body = "GET", "/api/session", b""
            answer = wire.ask(path, *lines, method=method, body=body)
            statuses[answer.status] += 1
            # A write with the cookie of a session that ended a moment ago may say "try again" (S6).
            late_write = judged == "gone" and method == "PUT"
            assert answer.status in {200, 400, 413, 431, *([503] if late_write else [])}, lines
            if answer.status not in {200, 503}:
                continue  # the server or the balancer would not read these bytes
            if judged is not None:
                expected[judged] += 1
            if path == "/api/session" and answer.status == 200:
                seen = answer.json()
                assert seen["known"] == (judged == "known"), lines
                assert (b"ann's" in answer.body) == (judged == "known"), lines
                assert not answer.sets_our_cookie
        past.close()
        through.close()
        after = target.counts()
        for counts in (before, after):  # its mark, or no longer any
            counts["gone"] = counts["absent"] + counts["quiet"]
        counted = {name: after[name] - before[name] for name in COUNTED}
        assert counted == {name: expected[name] for name in COUNTED}
        assert ann.read("s1")["data"] == {"secret": "ann's"}
    for name in (*COUNTED, "known"):
        assert expected[name] > 0, f"never tried: {name}"
    assert statuses[200] > 0.9 * TRIALS
    figure(
        f"E cookie headers: {statuses.total()} trials, 0 answered 5xx but "
        f"{statuses[503]} late writes of an ended session, each counted: {counted}"
    )


def test_a_header_full_of_look_alikes_costs_no_time(target: Site) -> None:
    wire = Wire(target.door("s1"))
    for line in (
        b"; ".join(b"session=%d" % n for n in range(5000)),
        b"xsession=" * 7000,
        b" ".join([b"session="] * 7000),
        b";" * 60_000,
        b"session=" + b" " * 60_000 + b"x",
    ):
        began = time.monotonic()
        answer = wire.ask("/api/session", b"Cookie: " + line)
        assert answer.status in {200, 400, 413, 431}
        assert time.monotonic() - began < 1
    wire.close()


def test_one_answer_has_one_cookie_of_ours_at_most(target: Site) -> None:
    with Browser(target) as ann:
        for method, path in [
            ("PUT", "/api/session/n"),
            ("POST", "/api/login/ann"),
            ("POST", "/api/rotate"),
            ("POST", "/api/login/bob"),
            ("POST", "/api/logout"),
        ]:
            answer = ann.done(method, path, at="s1", **({"json": 1} if method == "PUT" else {}))
            ours = [c for c in answer.headers.get_list("set-cookie") if c.startswith("session=")]
            assert len(ours) == 1
            assert "HttpOnly" in ours[0]
            assert "SameSite=Lax" in ours[0]
            assert "Path=/" in ours[0]
            assert len(ours[0].split(";")[0]) <= 200 + len("session=")
            assert answer.headers["cache-control"] == "no-store"
            assert "Cookie" in answer.headers["vary"]
