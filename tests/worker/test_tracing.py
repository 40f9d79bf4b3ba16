"""Traces from the request to the transaction: the API and the worker's code in one process.

Broker and database are real. What the worker's children do is done here, by Celery's own tracer.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any
from uuid import uuid4

import httpx2
import orjson
import pytest
import structlog
from celery.app.trace import build_tracer
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr
from sqlalchemy import text

from api.app import create_app
from api.settings import ApiSettings
from shared.db import Database
from shared.queue import celery_app, declare
from shared.store import documents as store
from shared.store import ledger
from shared.tracing import Tracing, sampler
from tests.shared.broker import put_raw, take_all
from tests.shared.store.samples import document_id, open_empty
from tests.worker.bench import body, document, headers
from tests.worker.test_ingest import FakeModel
from worker import verdicts
from worker.app import app as celery
from worker.app import runtime
from worker.tasks.fold_ledger import fold_ledger
from worker.tasks.ingest import ingest
from worker.tracing import use

pytestmark = pytest.mark.rabbitmq

DOCUMENTS = "/v1/documents"
HTTP, PUBLISH, INGEST = "POST /v1/documents", "publish documents.ingest", "run/documents.ingest"
TREE = {HTTP: None, PUBLISH: HTTP, INGEST: PUBLISH, "classify": INGEST, "store": INGEST}


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def tracing_into(spans: InMemorySpanExporter, share: float) -> Tracing:
    provider = TracerProvider(sampler=sampler(share))
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Tracing(provider)


@contextlib.contextmanager
def working(tracing: Tracing) -> Iterator[None]:
    use(runtime, tracing)
    try:
        yield
    finally:
        runtime.tracing = None
        CeleryInstrumentor().uninstrument()  # type: ignore[no-untyped-call]


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Tracing:
    return tracing_into(spans, 1)


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    database = open_empty(database_url)
    monkeypatch.setattr(runtime, "database", database)
    monkeypatch.setattr(runtime, "_model", FakeModel())
    yield database
    database.close()


@pytest.fixture
def settings(database: Database, database_url: str, broker_url: str) -> ApiSettings:
    return ApiSettings(database_url=SecretStr(database_url), broker_url=SecretStr(broker_url))


@contextlib.asynccontextmanager
async def api(settings: ApiSettings, tracing: Tracing) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(settings, tracing)
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://api") as client,
    ):
        async with asyncio.timeout(15):
            while (await client.get("/readyz")).status_code != 200:
                pass
        yield client


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 40))


def work(
    tracing: Tracing, task: Any, task_id: str, arguments: dict[str, Any], headers: dict[str, Any]
) -> object:
    """Run a task as a child does; return what was wrong."""
    request = {**headers, "hostname": "test", "delivery_info": {"redelivered": False}}
    with working(tracing):
        done = build_tracer(task.name, task, app=celery)(task_id, [], arguments, request)
    return done[1]


def work_off(
    settings: ApiSettings, tracing: Tracing, queue: str = "ingest"
) -> list[dict[str, Any]]:
    """Work off what waits in the broker; return the messages' headers."""
    messages = list(take_all(settings.broker_url.get_secret_value(), queue))
    for message in messages:
        _, arguments, _ = orjson.loads(message.body)
        assert not work(tracing, ingest, message.headers["id"], arguments, message.headers)
    return [message.headers for message in messages]


def tree(found: Sequence[ReadableSpan]) -> dict[str, str | None]:
    """Return each span's name with that of its parent."""
    names = {each.context.span_id: each.name for each in found if each.context}
    assert len(names) == len({each.name for each in found}) == len(found)
    return {each.name: names[each.parent.span_id] if each.parent else None for each in found}


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [each for each in spans.get_finished_spans() if each.name == name]


def trace_ids(found: Sequence[ReadableSpan]) -> set[int]:
    return {each.context.trace_id for each in found if each.context}


def span_ids(found: Sequence[ReadableSpan]) -> set[int]:
    return {each.context.span_id for each in found if each.context}


def parents(found: Sequence[ReadableSpan]) -> set[int]:
    return {each.parent.span_id for each in found if each.parent}


# --- One tree ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
def test_the_trace_of_one_document_is_one_tree(
    settings: ApiSettings, tracing: Tracing, spans: InMemorySpanExporter, kind: str
) -> None:
    """By the shortcut, and through the framework."""

    async def test() -> None:
        async with api(settings, tracing) as client:
            own = uuid4().hex
            response = await client.post(
                DOCUMENTS,
                content=b'{"content": "private words"}',
                headers={"Content-Type": kind, "X-Request-Id": own},
            )
            assert response.status_code == 202
            work_off(settings, tracing)
            found = spans.get_finished_spans()
            assert tree(found) == TREE
            assert len(trace_ids(found)) == 1
            attributes = {each.name: dict(each.attributes or {}) for each in found}
            task_id = response.json()["task_id"]
            for name in (HTTP, PUBLISH, INGEST):
                assert attributes[name]["messaging.message.id"] == task_id
            assert attributes[HTTP]["postroom.request_id"] == own
            assert attributes[HTTP]["http.route"] == DOCUMENTS
            assert attributes[HTTP]["http.response.status_code"] == 202
            assert not any("private" in each.to_json() for each in found)

    run(test())


def test_the_trace_of_a_batch_is_one_tree(
    settings: ApiSettings, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    async def test() -> None:
        async with api(settings, tracing) as client:
            documents = [{"content": f"text{number}"} for number in range(3)]
            response = await client.post(f"{DOCUMENTS}/batch", json=documents)
            assert response.status_code == 202
            work_off(settings, tracing)
            batch = "POST /v1/documents/batch"
            expected = {**TREE, batch: None, PUBLISH: batch}
            del expected[HTTP]
            assert tree(spans.get_finished_spans()) == expected

    run(test())


def test_the_trace_of_an_import_has_a_branch_for_each_message(
    settings: ApiSettings, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    async def test() -> None:
        async with api(settings, tracing) as client:
            lines = b"".join(b'{"content": "text%d"}\n' % number for number in range(250))
            response = await client.post(
                "/v1/imports", content=lines, headers={"Content-Type": "application/x-ndjson"}
            )
            assert response.status_code == 202
            messages = len(work_off(settings, tracing, "bulk"))
            assert messages > 1
            (http,) = named(spans, "POST /v1/imports")
            branches, taken = named(spans, PUBLISH), named(spans, INGEST)
            assert parents(branches) == span_ids([http])
            assert parents(taken) == span_ids(branches)
            assert len(branches) == len(taken) == messages
            assert len(trace_ids(spans.get_finished_spans())) == 1

    run(test())


def test_the_clients_trace_goes_on(
    settings: ApiSettings, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    async def test() -> None:
        async with api(settings, tracing) as client:
            trace, parent = uuid4().int, 0x1234
            sent = {"traceparent": f"00-{trace:032x}-{parent:016x}-01", "baggage": "secret=yes"}
            await client.post(DOCUMENTS, json={"content": "a"}, headers=sent)
            (told,) = work_off(settings, tracing)
            assert trace_ids(spans.get_finished_spans()) == {trace}
            (http,) = named(spans, HTTP)
            assert http.parent
            assert http.parent.span_id == parent
            assert "baggage" not in told

    run(test())


# --- Links ---------------------------------------------------------------------------------------


def test_a_message_of_many_requests_links_to_each(
    settings: ApiSettings, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    async def test() -> None:
        async with api(settings, tracing) as client:
            async with asyncio.TaskGroup() as group:
                for number in range(9):
                    group.create_task(client.post(DOCUMENTS, json={"content": f"text{number}"}))
            told = {each["id"]: each["documents"] for each in work_off(settings, tracing)}
            requests = {each.context.span_id: each for each in named(spans, HTTP) if each.context}
            assert sum(told.values()) == len(requests) == 9
            assert max(told.values()) > 1
            for publish in named(spans, PUBLISH):
                assert publish.attributes
                assert publish.context
                task_id = str(publish.attributes["messaging.message.id"])
                mine = [
                    span_id
                    for span_id, each in requests.items()
                    if each.attributes and each.attributes["messaging.message.id"] == task_id
                ]
                assert len(mine) == told[task_id]
                links = sorted(each.context.span_id for each in publish.links)
                if told[task_id] > 1:
                    assert publish.parent is None
                    assert links == sorted(mine)
                    assert publish.context.trace_id not in trace_ids(list(requests.values()))
                else:
                    assert publish.parent
                    assert [publish.parent.span_id] == mine
                    assert links == []
                (taken,) = [
                    each
                    for each in named(spans, INGEST)
                    if each.parent and each.parent.span_id == publish.context.span_id
                ]
                steps = [
                    each.name
                    for each in spans.get_finished_spans()
                    if each.parent
                    and taken.context
                    and each.parent.span_id == taken.context.span_id
                ]
                assert steps == ["classify", "store"]

    run(test())


# --- What is not recorded ------------------------------------------------------------------------


def test_of_what_is_not_recorded_no_message_says_anything(
    settings: ApiSettings, spans: InMemorySpanExporter
) -> None:
    async def test() -> None:
        tracing = tracing_into(spans, 0)
        async with api(settings, tracing) as client:
            await client.post(DOCUMENTS, json={"content": "a"})
            (told,) = work_off(settings, tracing)
            assert "traceparent" not in told
            assert spans.get_finished_spans() == ()

    run(test())


def test_a_worker_records_no_tick(spans: InMemorySpanExporter, database: Database) -> None:
    assert not work(tracing_into(spans, 0), fold_ledger, "tick", {}, {})
    assert spans.get_finished_spans() == ()


def test_a_step_that_fails_is_named_without_its_words(
    settings: ApiSettings,
    tracing: Tracing,
    spans: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise ValueError("private words")

    monkeypatch.setattr(store, "write", fail)
    monkeypatch.setattr(verdicts, "record_raised", lambda *_: None)

    async def test() -> None:
        async with api(settings, tracing) as client:
            await client.post(DOCUMENTS, json={"content": "private words"})
            (message,) = take_all(settings.broker_url.get_secret_value(), "ingest")
            _, arguments, _ = orjson.loads(message.body)
            assert work(tracing, ingest, message.headers["id"], arguments, message.headers)
            (failed,) = named(spans, "store")
            assert failed.attributes
            assert failed.attributes["error.type"] == "ValueError"
            (taken,) = named(spans, INGEST)
            assert taken.attributes
            assert taken.attributes["celery.state"] == "REJECTED"
            assert not any("private" in each.to_json() for each in spans.get_finished_spans())

    run(test())


def test_a_request_that_fails_is_found_by_its_id(
    settings: ApiSettings,
    tracing: Tracing,
    spans: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("private words")

    monkeypatch.setattr(ledger, "totals", fail)

    async def test() -> None:
        async with api(settings, tracing) as client:
            with pytest.raises(ValueError, match="private"):
                await client.get("/v1/ledger", headers={"X-Request-Id": "mine"})
            (failed,) = spans.get_finished_spans()
            assert failed.attributes
            assert failed.attributes["postroom.request_id"] == "mine"
            assert failed.attributes["error.type"] == "ValueError"
            assert "private" not in failed.to_json()

    run(test())


# --- Messages of others --------------------------------------------------------------------------

SPAN = f"{0x1234:016x}"
FINE = f"00-{1:032x}-{SPAN}-01"
FOREIGN: list[dict[str, Any]] = [
    {"traceparent": ""},
    {"traceparent": "nonsense"},
    {"traceparent": f"00-{0:032x}-{SPAN}-01"},
    {"traceparent": f"ff-{1:032x}-{SPAN}-01"},
    {"traceparent": 5},
    {"traceparent": True},
    {"traceparent": []},
    {"traceparent": [5]},
    {"traceparent": {"a": 1}},
    {"traceparent": "x" * 10_000},
    {"traceparent": FINE, "tracestate": 5},
    {"traceparent": FINE, "tracestate": "=,=,"},
    {"tracestate": "a=b"},
    {"baggage": 5},
    {"baggage": "%zz=;;,"},
]


def test_whatever_a_message_says_of_its_trace_it_is_stored(
    tracing: Tracing, settings: ApiSettings, database: Database, spans: InMemorySpanExporter
) -> None:
    broker_url = settings.broker_url.get_secret_value()
    with celery_app(broker_url).connection_for_write() as connection:
        declare(connection)
    for number, foreign in enumerate(FOREIGN):
        content = body(document(document_id(number)))
        put_raw(broker_url, "ingest", content, headers=headers(number, **foreign))
    assert len(work_off(settings, tracing)) == len(FOREIGN)
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM documents")) == len(FOREIGN)
    assert len(named(spans, INGEST)) == len(FOREIGN)
