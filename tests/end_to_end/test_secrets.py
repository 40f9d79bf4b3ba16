"""Nothing secret is in clear: not in logs or errors, Flower, messages, rows, or arguments."""

import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from local.ports import LOOPBACK, free_ports
from local.postgres import Postgres
from local.rabbitmq import RabbitMQ
from shared.access import Scope, Secret
from tests.conftest import fresh_name
from tests.keys import Keys, bearer, make_admin
from tests.stack import Api, Flower, Worker, poll, running, stored

pytestmark = pytest.mark.rabbitmq

ROOT = Path(__file__).parents[2]
DOCUMENTS = "/v1/documents"
LEVEL = {"LOG_LEVEL": "DEBUG"}  # what says most


@dataclass(frozen=True)
class Site:
    """Postroom with keys, after requests of all kinds; `answers` is what the wrong ones got."""

    database: str
    vhost: str
    secrets: dict[str, str]
    programs: tuple[Any, ...]
    client: httpx2.Client
    answers: tuple[str, ...]

    @property
    def flower(self) -> Flower:
        return next(each for each in self.programs if isinstance(each, Flower))

    def nothing_secret(self, text: str) -> None:
        assert text
        for name, secret in self.secrets.items():
            for form in (secret, secret.encode().hex(), b64encode(secret.encode()).decode()):
                place = text.find(form)
                assert place < 0, f"{name}: …{text[max(0, place - 200) : place]}"


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres: Postgres,
    rabbitmq: RabbitMQ,
    migrated_template: str,
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("secrets")
    name = fresh_name(request)
    database_url = postgres.create_database(name, migrated_template)
    broker_url = rabbitmq.create_vhost(name)
    settings = LEVEL | {"AUTH": "on", "BROKER_API_URL": rabbitmq.api_url}
    api = Api(folder / "api", database_url, broker_url, **settings)
    worker = Worker(folder / "worker", database_url, broker_url, **LEVEL)
    flower = Flower(folder / "flower", database_url, broker_url)
    flower.env |= LEVEL | {"FLOWER_BROKER_API": rabbitmq.api_url}
    admin, unknown, made = make_admin(database_url), Secret.new().value, Keys(database_url)
    expired = made.make(Scope.ADMIN, seconds=-1)
    made.close()
    with ExitStack() as stack:
        running(stack, api, worker, flower)
        client = stack.enter_context(api.client())
        client.headers.update(bearer(admin))
        poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, 15)
        # Messages from before it listens it would never show.
        metrics = f"{flower.url}/metrics"
        poll(
            lambda: httpx2.get(metrics, trust_env=False).text,
            lambda text: "flower_worker_online{" in text,
            30,
        )
        first = client.post("/v1/keys", json={"name": "a", "scopes": ["documents:write"]}).json()
        second = client.post(f"/v1/keys/{first['id']}/rotate", json={"overlap_seconds": 60}).json()
        secrets = {
            "an admin's key": admin,
            "a key that was made": first["key"],
            "a key that replaced it": second["key"],
            "an unknown key": unknown,
            "an expired key": expired,
            "a password": "open-sesame-4711",
            "the database's password": postgres.password,
            "the broker's password": rabbitmq.password,
        }
        answers = [each.text for each in wrong_requests(api, client, secrets)]
        for key in (first["key"], second["key"], admin):
            accepted = client.post(DOCUMENTS, json={"content": "x"}, headers=bearer(key))
            stored(client, accepted.json()["id"])
        client.post(f"{DOCUMENTS}/batch", json=[{"content": "x"}] * 3).raise_for_status()
        lines = {"Content-Type": "application/x-ndjson", "Idempotency-Key": "secrets"}
        body = b'{"content": "x"}\n{"key": 1}\n'
        client.post("/v1/imports", content=body, headers=lines).raise_for_status()
        client.post("/v1/classify", json={"content": "x"}).raise_for_status()
        client.delete(f"/v1/keys/{first['id']}").raise_for_status()
        # The queue itself shall be seen, too.
        worker.stop()
        client.post(DOCUMENTS, json={"content": "waits"}).raise_for_status()
        yield Site(name, name, secrets, (api, worker, flower), client, tuple(answers))
    postgres.drop_database(name)


def wrong_requests(
    api: Api, client: httpx2.Client, secrets: dict[str, str]
) -> Iterator[httpx2.Response]:
    """Show keys where they belong and where they do not; each is refused."""
    basic = b64encode(f"admin:{secrets['a password']}".encode()).decode()
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/v1/keys", {"headers": {"Authorization": f"Basic {basic}"}}),
        ("GET", "/v1/keys", {"headers": {"Authorization": f"Token {secrets['a password']}"}}),
        ("POST", DOCUMENTS, {"json": {"content": ""}}),
        ("POST", DOCUMENTS, {"content": b"{"}),
        ("PUT", "/v1/keys", {}),
    ]
    for name in ("an admin's key", "an unknown key", "an expired key"):
        key = secrets[name]
        requests += [
            ("GET", "/v1/categories", {"params": {"api_key": key, "authorization": key}}),
            ("GET", DOCUMENTS, {"params": {"cursor": key, "limit": key, "status": key}}),
            ("POST", DOCUMENTS, {"json": {"contents": "x", "key": key}}),
            ("POST", "/v1/keys", {"json": {"name": "b", "scopes": [key], "expires_at": key}}),
            ("GET", "/v1/nothing", {"headers": {"X-Api-Key": key, "Cookie": f"key={key}"}}),
        ]
        if name != "an admin's key":
            requests += [
                (method, path, {"headers": bearer(key)})
                for method, path in (
                    ("GET", "/v1/keys"),
                    ("POST", DOCUMENTS),
                    ("GET", "/v1/ledger"),
                )
            ]
    for method, path, sent in requests:
        response = client.request(method, path, **sent)
        if path != "/v1/categories":
            assert response.status_code in {400, 401, 404, 405, 415, 422}, response.text
        yield response


def test_answers(site: Site) -> None:
    for answer in site.answers:
        site.nothing_secret(answer)
    for path in ("/v1/keys", "/v1/ledger", "/v1/imports", "/metrics", "/readyz", "/openapi.json"):
        site.nothing_secret(site.client.get(path).text)


def test_logs(site: Site) -> None:
    logs = [program.log.read_text() for program in site.programs]
    assert sum('"level":"debug"' in log for log in logs) >= 2  # Flower has nothing to say there
    for log in logs:
        site.nothing_secret(log)


def test_rows(site: Site, postgres: Postgres) -> None:
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    tables = postgres.sql(query, site.database).split()
    assert {"documents", "api_keys", "imports"} <= set(tables)
    for table in tables:
        rows = postgres.sql(f'SELECT t::text FROM "{table}" t', site.database)
        assert rows or table not in {"documents", "api_keys", "imports"}
        site.nothing_secret(f"{table}: {rows}")
    running_now = "SELECT query, application_name FROM pg_stat_activity"
    site.nothing_secret(postgres.sql(running_now, site.database))


def test_messages(site: Site, rabbitmq: RabbitMQ) -> None:
    wanted = {"count": 10, "ackmode": "ack_requeue_true", "encoding": "auto"}
    found = rabbitmq.api("POST", f"queues/{site.vhost}/ingest/get", wanted)
    assert "waits" in str(found)
    site.nothing_secret(str(found))
    names = ("queues", "exchanges", "bindings")
    site.nothing_secret(str([rabbitmq.api("GET", f"{each}/{site.vhost}") for each in names]))
    site.nothing_secret(str(rabbitmq.api("GET", "connections")))


def test_flower(site: Site) -> None:
    tasks = f"{site.flower.url}/api/tasks"
    seen = httpx2.get(tasks, timeout=15, trust_env=False).json()
    assert {each["name"] for each in seen.values()} >= {"documents.ingest"}
    (worker,) = {each["worker"] for each in seen.values()}
    pages = ["", "tasks", "broker", "metrics", "api/workers", "api/queues/length", "api/task/types"]
    pages += [f"worker/{worker}", *(f"task/{each}" for each in seen)]
    pages += [f"api/task/info/{each}" for each in seen]
    for page in pages:
        answer = httpx2.get(f"{site.flower.url}/{page}", timeout=15, trust_env=False)
        site.nothing_secret(f"{page}: {answer.text}")


def test_arguments_of_processes(site: Site) -> None:
    for program in site.programs:
        for pid in program.pids():
            site.nothing_secret(" ".join(psutil.Process(pid).cmdline()))


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "api.keys", "list"),
        ("-m", "alembic", "-c", "migrations/alembic.ini", "upgrade", "head"),
        ("-m", "api.verify_ledger"),
    ],
    ids=lambda arguments: arguments[1],
)
def test_commands_that_find_no_database(arguments: tuple[str, ...]) -> None:
    password, port = "open-sesame-4711", free_ports(1)[0]
    urls = {
        "DATABASE_URL": f"postgresql://postroom:{password}@{LOOPBACK}:{port}/postroom",
        "BROKER_URL": f"amqp://postroom:{password}@{LOOPBACK}:{port}/",
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **urls, **LEVEL},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr
    assert password not in done.stdout + done.stderr


def test_programs_that_find_neither_database_nor_broker(
    tmp_path: Path, processes: ExitStack
) -> None:
    password, port = "open-sesame-4711", free_ports(1)[0]
    urls = (
        f"postgresql://postroom:{password}@{LOOPBACK}:{port}/postroom",
        f"amqp://postroom:{password}@{LOOPBACK}:{port}/",
    )
    api = Api(tmp_path / "api", *urls, **LEVEL, AUTH="on")
    worker = Worker(tmp_path / "worker", *urls, **LEVEL)
    running(processes, api)
    processes.callback(worker.kill)
    worker.start()
    client = processes.enter_context(api.client())
    ready = client.get("/readyz")
    assert ready.status_code == 503
    refused = client.get("/v1/keys", headers=bearer(Secret.new().value))
    assert refused.status_code == 503
    poll(worker.log.read_text, lambda text: "Cannot connect" in text, 30)
    for said in (ready.text, refused.text, api.log.read_text(), worker.log.read_text()):
        assert said
        assert password not in said
