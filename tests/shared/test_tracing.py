from collections.abc import Sequence
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Link, SpanContext, TraceFlags
from typing_extensions import override

from shared.tracing import ToldExporter, Tracing, sampler


class Moody(SpanExporter):
    """Takes spans or does not."""

    def __init__(self) -> None:
        self.mood: SpanExportResult | Exception = SpanExportResult.SUCCESS

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if isinstance(self.mood, Exception):
            raise self.mood
        return self.mood


def test_that_the_collector_is_away_is_said_once_and_once_that_it_is_back() -> None:
    moody = Moody()
    exporter = ToldExporter(moody)
    with structlog.testing.capture_logs() as logs:
        for mood in (
            SpanExportResult.SUCCESS,
            SpanExportResult.FAILURE,
            OSError("secret"),
            SpanExportResult.FAILURE,
            SpanExportResult.SUCCESS,
            SpanExportResult.SUCCESS,
            OSError("secret"),
        ):
            moody.mood = mood
            fine = exporter.export([]) is SpanExportResult.SUCCESS
            assert fine is (mood is SpanExportResult.SUCCESS)
    assert [(each["event"], each.get("reason")) for each in logs] == [
        ("traces cannot be exported", "the collector does not take them"),
        ("traces are exported again", None),
        ("traces cannot be exported", "OSError"),
    ]


@pytest.mark.parametrize(
    ("share", "linked", "recorded"),
    [(0, False, False), (0, True, True), (1, False, True), (1, True, True)],
)
def test_what_is_linked_to_recorded_traces_is_recorded(
    share: float, linked: bool, recorded: bool
) -> None:
    links = [Link(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))]
    result = sampler(share).should_sample(None, 1 << 127, "name", links=links if linked else [])
    assert (result.decision is Decision.RECORD_AND_SAMPLE) is recorded


def test_a_log_line_says_its_span_if_there_is_one() -> None:
    tracing = Tracing(TracerProvider())
    outside: dict[str, Any] = {}
    assert tracing.add_ids(None, "info", outside) == {}
    with tracing.span("step"):
        here = tracing.here()
        said = tracing.add_ids(None, "info", {"event": "x"})
    assert said == {
        "event": "x",
        "trace_id": trace.format_trace_id(here.trace_id),
        "span_id": trace.format_span_id(here.span_id),
    }
