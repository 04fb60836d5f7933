"""The cookie's value: ``id . version . absolute deadline . mac``, signed under a key ring.

    3p0yKQ3v7m0Xq9cVbq1T2w.17-3fa9.1795366800000.0b5e3c1f9a7d48e2b6c4d1f0a3958e7c

1. A value that is malformed, forged or over is refused here, before any store is asked.
2. Ids are 128 random bits that we issued; the mac says so, and an invented one never gets past it.
3. The first key signs, every key verifies. New keys are first verified everywhere, then sign.
4. The engine's key is a hash of the id without a secret: rotating keys moves no record.
5. One comparison, in constant time, of the whole mac's text: no second spelling is accepted.
6. A name is ``id . mac``, without a version: as secret as the token, and the same while the session
   lives (and the first key signs). Django's applications keep one in a column of 40 characters.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from enum import StrEnum
from hashlib import blake2b
from hmac import compare_digest

from msgspec import Struct

from samesession.record import Key, Version

ID_BYTES = 16
_ID_CHARACTERS = 22
_KEY_BYTES = 16
_MAC_BYTES = 16
_NAME_MAC_BYTES = 12  # 96 bits, which only spare a look-up: the id beside them has 128
_NAME_CHARACTERS = _ID_CHARACTERS + 1 + _NAME_MAC_BYTES * 4 // 3
_LONGEST = 200
VERIFIED_KEPT = 4096
"""Verified values remembered by a process: about 2 MB."""
_TOKEN = re.compile(
    rb"[A-Za-z0-9_-]{22}\.[1-9][0-9]{0,9}-[0-9a-f]{4}\.[1-9][0-9]{0,14}\.[0-9a-f]{32}"
)
_UNSEEN = Version(0, b"")
_NEVER_MS = 10**15 - 1  # a name says no deadline; the record has one
_key_hash = blake2b(digest_size=_KEY_BYTES, person=b"samesession.key")


class Token(Struct, frozen=True, gc=False):
    """What a valid cookie says.

    Attributes:
        key: the engine's key of this session (`key_of` the id).
    """

    id: str
    version: Version
    absolute_ms: int
    key: Key

    @classmethod
    def of(cls, id_: str, version: Version, absolute_ms: int) -> Token:
        """Make the key of the id."""
        return cls(id_, version, absolute_ms, key_of(id_))


class Refusal(StrEnum):
    """Why a value is no token."""

    MALFORMED = "malformed"
    FORGED = "forged"
    EXPIRED = "expired"


def id_from(random: bytes) -> str:
    """The id made of 16 random bytes: 22 characters, safe in a cookie."""
    return _text(random)


def key_of(id_: str) -> Key:
    """The engine's key: 32 hex digits that lead nobody back to the id."""
    hashing = _key_hash.copy()
    hashing.update(id_.encode())
    return Key(hashing.hexdigest())


class Signer:
    """Signs and verifies tokens with a key ring, the signing key first."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Prepare one keyed hash a key; each is copied rather than keyed again (0.4 µs saved)."""
        self._macs = [
            blake2b(
                digest_size=_MAC_BYTES,
                key=blake2b(key, person=b"samesession.ring").digest(),
                person=b"samesession.tok1",
            )
            for key in keys
        ]
        # A browser sends the same value until its next commit; looking it up saves 3 µs.
        # One value a session, by its id: the one before is not asked for again.
        self._verified: dict[bytes, tuple[bytes, Token]] = {}

    def dumps(self, token: Token) -> str:
        """The cookie's value: about 77 characters."""
        version = token.version
        id_ = token.id
        body = f"{id_}.{version.number}-{version.tag.hex()}.{token.absolute_ms}"
        signing = self._macs[0].copy()
        signing.update(body.encode())
        value = f"{body}.{signing.hexdigest()}"
        self._remember(id_.encode(), value.encode(), token)  # the browser's next request brings it
        return value

    def name(self, token: Token) -> str:
        """The session's name: 39 characters that `loads` takes, too."""
        return f"{token.id}.{_name_mac(self._macs[0], token.id.encode())}"

    def loads(self, value: bytes, *, now_ms: int) -> Token | Refusal:
        """Read a cookie's value, or a name.

        Args:
            value: as the client sent it: any bytes whatever.
            now_ms: a token whose absolute deadline has passed is refused.
        """
        known = self._verified.get(value[:_ID_CHARACTERS])
        if known is not None and known[0] == value and known[1].absolute_ms > now_ms:
            return known[1]
        token = self._verify(value)
        if isinstance(token, Refusal) or token.absolute_ms > now_ms:
            return token
        return Refusal.EXPIRED

    def _verify(self, value: bytes) -> Token | Refusal:
        if len(value) > _LONGEST:
            return Refusal.MALFORMED
        body, _, mac = value.rpartition(b".")
        if len(value) == _NAME_CHARACTERS:
            for known in self._macs:
                if compare_digest(_name_mac(known, body).encode(), mac):
                    return Token.of(body.decode(), _UNSEEN, _NEVER_MS)
            return Refusal.MALFORMED
        for known in self._macs:
            if compare_digest(_sign(known, body), mac):
                break
        else:
            return Refusal.FORGED if _TOKEN.fullmatch(value) else Refusal.MALFORMED
        # What we signed is well formed: it is taken apart without another look.
        id_, version, absolute = body.decode().split(".")
        number, tag = version.split("-")
        token = Token.of(id_, Version(int(number), bytes.fromhex(tag)), int(absolute))
        self._remember(value[:_ID_CHARACTERS], value, token)
        return token

    def _remember(self, id_: bytes, value: bytes, token: Token) -> None:
        """Keep what we signed, and nothing else, for the browser's next request."""
        if len(self._verified) >= VERIFIED_KEPT:
            self._verified.clear()
        self._verified[id_] = value, token


def _sign(keyed: blake2b, body: bytes) -> bytes:
    signing = keyed.copy()
    signing.update(body)
    return signing.hexdigest().encode()


def _name_mac(keyed: blake2b, id_: bytes) -> str:
    signing = keyed.copy()
    signing.update(id_)
    return _text(signing.digest()[:_NAME_MAC_BYTES])


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _text(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).translate(_URL_SAFE).rstrip(b"=").decode()
