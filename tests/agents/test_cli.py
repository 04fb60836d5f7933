"""``samesession cluster`` and ``samesession keys``: what they print, and what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agents.hosts import on_loopback
from samesession.cli import main
from samesession.cluster.options import Options
from samesession.settings import Url


def test_the_status_is_a_table_or_json(tmp_path: Path) -> None:
    with on_loopback(2, tmp_path) as (one, two):
        command = [sys.executable, "-m", "samesession", "cluster", "status"]
        for host, other in ((one, two), (two, one)):
            table = subprocess.run(
                command, env=host.env, capture_output=True, text=True, check=True, timeout=30
            )
            assert "server" in table.stdout.splitlines()[0]
            assert host.name in table.stdout
            assert other.name in table.stdout
            head = table.stdout.partition("shards\n")[2].splitlines()[0]
            assert head.split() == ["number", "authority", "epoch", "here", "owners", "lag"]
            assert table.stderr == ""
            plain = subprocess.run(
                [*command, host.url, "--json"],
                env=host.env,
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
            )
            told = json.loads(plain.stdout)
            assert told["server"] == host.name
            assert other.name in told["agent"]["linked"]


def test_whoever_stops_reading_gets_no_traceback() -> None:
    """As in ``samesession cluster status --json | head``."""
    inbox, outbox = os.pipe()
    os.close(inbox)
    with os.fdopen(outbox) as closed:
        ended = subprocess.run(
            [sys.executable, "-m", "samesession", "keys", "new"],
            check=False, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=30,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (1, "")


def test_without_an_agent_the_status_says_where_it_looked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "status", f"cluster://{tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert "no agent" in said
    assert str(tmp_path) in said
    assert not list(tmp_path.rglob("*")), "asking makes nothing, and starts nobody"


def test_servers_that_are_gone_are_given_up_and_others_are_not(tmp_path: Path) -> None:
    with on_loopback(2, tmp_path) as (one, two):
        two.kill()
        command = [sys.executable, "-m", "samesession", "cluster", "forget"]
        deadline = time.monotonic() + 20
        while two.name in one.status()["members"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        given_up, alive = (
            subprocess.run(
                [*command, name, "--url", one.url],
                env=one.env,
                capture_output=True,
                text=True,
                check=False,
                timeout=30,
            )
            for name in (two.name, one.name)
        )
        assert (given_up.returncode, alive.returncode) == (0, 2)
        assert f"wait for {two.name} no more; for nobody" in given_up.stdout
        assert f"{one.name} is here" in alive.stderr


def test_the_status_of_something_else_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "status", "redis://:secret@127.0.0.1"]) == 2
    said = capsys.readouterr().err
    assert "is no cluster" in said
    assert "secret" not in said


def test_certificates_are_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tls"
    assert main(["keys", "tls", str(folder)]) == 0
    assert "copy the folder" in capsys.readouterr().out
    assert Options.of(Url.parse(f"cluster://10.0.0.1?tls={folder}"), {}).tls == folder
    assert main(["keys", "tls", str(folder)]) == 2
    assert "exists" in capsys.readouterr().err


def test_a_new_key_is_long_enough_and_new(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for _ in range(2):
        assert main(["keys", "new"]) == 0
        printed.append(capsys.readouterr().out.strip())
    assert len(set(printed)) == 2
    assert all(len(key) >= 32 for key in printed)
