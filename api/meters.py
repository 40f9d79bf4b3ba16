"""What this process counts and measures while it works; `api.metrics` tells it to Prometheus.

The hot path goes through here, so what has labels is looked up once and kept.
"""

import contextlib
from collections.abc import Iterator
from functools import cache
from time import perf_counter
from typing import Any, Final, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from starlette.types import Scope

from api.responses import DOCUMENTS
from shared.errors import BrokerUnavailable

Way = Literal["upload", "import", "replay", "reclassify"]
"""What brings a message about."""

REGISTRY: Final = CollectorRegistry()

OTHER: Final = "other"
"""The route of pages that are no operation, and of what is not there: any path might be asked for.
Likewise the method of whatever no operation has."""

_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})

_WRITES: Final = frozenset(
    {("POST", DOCUMENTS), ("POST", f"{DOCUMENTS}/batch"), ("PUT", f"{DOCUMENTS}/{{document_id}}")}
)
"""Operations that accept documents."""

# A series for each time at which it was made would double what is told.
disable_created_metrics()  # type: ignore[no-untyped-call]
ProcessCollector(registry=REGISTRY)

_REQUESTS: Final = Histogram(
    "postroom_http_request_duration_seconds",
    "time until a request was answered, as long as it was made to wait",
    ["route", "method", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)
_REFUSED: Final = Counter(
    "postroom_refused_requests",
    "requests that were answered with problem details",
    ["route", "reason"],
    registry=REGISTRY,
)
_REJECTED: Final = Counter(
    "postroom_rejected_documents",
    "documents that were not accepted",
    ["reason"],
    registry=REGISTRY,
)
_PUBLISHED: Final = Counter(
    "postroom_published_documents",
    "documents in messages that the broker has confirmed",
    ["way"],
    registry=REGISTRY,
)
_PUBLISHING: Final = Histogram(
    "postroom_publish_duration_seconds",
    "time until the broker confirmed a message",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
    registry=REGISTRY,
)
_PUBLISH_FAILURES: Final = Counter(
    "postroom_publish_failures",
    "messages that the broker has not confirmed",
    registry=REGISTRY,
)
_MESSAGE_DOCUMENTS: Final = Histogram(
    "postroom_message_documents",
    "documents in a confirmed message",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    registry=REGISTRY,
)


def answered(scope: Scope, status: int, seconds: float) -> None:
    """Count a request that was answered with `status` after so many seconds."""
    _request(route(scope), scope["method"], status // 100).observe(seconds)


def refused(scope: Scope, error: str, documents: int) -> None:
    """Count a request that was refused, and the documents that it brought.

    Args:
        scope: the request's.
        error: such as `ContentTooLarge`.
        documents: that are not accepted.
    """
    template, reason = route(scope), _reason(error)
    _REFUSED.labels(template, reason).inc()
    if (scope["method"], template) in _WRITES:
        rejected(reason, documents)


def rejected(reason: str, documents: int) -> None:
    """Count documents that were refused, while others beside them perhaps were not."""
    if documents:
        _REJECTED.labels(reason).inc(documents)


@contextlib.contextmanager
def publishing(way: Way, documents: int) -> Iterator[None]:
    """Measure the publishing of a message, which is done inside; for any thread."""
    start = perf_counter()
    try:
        yield
    except BrokerUnavailable:
        _PUBLISH_FAILURES.inc()
        raise
    _PUBLISHING.observe(perf_counter() - start)
    _MESSAGE_DOCUMENTS.observe(documents)
    _PUBLISHED.labels(way).inc(documents)


def route(scope: Scope) -> str:
    """Return the template of a request's path, such as `/v1/documents/{document_id}`."""
    found: Any = scope.get("route")
    if found is not None:
        template = getattr(found, "path", "")
        return template if template.startswith("/") else OTHER
    # Answered by the shortcut, before there was a route; else there is none.
    return DOCUMENTS if scope["path"] == DOCUMENTS else OTHER


@cache
def _request(template: str, method: str, hundreds: int) -> Histogram:
    known = method if method in _METHODS else OTHER
    return _REQUESTS.labels(template, known, f"{hundreds}xx")


@cache
def _reason(error: str) -> str:
    """Return an error's name as labels are written: `content_too_large`."""
    letters = [f"_{each.lower()}" if each.isupper() else each for each in error]
    return "".join(letters).lstrip("_")
