"""What is measured: two stacks of API and worker on one PostgreSQL and one RabbitMQ."""

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil
import psycopg2
from kombu import Connection
from sqlalchemy import create_engine

from benchmarks.baseline.table import Base
from benchmarks.load import show
from local.ports import LOOPBACK, free_ports
from local.postgres import Postgres
from local.rabbitmq import Ports, RabbitMQ
from local.server import Command, Server, ServerError, clean_environment, family, wait_until
from shared.access import Scope, Secret
from shared.db import Database
from shared.messages import INGEST_QUEUE
from shared.queue import QUEUES
from shared.store import keys as store
from shared.store.keys import Wanted

_DRAIN_SECONDS: Final = 600.0

_KEY: Final = Secret.new()

# One thread a process for linear algebra, in both stacks.
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Program(Server):
    """A program of one of the stacks, run like a server: started when needed, stopped after."""

    def __init__(
        self, folder: Path, argv: Sequence[str], env: dict[str, str], ready_url: str | None = None
    ) -> None:
        super().__init__(folder)
        self._command = Command(folder.name, (sys.executable, "-m", *argv), env | _ONE_THREAD)
        self._ready_url = ready_url

    @property
    def url(self) -> str:
        """Where it says that it is ready; empty for a worker."""
        return self._ready_url or ""

    def prepare(self) -> None:
        """Make the folder of its log."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def commands(self) -> list[Command]:
        """Return the one process."""
        return [self._command]

    def ready(self) -> bool:
        """Say whether it serves; of a worker, what it stores tells."""
        if self._ready_url is None:
            return True
        try:
            with urllib.request.urlopen(self._ready_url, timeout=5) as answer:
                return bool(answer.status == 200)  # noqa: PLR2004  # the one good answer
        except (urllib.error.URLError, OSError):
            return False

    def cpu_seconds(self) -> float:
        """Return the processor time that it and its children have used so far."""
        return sum(cpu_seconds(self).values())


def cpu_seconds(server: Server) -> dict[str, float]:
    """Return the processor time that a server's `main` processes and their `children` have used."""
    found = {"main": 0.0, "children": 0.0}
    for pid in server.pids():
        for each in family(pid):
            with suppress(psutil.Error):
                times = each.cpu_times()
                found["main" if each.pid == pid else "children"] += times.user + times.system
    return found


@dataclass(frozen=True)
class Drained:
    """What it took to store what was queued.

    Attributes:
        rate: documents a second.
        parts: milliseconds of processor time per document, of each part of the stack.
        message_documents: documents of a message, on average.
    """

    rate: float
    parts: Mapping[str, float]
    message_documents: float

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of the worker's processor time per document."""
        return self.parts["worker"] + self.parts["children"]


@dataclass(frozen=True)
class Stack:
    """One way to do it: an API process and a worker process, a database and a virtual host.

    Attributes:
        name: for people.
        api: serves `documents_url`.
        worker: takes what the API sent, with one child.
        pair: the same with two children.
        documents_url: takes one document.
        database_url: has the table `documents`.
        database: our own look into it.
        servers: what it runs on, by name.
        broker_url: has the queue of documents.
        commits_sql: (documents, seconds since the epoch) of each commit, in their order.
        stored_sql: how many documents are stored.
        tables: what a new measurement empties.
    """

    name: str
    api: Program
    worker: Program
    pair: Program
    documents_url: str
    database_url: str
    database: psycopg2.extensions.connection
    servers: Mapping[str, Server]
    broker_url: str
    commits_sql: str
    stored_sql: str
    tables: str

    def drain(self, worker: Program, documents: int) -> "Drained":
        """Run a worker on the queue until it has stored so many documents, or a few more.

        The rate is that between the first commit and the last: the worker's start and its first
        message, which opens the connection to the database, are left out.

        Raises:
            ServerError: it takes too long.
        """
        begun, earlier = self.stored(), len(self.commits())
        with worker:
            wait_until(lambda: self.stored() > begun, _DRAIN_SECONDS)
            before, cpu_before = self.stored(), self.cpu_seconds(worker)
            if not wait_until(lambda: self.stored() >= begun + documents, _DRAIN_SECONDS):
                raise ServerError(
                    f"{self.name} stored {self.stored() - begun} of {documents} documents"
                )
            cpu, after = self.cpu_seconds(worker), self.stored()
        parts = {each: 1000 * (cpu[each] - cpu_before[each]) / (after - before) for each in cpu}
        (first, start), *others = self.commits()[earlier:]
        stored = 0
        for number, (count, end) in enumerate(others, 2):
            stored += count
            if first + stored >= documents:
                rate = stored / (end - start)
                return Drained(rate, parts, (first + stored) / number)
        raise ServerError(f"{self.name} stored {first + stored} of {documents} documents")

    def cpu_seconds(self, worker: Program, api: Program | None = None) -> dict[str, float]:
        """Return the processor time that each part has used so far."""
        found = {name: sum(cpu_seconds(each).values()) for name, each in self.servers.items()}
        if api is not None:
            found["api"] = api.cpu_seconds()
        of_worker = cpu_seconds(worker)
        return found | {"worker": of_worker["main"], "children": of_worker["children"]}

    def waiting(self) -> int:
        """Return how many messages no worker has taken."""
        with Connection(self.broker_url) as connection:
            queue = QUEUES[INGEST_QUEUE](connection.default_channel)
            declared: Any = queue.queue_declare(passive=True)
            return int(declared.message_count)

    def checkpoint(self) -> None:
        """Have PostgreSQL write all that it has to, so that this falls into no measurement."""
        self._query("CHECKPOINT")

    def empty(self) -> None:
        """Forget all documents; none may be on its way."""
        self._query(f"TRUNCATE {self.tables}")
        self.checkpoint()

    def purge(self) -> None:
        """Forget what waits to be stored."""
        with Connection(self.broker_url) as connection:
            QUEUES[INGEST_QUEUE](connection.default_channel).purge()

    def commits(self) -> list[tuple[int, float]]:
        """Return (documents, seconds since the epoch) of each commit so far."""
        return self._query(self.commits_sql)

    def committed(self) -> list[tuple[str, float]]:
        """Return the id of each of our documents, and when it was committed, in seconds."""
        return self._query(
            "SELECT d.id::text, extract(epoch FROM l.committed_at)::float8 FROM documents d"
            " JOIN ledger l ON d.task_id = l.producer_id || '.' || l.seq"
        )

    def some_ids(self, count: int) -> list[str]:
        """Return ids of documents, from all over the table."""
        rows = self._query(f"SELECT id::text FROM documents ORDER BY random() LIMIT {count}")
        return [key for (key,) in rows]

    def stored(self) -> int:
        """Return how many documents are stored."""
        [[count]] = self._query(self.stored_sql)
        return int(count)

    def count_rows(self) -> int:
        """Count the documents; for tables whose account may have been folded meanwhile."""
        [[count]] = self._query("SELECT count(*) FROM documents")
        return int(count)

    def numbered(self, source: str) -> tuple[int, int, int]:
        """Return how many documents of a source there are, of how many numbers, and the highest.

        Each starts with its number.
        """
        [(count, numbers, highest)] = self._query(
            "SELECT count(*), count(DISTINCT n), coalesce(max(n), -1) FROM (SELECT CAST(split_part("
            f"left(content, 20), ' ', 1) AS int8) AS n FROM documents WHERE source = '{source}') d"
        )
        return count, numbers, highest

    def _query(self, sql: str) -> list[Any]:
        with self.database.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []


@dataclass(frozen=True)
class Site:
    """Servers that run, and a folder for what runs on them."""

    folder: Path
    postgres: Postgres
    rabbitmq: RabbitMQ

    def ours(self, name: str = "ours", *, keys: bool = True) -> Stack:
        """Return a stack of ours, not yet started.

        Args:
            name: of the stack, its folder, its database and its virtual host.
            keys: whether its API asks for keys; clients show one from now on.
        """
        folder = self.folder / name
        env = environment(self.postgres.create_database(name), self.rabbitmq.create_vhost(name))
        subprocess.run(
            [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini", "upgrade", "head"],
            env=clean_environment() | env,
            check=True,
        )
        _let_in(env["DATABASE_URL"])
        [port] = free_ports(1)
        url = f"http://{LOOPBACK}:{port}"
        api_env = env | {
            "API_PORT": str(port),
            "API_HOST": LOOPBACK,
            "ROOT_PATH": "",
            "AUTH": "on" if keys else "off",
            "SECRET_KEY": token_hex(32),
        }
        return Stack(
            name=name,
            api=Program(folder / "api", ["api"], api_env, f"{url}/readyz"),
            worker=Program(folder / "worker", ["worker"], env | {"WORKER_CONCURRENCY": "1"}),
            pair=Program(folder / "pair", ["worker"], env | {"WORKER_CONCURRENCY": "2"}),
            documents_url=f"{url}/v1/documents",
            database_url=env["DATABASE_URL"],
            database=_look_into(env["DATABASE_URL"]),
            servers={"postgres": self.postgres, "rabbitmq": self.rabbitmq},
            broker_url=env["BROKER_URL"],
            commits_sql="SELECT documents, extract(epoch FROM committed_at)::float8 FROM ledger"
            " ORDER BY committed_at",
            # Counting rows takes longer.
            stored_sql="SELECT coalesce(sum(documents), 0) FROM ledger",
            tables="documents, document_events, ledger, index_queue, document_search",
        )

    def baseline(self) -> Stack:
        """Return the baseline, not yet started."""
        name = "baseline"
        folder = self.folder / name
        env = environment(self.postgres.create_database(name), self.rabbitmq.create_vhost(name))
        engine = create_engine(env["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg2:"))
        Base.metadata.create_all(engine)
        engine.dispose()
        [port] = free_ports(1)
        url = f"http://{LOOPBACK}:{port}"
        api = ["benchmarks.baseline.api", str(port)]
        worker = ["celery", "--app=benchmarks.baseline.worker", "worker"]
        return Stack(
            name=name,
            api=Program(folder / "api", api, env, f"{url}/livez"),
            worker=Program(folder / "worker", [*worker, "--concurrency=1"], env),
            pair=Program(folder / "pair", [*worker, "--concurrency=2"], env),
            documents_url=f"{url}/documents",
            database_url=env["DATABASE_URL"],
            database=_look_into(env["DATABASE_URL"]),
            servers={"postgres": self.postgres, "rabbitmq": self.rabbitmq},
            broker_url=env["BROKER_URL"],
            commits_sql="SELECT 1, extract(epoch FROM created_at)::float8 FROM documents"
            " ORDER BY created_at",
            stored_sql="SELECT count(*) FROM documents",
            tables="documents",
        )


@contextmanager
def site() -> Iterator[Site]:
    """Start PostgreSQL and RabbitMQ in a temporary folder.

    Raises:
        local.server.ServerError: one of them cannot be started.
    """
    with (
        TemporaryDirectory(prefix="postroom-bench-") as name,
        Postgres((folder := Path(name)) / "postgres", free_ports(1)[0]) as postgres,
        RabbitMQ(folder / "rabbitmq", Ports(*free_ports(4))) as rabbitmq,
    ):
        yield Site(folder, postgres, rabbitmq)


def _let_in(database_url: str) -> None:
    """Have the database know the key that clients of all stacks show."""
    url = database_url.replace("postgresql:", "postgresql+psycopg2:")
    database = Database(url, pool_size=1, statement_seconds=10, application="bench")
    with database.transaction() as session:
        store.create(session, Wanted("bench", [Scope.ADMIN]), _KEY)
    database.close()
    show(_KEY.value)


def beat_of(stack: Stack, folder: Path) -> Program:
    """Return the beat of our stack, not yet started: it has documents indexed, among others."""
    argv = ["celery", "-A", "worker.app", "beat", f"--schedule={folder / 'schedule'}"]
    return Program(folder / "beat", argv, environment(stack.database_url, stack.broker_url))


def bare(folder: Path) -> tuple[Program, str]:
    """Return the API that does nothing, not yet started, and the URL that takes one document."""
    [port] = free_ports(1)
    url = f"http://{LOOPBACK}:{port}"
    argv = ["benchmarks.baseline.bare", str(port)]
    return Program(folder / "bare", argv, {}, f"{url}/livez"), f"{url}/documents"


def environment(database_url: str, broker_url: str) -> dict[str, str]:
    """Return what our programs are told of their servers."""
    return {"DATABASE_URL": database_url, "BROKER_URL": broker_url, "LOG_LEVEL": "INFO"}


def _look_into(database_url: str) -> psycopg2.extensions.connection:
    database = psycopg2.connect(database_url)
    database.autocommit = True
    return database
