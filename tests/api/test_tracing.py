"""The spans of messages, seen with a publisher that records them."""

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from api.backlog import Backlog
from api.intake import Intake
from shared.errors import BrokerUnavailable
from shared.messages import IMPORT
from shared.tracing import MAX_LINKS, Tracing, sampler
from tests.api.test_intake import RecordingPublisher, made, run

PUBLISH = "publish documents.ingest"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider(sampler=sampler(1))
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Tracing(provider)


@pytest.fixture
def publisher() -> RecordingPublisher:
    return RecordingPublisher()


@pytest.fixture
def intake(publisher: RecordingPublisher, tracing: Tracing) -> Iterator[Intake]:
    intake = Intake(publisher, Backlog(1_000), 3600, tracing)  # type: ignore[arg-type]  # it has what is used
    yield intake
    publisher.gate.set()
    intake.close()


def published(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    return [each for each in spans.get_finished_spans() if each.name == PUBLISH]


def traceparent(span: ReadableSpan) -> str:
    assert span.context
    here = span.context
    return f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}"


async def request(intake: Intake, tracing: Tracing, *, recorded: bool = True) -> trace.SpanContext:
    """Hand a document in, as a request does; return where that was."""
    with tracing.span("request") if recorded else trace.use_span(_unrecorded()):
        here = tracing.here()
        await intake.accept(made(), 10)
        return here


def _unrecorded() -> trace.Span:
    return trace.NonRecordingSpan(trace.SpanContext(1, 1, is_remote=True))


async def full(intake: Intake, tracing: Tracing, *recorded: bool) -> list[trace.SpanContext]:
    """Have a message of a hundred documents published, which waits for nothing."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(request(intake, tracing, recorded=each)) for each in recorded]
    return [each.result() for each in tasks]


def test_the_message_of_one_request_is_a_part_of_its_trace(
    intake: Intake, tracing: Tracing, publisher: RecordingPublisher, spans: InMemorySpanExporter
) -> None:
    async def test() -> None:
        here = await request(intake, tracing)
        (publish,) = published(spans)
        assert publish.parent == here
        assert publish.kind is SpanKind.PRODUCER
        assert publisher.headers == [{"traceparent": traceparent(publish)}]

    run(test())


def test_a_message_of_many_requests_links_to_those_that_are_recorded(
    intake: Intake, tracing: Tracing, publisher: RecordingPublisher, spans: InMemorySpanExporter
) -> None:
    async def test() -> None:
        await request(intake, tracing)  # at once, and alone
        publisher.gate.clear()
        held = asyncio.create_task(request(intake, tracing))
        assert await asyncio.to_thread(publisher.started.acquire, timeout=10)
        waiting = asyncio.create_task(full(intake, tracing, *[True, False] * 50))
        await asyncio.sleep(0)
        publisher.gate.set()
        requests = await waiting
        await held
        (publish,) = [each for each in published(spans) if each.links]
        assert publish.parent is None
        assert [each.context for each in publish.links] == requests[::2]
        assert len(publisher.messages[-1]) == 100
        assert publisher.headers[-1] == {"traceparent": traceparent(publish)}

    run(test())


def test_of_requests_that_are_not_recorded_nothing_is(
    intake: Intake, tracing: Tracing, publisher: RecordingPublisher, spans: InMemorySpanExporter
) -> None:
    async def test() -> None:
        await full(intake, tracing, *[False] * 101)
        assert list(map(len, publisher.messages)) == [1, 100]
        assert publisher.headers == [{}, {}]
        assert spans.get_finished_spans() == ()

    run(test())


def test_links_are_bounded(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    with tracing.span("request"):
        here = tracing.here()
    with tracing.publishing(IMPORT, [here] * (MAX_LINKS + 1)):
        pass
    (publish,) = published(spans)
    assert len(publish.links) == MAX_LINKS


def test_a_message_that_does_not_leave_says_so_and_spoils_no_other(
    intake: Intake, tracing: Tracing, publisher: RecordingPublisher, spans: InMemorySpanExporter
) -> None:
    async def test() -> None:
        publisher.error = BrokerUnavailable("secret host")
        with pytest.raises(BrokerUnavailable):
            await request(intake, tracing)
        publisher.error = None
        here = await request(intake, tracing)
        failed, fine = published(spans)
        assert failed.status.status_code is StatusCode.ERROR
        assert failed.attributes
        assert failed.attributes["error.type"] == "BrokerUnavailable"
        assert "secret" not in failed.to_json()
        assert fine.status.status_code is StatusCode.UNSET
        assert fine.parent == here

    run(test())
