"""API and worker as real processes that send their spans to a collector, or to none."""

import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from uuid import uuid4

import orjson
import pytest

from local.ports import LOOPBACK, free_ports
from tests.collector import EAGER, Collector
from tests.stack import ROOT, Api, Worker, poll, running, stored

BOTH = pytest.mark.parametrize(
    "broker", [pytest.param("rabbitmq", marks=pytest.mark.rabbitmq), "spool"]
)


def broker_of(broker: str, request: pytest.FixtureRequest, folder: Path) -> str:
    if broker == "spool":
        return f"spool://{folder / 'spool'}"
    url: str = request.getfixturevalue("broker_url")
    return url


@BOTH
def test_the_trace_of_a_document(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database_url: str,
    processes: ExitStack,
    broker: str,
) -> None:
    """From children that are forked, and from a single process; the last spans as they end."""
    broker_url = broker_of(broker, request, tmp_path)
    collector = processes.enter_context(Collector())
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"{collector.url}/",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-token=secret%20one",
    }
    api = Api(tmp_path / "api", database_url, broker_url, **env, **EAGER)
    env |= {"WORKER_CONCURRENCY": "1", "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    worker = Worker(tmp_path / "worker", database_url, broker_url, **env)
    running(processes, api, worker)
    client = processes.enter_context(api.client())
    poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, seconds=15)
    own = uuid4().hex
    accepted = client.post(
        "/v1/documents", json={"content": "private words"}, headers={"X-Request-Id": own}
    ).json()
    stored(client, accepted["id"])
    assert client.post("/v1/classify", json={"content": "a text"}).status_code == 200
    assert not [each for each in collector.spans if each.service == "postroom-worker"]
    worker.stop()
    api.stop()

    def one(service: str, name: str) -> list[bytes]:
        (found,) = [
            each for each in collector.of(f"postroom-{service}", name) if each.trace == http.trace
        ]
        return [found.parent, found.id]

    (http,) = collector.of("postroom-api", "POST /v1/documents")
    assert http.parent == b""
    assert http.attributes["postroom.request_id"] == own
    publish = one("api", "publish documents.ingest")
    ingest = one("worker", "run/documents.ingest")
    assert publish[0] == http.id
    assert ingest[0] == publish[1]
    assert one("worker", "classify")[0] == one("worker", "store")[0] == ingest[1]

    (asked,) = collector.of("postroom-api", "POST /v1/classify")
    names = {each.name for each in collector.spans if each.trace == asked.trace}
    assert names == {
        "POST /v1/classify",
        "publish texts.classify",
        "run/texts.classify",
        "answer",
    }
    assert {each.name for each in collector.spans if not each.parent} <= {
        "POST /v1/documents",
        "POST /v1/classify",
        "GET /v1/documents/{document_id}",
    }
    assert {each.get("x-token") for each in collector.headers} == {"secret one"}
    assert "private" not in str(collector.spans)

    lines = [orjson.loads(line) for line in worker.logged().splitlines() if line.startswith("{")]
    (line,) = [each for each in lines if each["event"] == "message ingested"]
    assert line["task_id"] == f"{line['producer_id']}.{line['seq']}" == accepted["task_id"]
    assert (line["request_id"], line["document_id"]) == (own, accepted["id"])
    assert bytes.fromhex(line["trace_id"]) == http.trace
    assert bytes.fromhex(line["span_id"]) == ingest[1]


@pytest.mark.rabbitmq
@pytest.mark.parametrize("hangs", [False, True])
def test_a_collector_that_is_away_is_said_once_and_holds_nothing_up(
    tmp_path: Path, database_url: str, broker_url: str, processes: ExitStack, *, hangs: bool
) -> None:
    port = free_ports(1)[0]
    if hangs:  # it takes connections, and never answers
        processes.enter_context(socket.create_server((LOOPBACK, port)))
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{LOOPBACK}:{port}", **EAGER}
    api = Api(tmp_path / "api", database_url, broker_url, **env)
    worker = Worker(tmp_path / "worker", database_url, broker_url, WORKER_CONCURRENCY="1", **env)
    running(processes, api, worker)
    client = processes.enter_context(api.client())
    poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, seconds=15)
    for server in (api, worker):
        stored(client, client.post("/v1/documents", json={"content": "a"}).json()["id"])
        poll(server.logged, lambda log: "traces cannot be exported" in log, 20)
    for _ in range(20):
        stored(client, client.post("/v1/documents", json={"content": "a"}).json()["id"])
    for server in (worker, api):
        start = monotonic()
        server.stop()
        assert monotonic() - start < 8
    for server in (api, worker):
        log = server.logged()
        assert log.count("traces cannot be exported") == 1
        assert "opentelemetry" not in log
        assert "Traceback" not in log


@pytest.mark.parametrize(
    ("program", "spared"),
    [
        # FastAPI has the interface, but nothing that makes or sends a span.
        ("import api.app; api.app.create_app()", ("opentelemetry.sdk", "opentelemetry.exporter")),
        ("import worker.app; worker.app.app.loader.import_default_modules()", ("opentelemetry",)),
    ],
)
def test_who_does_not_trace_loads_nothing_of_it(program: str, spared: tuple[str, ...]) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": "postgresql://nobody@nowhere.invalid/nothing",
        "BROKER_URL": "amqp://nobody@nowhere.invalid//",
    }

    def loaded(**more: str) -> bool:
        done = subprocess.run(
            [sys.executable, "-c", f"{program}; import sys; print(*sys.modules)"],
            env={**env, **more},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return any(
            each == name or each.startswith(f"{name}.")
            for each in done.stdout.split()
            for name in spared
        )

    assert not loaded()
    assert loaded(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
