"""`GET /v1/status` with real servers: it says within two seconds what is wrong, whatever is."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from local.postgres import DATABASE, Postgres
from local.rabbitmq import RabbitMQ
from local.server import Server, family
from shared.models import MIGRATION
from shared.release import RELEASE
from tests.conftest import migrate
from tests.stack import Api, Worker, poll, running

pytestmark = pytest.mark.rabbitmq

PARTS = {"database", "migrations", "broker", "queues", "workers", "search", "disk"}
QUEUES = ["bulk", "classify", "ingest", "maintain"]
SECONDS = 2


def ask(client: httpx2.Client) -> dict[str, Any]:
    """Return the status, which comes in time."""
    start = time.monotonic()
    answer = client.get("/v1/status")
    assert time.monotonic() - start < SECONDS
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    states = {found[part]["status"] for part in PARTS}
    assert found["status"] == ("degraded" if "degraded" in states else "ok")
    assert all(found[part]["detail"] for part in PARTS if found[part]["status"] != "ok")
    return found


def states(found: dict[str, Any]) -> dict[str, str]:
    """Return the parts that are not ok."""
    return {part: found[part]["status"] for part in PARTS if found[part]["status"] != "ok"}


@contextmanager
def silent(server: Server) -> Iterator[None]:
    """Have all processes of a server hang."""
    hanging = [each for pid in server.pids() for each in family(pid)]
    for each in hanging:
        each.suspend()
    try:
        yield
    finally:
        for each in hanging:
            each.resume()


WITHOUT_DATABASE = {
    "database": "degraded",
    "migrations": "unknown",
    "workers": "unknown",
    "search": "unknown",
}
WITHOUT_BROKER = {"broker": "degraded", "queues": "unknown", "disk": "unknown"}


class Site:
    """Servers, an API and a worker of one's own; the worker is not started yet."""

    def __init__(self, stack: ExitStack, postgres: Postgres, broker_url: str, **env: str) -> None:
        migrate(url := postgres.create_database(DATABASE))
        api = Api(postgres.folder / "api", url, broker_url, **env)
        self.worker = Worker(postgres.folder / "worker", url, broker_url, WORKER_CONCURRENCY="1")
        running(stack, api)
        self.client = stack.enter_context(api.client())
        poll(lambda: self.client.get("/readyz").status_code, lambda status: status == 200, 15)

    def until(self, expected: dict[str, str], seconds: float = 20) -> dict[str, Any]:
        """Return the status when these parts, and no others, are not ok."""
        return poll(lambda: ask(self.client), lambda found: states(found) == expected, seconds)

    def queued(self, messages: int) -> float | None:
        """Return how old a message is at most when so many wait, if that is known."""
        found = poll(
            lambda: ask(self.client)["queues"]["data"]["ingest"],
            lambda queue: queue["messages"] == messages,
            10,
        )
        seconds: float | None = found["oldest_seconds"]
        return seconds


@pytest.fixture
def site(
    processes: ExitStack, own_postgres: Postgres, own_rabbitmq: RabbitMQ, own_broker_url: str
) -> Site:
    return Site(processes, own_postgres, own_broker_url, BROKER_API_URL=own_rabbitmq.api_url)


def test_each_part_says_how_it_is(site: Site, own_postgres: Postgres, processes: ExitStack) -> None:
    assert site.client.post("/v1/documents", json={"content": "a text"}).status_code == 202
    found = site.until({"workers": "degraded"})
    assert found["workers"]["detail"].endswith("ingest, bulk, classify, maintain")
    assert found["workers"]["data"] == []
    age = poll(lambda: site.queued(1), lambda seconds: seconds != 0, 10)
    assert age is None or age < 60  # None: this process has never seen the queue empty

    running(processes, site.worker)
    found = site.until({})
    assert found["database"]["version"].startswith(own_postgres.sql("SHOW server_version")[:2])
    assert 0 < found["database"]["connections"] < found["database"]["max_connections"]
    assert found["migrations"]["current"] == found["migrations"]["expected"] == MIGRATION
    assert found["broker"]["confirms"] is True
    (seen,) = found["workers"]["data"]
    assert (seen["alive"], seen["children"], seen["queues"]) == (True, 1, QUEUES)
    assert seen["hostname"].startswith("worker@")
    (document,) = poll(lambda: site.client.get("/v1/documents").json()["data"], bool, 20)
    models = [document["model_version"]]
    assert found["versions"] == {"api": RELEASE, "workers": [RELEASE], "models": models}
    (disk,) = found["disk"]["broker"]
    assert disk["free_bytes"] > disk["limit_bytes"] > 0
    assert found["disk"]["database_bytes"] > 1_000_000
    poll(lambda: ask(site.client)["search"], lambda search: search["waiting"] == 0, 10)
    assert site.queued(0) == 0


def test_workers_that_are_gone_and_a_schema_that_is_old(
    site: Site, own_postgres: Postgres, processes: ExitStack
) -> None:
    running(processes, site.worker)
    site.until({})
    own_postgres.sql("UPDATE alembic_version SET version_num = 'older'", DATABASE)
    assert site.until({"migrations": "degraded"})["migrations"]["current"] == "older"
    own_postgres.sql(f"UPDATE alembic_version SET version_num = '{MIGRATION}'", DATABASE)

    site.worker.kill()  # and a minute later
    own_postgres.sql("UPDATE workers SET seen_at = seen_at - interval '1 min'", DATABASE)
    found = site.until({"workers": "degraded"})
    assert [each["alive"] for each in found["workers"]["data"]] == [False]
    assert found["versions"]["models"] == []

    running(processes, site.worker)
    site.until({})
    site.worker.stop()  # in order
    assert site.until({"workers": "degraded"})["workers"]["data"] == []


def test_servers_that_hang_or_are_dead(
    site: Site, own_postgres: Postgres, own_rabbitmq: RabbitMQ, processes: ExitStack
) -> None:
    running(processes, site.worker)
    site.until({})
    with silent(own_postgres):
        found = site.until(WITHOUT_DATABASE)
        assert found["database"]["detail"] == "no answer in time"
    site.until({}, 40)
    with silent(own_rabbitmq):
        site.until(WITHOUT_BROKER)
    site.until({}, 40)
    own_postgres.kill()
    site.until(WITHOUT_DATABASE)
    own_rabbitmq.kill()
    site.until(WITHOUT_DATABASE | WITHOUT_BROKER)
    running(processes, own_postgres, own_rabbitmq)
    site.until({}, 40)


def test_what_nobody_can_tell_is_no_fault(
    module_database_url: str, broker_url: str, tmp_path: Path, processes: ExitStack
) -> None:
    """Without the management API nobody knows the broker's disk."""
    api = Api(tmp_path / "api", module_database_url, broker_url)
    running(processes, api)
    client = processes.enter_context(api.client())
    expected = {"workers": "degraded", "disk": "unknown"}
    found = poll(lambda: ask(client), lambda found: states(found) == expected, 15)
    assert "BROKER_API_URL" in found["disk"]["detail"]
    assert found["disk"]["database_bytes"] > 0


def test_with_the_spool(module_database_url: str, tmp_path: Path, processes: ExitStack) -> None:
    url = f"spool://{tmp_path}/spool"
    api = Api(tmp_path / "api", module_database_url, url)
    running(processes, api)
    client = processes.enter_context(api.client())
    found = poll(lambda: ask(client), lambda found: found["queues"]["status"] == "ok", 15)
    assert states(found) == {"workers": "degraded"}
    assert [each["node"] for each in found["disk"]["broker"]] == ["spool"]


def test_more_than_may_wait(
    module_database_url: str, broker_url: str, tmp_path: Path, processes: ExitStack
) -> None:
    api = Api(tmp_path / "api", module_database_url, broker_url, BACKLOG_LIMIT="0")
    running(processes, api)
    client = processes.enter_context(api.client())
    poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, 15)
    assert client.post("/v1/documents", json={"content": "a text"}).status_code == 202
    found = poll(lambda: ask(client), lambda found: found["queues"]["status"] == "degraded", 10)
    assert found["queues"]["detail"].endswith(": ingest")
