"""``samesession cluster``: what one server knows of its cluster, and giving up who is gone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from samesession._bridge import ready
from samesession.cluster.client import FORGET, STATUS
from samesession.cluster.options import Options
from samesession.cluster.thread_line import ThreadLine
from samesession.errors import ConfigError, StoreUnavailableError
from samesession.settings import Url, redacted

WITHIN_S = 2.0


def of(url: str) -> dict[str, Any]:
    """Ask the agent of this server.

    Raises:
        ConfigError: no agent answers here.
    """
    return _asked(url, STATUS)


def forget(url: str, names: Sequence[str]) -> dict[str, Any]:
    """Have every server wait for some servers no more; returns the status afterwards.

    Raises:
        ConfigError: no agent answers here, or it sees one of them alive.
    """
    told = of(url)
    if here := sorted({told["server"], *told["members"]} & set(names)):
        raise ConfigError(
            f"{', '.join(here)} is here; stop a server that leaves, and it hands over by itself"
        )
    return _asked(url, FORGET + json.dumps([*names]).encode())


def _asked(url: str, question: bytes) -> dict[str, Any]:
    parsed = Url.parse(url)
    if parsed.scheme != "cluster":
        raise ConfigError(f"{redacted(url)!r} is no cluster; write cluster://… as the servers have")
    options = Options.of(parsed)
    line = ThreadLine(options.socket, lambda: None)  # asking starts no agent
    try:
        told: dict[str, Any] = json.loads(ready(line.ask(question, WITHIN_S)))
    except StoreUnavailableError:
        raise ConfigError(
            f"no agent of {options.server!r} answers at {options.socket}; is a server with this "
            "URL running here, under this SAMESESSION_SERVER and as this user?"
        ) from None
    finally:
        ready(line.close())
    return told


def table(told: dict[str, Any]) -> str:
    """What was told, as text: plain values first, then one block for each of the rest."""
    plain = {name: value for name, value in told.items() if not isinstance(value, dict | list)}
    blocks = [_pairs(plain)]
    for name, value in told.items():
        if name == "shards":
            value = _grouped(value)  # noqa: PLW2901
        if isinstance(value, dict) and all(isinstance(each, dict) for each in value.values()):
            value = [{"name": key, **each} for key, each in value.items()]  # noqa: PLW2901
        if isinstance(value, dict) and value:
            blocks.append(f"{_words(name)}\n{_pairs(value, indent='  ')}")
        elif isinstance(value, list) and value:
            blocks.append(f"{_words(name)}\n{_rows(value)}")
    return "\n\n".join(block for block in blocks if block)


def _grouped(shards: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Equal shards in one row, with their number: a thousand rows tell nobody anything."""
    rows: dict[str, dict[str, Any]] = {}
    for shard in shards.values():
        row = rows.setdefault(json.dumps(shard), {"number": 0, **shard})
        row["number"] += 1
    return sorted(rows.values(), key=lambda row: (row["authority"] or "", -row["number"]))


def _pairs(values: dict[str, Any], indent: str = "") -> str:
    width = max((len(name) for name in values), default=0)
    return "\n".join(
        f"{indent}{_words(name):<{width}}  {_shown(value)}" for name, value in values.items()
    )


def _rows(rows: list[Any]) -> str:
    """Equal dicts as a table; anything else a line each."""
    if not all(isinstance(row, dict) for row in rows):
        return "\n".join(f"  {_shown(row)}" for row in rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_words(name) for name in names]]
    cells += [[_shown(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items()) or "-"
    return "-" if value is None else str(value)
