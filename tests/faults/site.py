"""The whole of Postroom as real processes, kept running as a supervisor would keep it."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx2
import psutil
import psycopg2

from local.postgres import Postgres
from local.rabbitmq import RabbitMQ
from local.server import POLL_SECONDS, alive, family, kill_all
from tests.background import Background
from tests.faults.proxy import Proxy
from tests.keys import bearer, make_admin
from tests.stack import Api, Worker, _Program
from tests.stream import Promise

ResultT = TypeVar("ResultT")
ProgramT = TypeVar("ProgramT", bound=_Program)

QUICK_RETRIES = {"RETRY_MAX_SECONDS": "2"}


class Broker(Protocol):
    """What a site asks of any RabbitMQ, be it one node or a cluster."""

    @property
    def api_url(self) -> str: ...

    def create_vhost(self, name: str) -> str: ...

    def api(self, method: str, path: str, body: object = None) -> Any: ...


def _changed(options: Sequence[str], name: str) -> tuple[str, ...]:
    """Return how a program is started, by way of `tests.faults.program` if something is changed."""
    return ("-m", "tests.faults.program", name, *options) if options else ("-m", name)


class _Api(Api):
    options: tuple[str, ...] = ()

    def arguments(self) -> tuple[str, ...]:
        return _changed(self.options, "api")


class _Worker(Worker):
    options: tuple[str, ...] = ()

    def arguments(self) -> tuple[str, ...]:
        return _changed(self.options, "worker")


class Beat(_Program):
    """`celery -A worker.app beat`."""

    def arguments(self) -> tuple[str, ...]:
        schedule = f"--schedule={self.folder / 'schedule'}"
        return ("-m", "celery", "-A", "worker.app", "beat", schedule)

    def ready(self) -> bool:
        return "is starting" in self.logged()


class Site:
    """Servers, programs and the clients in front of them.

    Whatever ends by itself is started again while the test waits for anything, as compose's
    `restart: unless-stopped` or supervisord's `autorestart` would do; `restarts` counts that.
    """

    def __init__(
        self,
        stack: ExitStack,
        folder: Path,
        postgres: Postgres,
        broker: Broker,
        *,
        database: str,
        vhost: str,
        without: Sequence[str] = (),
    ) -> None:
        self.postgres, self.broker = postgres, broker
        self.folder = folder
        self.database_url = postgres.url_of(database)
        self.broker_url = broker.create_vhost(vhost)
        self.vhost = vhost
        self.background = stack.enter_context(Background())
        self.programs: list[_Program] = []
        self.apis: list[_Api] = []
        self.workers: list[_Worker] = []
        self.restarts = 0
        self.api_killed = False
        self.key = make_admin(self.database_url)
        self._stack = stack
        self._without = tuple(word for name in without for word in ("--without", name))

    # --- What it is made of ----------------------------------------------------------------------

    @property
    def rabbitmq(self) -> RabbitMQ:
        """The broker, where it is one node."""
        assert isinstance(self.broker, RabbitMQ)
        return self.broker

    def proxies(self) -> tuple[Proxy, Proxy]:
        """Put a proxy before PostgreSQL and one before RabbitMQ, for programs added later."""
        database = Proxy(self.background, self.postgres.port)
        broker = Proxy(self.background, self.rabbitmq.ports.amqp)
        self._stack.callback(database.close)
        self._stack.callback(broker.close)
        self.database_url = _with_port(self.database_url, database.port)
        self.broker_url = _with_port(self.broker_url, broker.port)
        return database, broker

    def add_api(self, *options: str, **env: str) -> Api:
        env = {"BROKER_API_URL": self.broker.api_url, "AUTH": "on", **env}
        api = _Api(self._next_folder("api"), self.database_url, self.broker_url, **env)
        api.options = (*self._without, *options)
        api.key = self.key
        self.apis.append(api)
        return self.add(api)

    def add_worker(self, *options: str, **env: str) -> Worker:
        name = f"worker-{len(self.workers) + 1}"
        env = {"WORKER_NAME": name, "WORKER_CONCURRENCY": "2", **QUICK_RETRIES, **env}
        worker = _Worker(self._next_folder("worker"), self.database_url, self.broker_url, **env)
        worker.options = (*self._without, *options)
        self.workers.append(worker)
        return self.add(worker)

    def add_beat(self) -> Beat:
        return self.add(Beat(self._next_folder("beat"), self.database_url, self.broker_url))

    def add(self, program: ProgramT) -> ProgramT:
        """Start a program, and keep it running from now on."""
        self._stack.callback(program.kill)
        program.start()
        self.programs.append(program)
        return program

    def _next_folder(self, kind: str) -> Path:
        return self.folder / f"{kind}-{len(self.programs) + 1}"

    def wait_ready(self) -> None:
        """Wait until all programs are up and a document would be accepted."""
        for program in self.programs:
            program.wait_ready()
        for api in self.apis:
            self.wait(lambda api=api: _ready(api), 30, "ready")  # type: ignore[misc]

    def remove(self, program: _Program) -> None:
        """Supervise a program no longer, and end it."""
        self.programs.remove(program)
        program.kill()

    # --- Keeping it up, waiting ------------------------------------------------------------------

    def wait(self, condition: Callable[[], ResultT | None], seconds: float, what: str) -> ResultT:
        """Wait until `condition` holds and return its answer, keeping the programs up meanwhile.

        Raises:
            AssertionError: it did not hold within `seconds`.
        """
        end = time.monotonic() + seconds
        while not (answer := condition()):
            assert time.monotonic() < end, f"not within {seconds} s: {what}"
            self.supervise()
            time.sleep(POLL_SECONDS)
        return answer

    def last(self, seconds: float) -> None:
        """Let a fault last for some time."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end, seconds + 5, "the end of the fault")

    def supervise(self) -> None:
        """Start again what has ended."""
        for program in self.programs:
            if program._ended():
                program.kill()  # its children, if they outlived it
                program.start()
                self.restarts += 1

    # --- What to hit -----------------------------------------------------------------------------

    def signal(self, program: _Program, number: signal.Signals) -> None:
        """Send a signal to a program's main process only."""
        os.kill(program.pids()[0], number)

    def kill(self, program: _Program) -> None:
        """Kill -9 a program and its children; it is started again while something is waited for."""
        self.kill_only(program)
        self.wait(program._ended, 10, "the end of what was killed")

    def kill_only(self, program: _Program) -> None:
        """Kill -9 a program and its children, without waiting."""
        kill_all(member for pid in program.pids() for member in family(pid))
        self.api_killed |= program in self.apis

    def children(self, worker: Worker) -> list[psutil.Process]:
        """Return the processes that classify and store."""
        main = psutil.Process(worker.pids()[0])
        # The others are Python's own, such as the one that tracks shared memory.
        return [each for each in main.children() if alive(each) and _classifies(each)]

    # --- What to ask -----------------------------------------------------------------------------

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, past any proxy; raise psycopg2.Error."""
        url = _with_port(self.database_url, self.postgres.port)
        with (
            closing(psycopg2.connect(url, connect_timeout=5)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement, values)
            return cursor.fetchall()

    def stored(self, promise: Promise) -> bool:
        """Say whether the document is stored as promised, or as a later write has it."""
        statement = "SELECT revision FROM documents WHERE id = %s::uuid"
        try:
            rows = self.query(statement, promise.text.id)
        except psycopg2.Error:
            return False
        return bool(rows) and int(rows[0][0]) >= promise.revision

    def ledger(self) -> dict[str, Any] | None:
        """Return the account as the API tells it; None if it does not."""
        return get(self.apis[0], "/v1/ledger")

    def queue(self, name: str) -> dict[str, Any]:
        """Return what the broker says of a queue; it counts every five seconds."""
        found: dict[str, Any] = self.broker.api("GET", f"queues/{self.vhost}/{name}")
        return found


def get(api: Api, path: str) -> dict[str, Any] | None:
    """Return the answer to a GET; None if there is no good one."""
    try:
        answer = httpx2.get(
            f"{api.url}{path}", timeout=10, trust_env=False, headers=bearer(api.key)
        )
    except httpx2.TransportError:
        return None
    return answer.json() if answer.status_code == 200 else None


def _ready(api: Api) -> bool:
    return get(api, "/readyz") is not None


def _with_port(url: str, port: int) -> str:
    old = urlsplit(url).port
    return url.replace(f":{old}/", f":{port}/")


def _classifies(process: psutil.Process) -> bool:
    try:
        return not any("tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def rss(program: _Program) -> int:
    """Return the bytes of memory that a program and its children hold."""
    heads = [psutil.Process(pid) for pid in program.pids()]
    return sum(
        each.memory_info().rss
        for head in heads
        for each in (head, *head.children(recursive=True))
        if alive(each)
    )
