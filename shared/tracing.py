"""Traces, as OpenTelemetry has them: from a request through its message to the transaction.

Loaded only where `OTEL_EXPORTER_OTLP_ENDPOINT` is set: who has no `Tracing` has nothing to do. What
an error says never gets into a span, as it may be a document's text.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any, Final, Self

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.re import parse_env_headers
from structlog.typing import EventDict
from typing_extensions import override

from shared.logs import Failing
from shared.messages import Message
from shared.settings import SharedSettings

MAX_LINKS: Final = 128
"""Requests that a message's span names; the others are in the message all the same."""

_MESSAGE_ID: Final = "messaging.message.id"
_EXPORT_SECONDS: Final = 2.0

# Ours alone: what a client sends along as baggage is none of the workers' business.
_PROPAGATOR: Final = TraceContextTextMapPropagator()

logger = structlog.get_logger(__name__)


class Tracing:
    """Makes spans, and has messages carry on the trace of their requests.

    Attributes:
        provider: makes the spans of libraries, too.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self._tracer = provider.get_tracer("postroom")

    @classmethod
    def exporting(cls, settings: SharedSettings, program: str, share: float) -> Self:
        """Return one that sends spans where the settings say, from a thread of its own.

        Args:
            settings: name the collector.
            program: what the spans are from.
            share: of the traces that begin here, those that are recorded, 0 to 1.
        """
        # What fails is said once, by us.
        for name in ("opentelemetry.exporter", "opentelemetry.sdk"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        headers = settings.otel_exporter_otlp_headers.get_secret_value()
        exporter = ToldExporter(
            OTLPSpanExporter(
                f"{settings.otel_exporter_otlp_endpoint}/v1/traces",
                headers=parse_env_headers(headers, liberal=True),
                timeout=_EXPORT_SECONDS,
            )
        )
        resource = Resource.create({"service.name": f"postroom-{program}"})
        provider = TracerProvider(sampler=sampler(share), resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider)

    def close(self) -> None:
        """Send what is left; what nobody has taken within two seconds is given up."""
        ending = Thread(target=self.provider.shutdown, daemon=True)
        ending.start()
        ending.join(_EXPORT_SECONDS)

    @staticmethod
    def here() -> SpanContext:
        """Return where we are: the context of the current span."""
        return trace.get_current_span().get_span_context()

    @staticmethod
    def name_message(task_id: str) -> None:
        """Say in the current span which message it is about."""
        trace.get_current_span().set_attribute(_MESSAGE_ID, task_id)

    @staticmethod
    def add_ids(_logger: object, _method: str, event: EventDict) -> EventDict:
        """Say in a log line which span it is from: a processor of structlog's."""
        here = Tracing.here()
        if here.trace_flags.sampled:
            event["trace_id"] = trace.format_trace_id(here.trace_id)
            event["span_id"] = trace.format_span_id(here.span_id)
        return event

    @contextmanager
    def publishing(
        self, message: Message, origins: Sequence[SpanContext | None]
    ) -> Iterator[dict[str, str]]:
        """Publish inside a span; yield the headers that carry it on to the worker.

        Of one request it is a part. What several have given something to begins a trace of its own,
        which is linked to each of theirs.

        Args:
            message: what is published.
            origins: where the requests were, whose documents the message has.
        """
        recorded = [each for each in origins if each and each.trace_flags.sampled]
        headers: dict[str, str] = {}
        if not recorded:
            yield headers
            return
        alone = len(origins) == 1
        with self.span(
            f"publish {message.task}",
            context=trace.set_span_in_context(NonRecordingSpan(recorded[0]), Context())
            if alone
            else Context(),
            links=() if alone else [Link(each) for each in recorded[:MAX_LINKS]],
            kind=SpanKind.PRODUCER,
            attributes={"messaging.destination.name": message.queue},
        ):
            _PROPAGATOR.inject(headers)
            yield headers

    @contextmanager
    def span(self, name: str, **options: Any) -> Iterator[None]:
        """Do what is inside as a span; an error is named by its type alone."""
        with self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False, **options
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(StatusCode.ERROR)
                raise


class ToldExporter(SpanExporter):
    """Exports, and says once that it fails, and once that it succeeds again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._said = Failing(logger, "traces cannot be exported", "traces are exported again")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export; whatever is wrong, nothing is raised."""
        reason = "the collector does not take them"
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001  # traces may be lost, their thread may not
            result, reason = SpanExportResult.FAILURE, type(error).__name__
        if result is SpanExportResult.SUCCESS:
            self._said.succeeded()
        else:
            self._said.failed(reason)
        return result

    def shutdown(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()


class _Linked(Sampler):
    """Records what is linked to recorded traces; asks another sampler about all else."""

    def __init__(self, otherwise: Sampler) -> None:
        self._otherwise = otherwise

    @override
    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        if links:
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        return self._otherwise.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    @override
    def get_description(self) -> str:
        return f"Linked({self._otherwise.get_description()})"


def sampler(share: float) -> Sampler:
    """Return what records whatever goes on with a recorded trace, and a share of what begins."""
    return ParentBased(_Linked(TraceIdRatioBased(share)))
