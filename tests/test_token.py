"""The cookie's value: any bytes are refused without a look-up, or a token that we signed."""

from __future__ import annotations

import string
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samesession._bridge import ready
from samesession._random import random_bytes
from samesession.record import Version
from samesession.token import ID_BYTES, Refusal, Signer, Token, id_from, key_of

KEY, OLD_KEY, FOREIGN_KEY = b"k" * 32, b"o" * 32, b"f" * 32
NOW = 1_795_366_800_000
SIGNER = Signer((KEY, OLD_KEY))
TOKENS = st.builds(
    Token.of,
    st.binary(min_size=ID_BYTES, max_size=ID_BYTES).map(id_from),
    st.builds(Version, st.integers(1, 9_999_999_999), st.binary(min_size=2, max_size=2)),
    st.integers(NOW + 1, 999_999_999_999_999),
)
VALID = SIGNER.dumps(Token.of(id_from(b"\xff" * 16), Version(17, b"\x3f\xa9"), NOW + 1))
COOKIE_CHARACTERS = string.ascii_letters + string.digits + "-_.~!*'()%+/= "


@given(TOKENS)
@example(Token.of(id_from(b"\x00" * 16), Version(1, b"\x00\x00"), NOW + 1))
@example(Token.of(id_from(b"\xff" * 16), Version(9_999_999_999, b"\xff\xff"), 999_999_999_999_999))
def test_a_token_comes_back_in_less_than_200_characters(token: Token) -> None:
    value = SIGNER.dumps(token)
    assert SIGNER.loads(value.encode("ascii"), now_ms=NOW) == token
    assert len(value) <= 200


@given(st.binary(max_size=220) | st.text(COOKIE_CHARACTERS, max_size=220).map(str.encode))
@settings(max_examples=400)
@example(b"")
@example(b"." * 200)
@example(VALID.encode() + b"\n")
@example(b" " + VALID.encode())
@example(b'"' + VALID.encode() + b'"')
@example(VALID.encode() + b"\x00")
@example(VALID.encode() * 3)
@example(VALID.encode("utf-16"))
@example(b"../../etc/passwd")
@example(b"A" * 22 + b".1-0000.1795366800001." + b"0" * 32)
@example(b"A" * 22 + b".1-0000.1795366800001." + b"\xb2" * 32)
def test_any_bytes_are_refused(value: bytes) -> None:
    assert SIGNER.loads(value, now_ms=NOW) in {Refusal.MALFORMED, Refusal.FORGED}


@pytest.mark.parametrize("at", range(len(VALID)))
def test_a_single_changed_character_is_refused(at: int) -> None:
    for character in COOKIE_CHARACTERS:
        if character == VALID[at]:
            continue
        changed = VALID[:at] + character + VALID[at + 1 :]
        assert isinstance(SIGNER.loads(changed.encode(), now_ms=NOW), Refusal), changed
    for byte in (0, 0x7F, 0x80, 0xE9, 0xFF):
        raw = VALID.encode()
        changed_raw = raw[:at] + bytes([byte]) + raw[at + 1 :]
        assert SIGNER.loads(changed_raw, now_ms=NOW) is Refusal.MALFORMED


@pytest.mark.parametrize("at", range(len(VALID)))
def test_a_left_out_or_doubled_character_is_refused(at: int) -> None:
    for changed in (VALID[:at], VALID[:at] + VALID[at + 1 :], VALID[: at + 1] + VALID[at:]):
        assert isinstance(SIGNER.loads(changed.encode(), now_ms=NOW), Refusal), changed


@given(TOKENS, TOKENS)
def test_parts_of_two_tokens_do_not_make_a_third(one: Token, other: Token) -> None:
    first, second = (SIGNER.dumps(token).split(".") for token in (one, other))
    for part in range(4):
        mixed = [*first[:part], second[part], *first[part + 1 :]]
        if mixed not in (first, second):
            assert SIGNER.loads(".".join(mixed).encode(), now_ms=NOW) is Refusal.FORGED


def test_the_mac_has_one_spelling() -> None:
    body, _, mac = VALID.rpartition(".")
    assert SIGNER.loads(f"{body}.{mac.upper()}".encode(), now_ms=NOW) is Refusal.MALFORMED


def test_a_new_key_is_first_verified_and_then_signs() -> None:
    token = Token.of(id_from(b"i" * 16), Version(1, b"ab"), NOW + 1)
    before, during, after = Signer((OLD_KEY,)), Signer((OLD_KEY, KEY)), Signer((KEY, OLD_KEY))
    dropped = Signer((KEY,))
    by_old, by_new = before.dumps(token).encode(), after.dumps(token).encode()
    assert during.dumps(token).encode() == by_old
    for signer in (before, during, after):
        assert signer.loads(by_old, now_ms=NOW) == token
    for signer in (during, after, dropped):
        assert signer.loads(by_new, now_ms=NOW) == token
    assert dropped.loads(by_old, now_ms=NOW) is Refusal.FORGED
    assert Signer((FOREIGN_KEY,)).loads(by_new, now_ms=NOW) is Refusal.FORGED


def test_keys_that_begin_alike_are_different_keys() -> None:
    """BLAKE2b takes at most 64 bytes of key; a longer one is not cut off."""
    long, longer = Signer((b"k" * 64,)), Signer((b"k" * 65,))
    assert (
        long.loads(
            longer.dumps(Token.of(id_from(b"i" * 16), Version(1, b"ab"), NOW + 1)).encode(),
            now_ms=NOW,
        )
        is Refusal.FORGED
    )


def test_a_name_leads_to_the_same_record_whatever_the_version_and_fits_into_40_characters() -> None:
    first = Token.of(id_from(b"\xfe" * 16), Version(1, b"\x3f\xa9"), NOW + 1)
    name = SIGNER.name(first)
    assert name == SIGNER.name(Token.of(first.id, Version(2, b"\x00\x00"), NOW + 1))
    named = SIGNER.loads(name.encode(), now_ms=NOW)
    assert isinstance(named, Token)
    assert (named.id, named.key, named.version.number) == (first.id, first.key, 0)
    assert len(name) < 40
    assert isinstance(Signer((b"n" * 32, KEY)).loads(name.encode(), now_ms=NOW), Token)
    assert SIGNER.loads(SIGNER.dumps(first).encode()[: len(name)], now_ms=NOW) is Refusal.MALFORMED


def test_a_forged_name_is_refused() -> None:
    name = SIGNER.name(Token.of(id_from(b"\xfe" * 16), Version(1, b"\x3f\xa9"), NOW + 1))
    assert Signer((FOREIGN_KEY,)).loads(name.encode(), now_ms=NOW) is Refusal.MALFORMED
    for at, character in enumerate(name):
        changed = name[:at] + ("A" if character != "A" else "B") + name[at + 1 :]
        assert SIGNER.loads(changed.encode(), now_ms=NOW) is Refusal.MALFORMED


def test_a_token_is_over_at_its_deadline_and_not_a_millisecond_earlier() -> None:
    token = Token.of(id_from(b"i" * 16), Version(1, b"ab"), NOW)
    value = SIGNER.dumps(token).encode()
    assert SIGNER.loads(value, now_ms=NOW - 1) == token
    assert SIGNER.loads(value, now_ms=NOW) is Refusal.EXPIRED


def test_rotating_keys_moves_no_record_and_a_key_leads_nobody_back() -> None:
    token = Token.of(id_from(b"i" * 16), Version(1, b"ab"), NOW)
    assert token.key == key_of(token.id)
    assert len(token.key) == 32
    assert token.id not in token.key
    assert isinstance(SIGNER.loads(token.key.encode(), now_ms=0), Refusal)


def test_ids_and_commit_tokens_do_not_repeat() -> None:
    assert len({random_bytes(ID_BYTES) for _ in range(1000)}) == 1000
    assert len({random_bytes(8) for _ in range(1000)}) == 1000
    assert {len(random_bytes(count)) for count in (1, 8, 15, 16, 32)} == {1, 8, 15, 16, 32}


FORKS = """
import os
from samesession._random import random_bytes
random_bytes(8)  # some are drawn ahead before the fork
for _ in range(4):
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, b"".join(random_bytes(8) for _ in range(64)))
        os._exit(0)
    os.wait()
    print(os.read(read, 4096).hex())
print(b"".join(random_bytes(8) for _ in range(63)).hex())
"""


def test_forked_workers_draw_different_commit_tokens() -> None:
    drawn = subprocess.run([sys.executable, "-c", FORKS], check=True, capture_output=True).stdout
    tokens = [line[at : at + 16] for line in drawn.split() for at in range(0, len(line), 16)]
    assert len(tokens) == 4 * 64 + 63
    assert len(set(tokens)) == len(tokens)


def test_threads_draw_different_commit_tokens() -> None:
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda _: [random_bytes(8) for _ in range(500)], range(8)))
    assert len({token for tokens in drawn for token in tokens}) == 4000


class Suspends:
    def __await__(self) -> Iterator[None]:
        yield


async def suspends() -> None:
    await Suspends()


async def returns(value: int) -> int:
    if value < 0:
        raise ValueError("below 0")
    return value


def test_a_coroutine_that_never_suspends_is_stepped_once() -> None:
    assert ready(returns(7)) == 7
    with pytest.raises(ValueError, match="below 0"):
        ready(returns(-1))
    with pytest.raises(RuntimeError, match="suspended"):
        ready(suspends())
