"""A fork is another process, however it was made."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORKED = """
import ctypes, os, sys
from samesession._process import pid
from samesession._random import random_bytes
from samesession.record import TOKEN_BYTES

# PyDLL keeps the interpreter's lock over the call: in the child no other thread could give it back.
fork = {"python": os.fork, "c": ctypes.PyDLL(None).fork}[sys.argv[1]]
assert pid() == os.getpid()
random_bytes(TOKEN_BYTES)  # both have drawn the same ones
reading, writing = os.pipe()
child = fork()
if child == 0:
    try:
        known = b"known" if pid() == os.getpid() else b"wrong"
        os.write(writing, known + b"".join(random_bytes(TOKEN_BYTES) for _ in range(50)))
    finally:
        os._exit(0)
os.waitpid(child, 0)
said = os.read(reading, 1000)
assert said[:5] == b"known"
tokens = {said[at : at + TOKEN_BYTES] for at in range(5, len(said), TOKEN_BYTES)}
assert len(tokens) == 50
assert tokens.isdisjoint(random_bytes(TOKEN_BYTES) for _ in range(300))
assert pid() == os.getpid()
"""


# In a process of its own: a fork in C while other threads wait for the lock is stuck in its child.
@pytest.mark.parametrize("fork", ["python", "c"])
def test_a_fork_knows_that_it_is_another_process_and_draws_its_own_tokens(fork: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKED, fork],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (run.returncode, run.stderr) == (0, "")
