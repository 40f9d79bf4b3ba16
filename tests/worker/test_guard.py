from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]  # not in stubs
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Reject
from celery.worker import state
from celery.worker.request import Request

from shared.dead import FaultKind, MalformedHeaders, check_headers
from worker.deaths import Death, death_of
from worker.guard import SafeConsumer, SafeRequest

FINE: dict[str, Any] = {"id": "p.1", "task": "documents.ingest"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"timelimit": None, "eta": None, "expires": None, "retries": 0},
        {"timelimit": [None, None]},
        {"timelimit": (300, 1.5)},
        {"retries": 3},
        {"eta": "2026-11-21T10:00:00+00:00"},
        {"expires": "2026-11-21T10:00:00.123456Z"},
        {"unknown": object()},
    ],
)
def test_headers_as_our_senders_write_them_pass(headers: dict[str, Any]) -> None:
    check_headers(FINE | headers)


@pytest.mark.parametrize("headers", [None, [], "id task", 5])
def test_headers_that_are_none_are_malformed(headers: object) -> None:
    with pytest.raises(MalformedHeaders, match="there are none"):
        check_headers(headers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", None),
        ("id", ""),
        ("id", 5),
        ("task", None),
        ("task", ""),
        ("task", ["documents.ingest"]),
        ("retries", "abc"),
        ("retries", None),
        ("retries", 1.5),
        ("timelimit", "abc"),
        ("timelimit", ["a", "b"]),
        ("timelimit", [1]),
        ("timelimit", [1, 2, 3]),
        ("timelimit", [0, 0]),
        ("timelimit", [-1, None]),
        ("timelimit", [None, float("nan")]),
        ("timelimit", {}),
        ("timelimit", 5),
        ("timelimit", 0),
        ("eta", "soon"),
        ("eta", 5),
        ("eta", ""),
        ("expires", "2026-13-41"),
        ("expires", {}),
    ],
)
def test_what_celery_would_trip_over_is_named(name: str, value: object) -> None:
    with pytest.raises(MalformedHeaders, match=name):
        check_headers(FINE | {name: value})


@pytest.mark.parametrize("name", ["id", "task"])
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(MalformedHeaders, match=name):
        check_headers({key: value for key, value in FINE.items() if key != name})


def test_celery_still_calls_what_the_guards_replace() -> None:
    """A new release that renames one of them would switch the guard off without a word."""
    for guard, name in (
        (SafeConsumer, "on_decode_error"),
        (SafeConsumer, "create_task_handler"),
        (SafeConsumer, "on_send_event_buffered"),
        (SafeRequest, "revoked"),
        (SafeRequest, "on_failure"),
    ):
        assert name in vars(guard)
        assert any(name in vars(parent) for parent in guard.__mro__[1:]), name


def test_a_request_is_never_taken_for_revoked() -> None:
    request = Mock(spec=SafeRequest, id="p.1", expires=None)
    assert SafeRequest.revoked(request) is False


class Recorded:
    """Stands in for `Deaths`: says when a death is recorded."""

    def __init__(self) -> None:
        self.deaths: list[tuple[str, Death]] = []
        self.then: Callable[[], None] | None = None

    def record(self, task_id: str, death: Death, *, then: Callable[[], None]) -> None:
        self.deaths.append((task_id, death))
        self.then = then


@pytest.fixture
def rejected(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    rejected: list[bool] = []
    monkeypatch.setattr(Request, "reject", lambda _self, requeue=False: rejected.append(requeue))
    return rejected


def test_a_childs_memory_error_is_recorded_and_then_sends_its_message_back(
    monkeypatch: pytest.MonkeyPatch, rejected: list[bool]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    recorded = Recorded()
    monkeypatch.setattr(Request, "on_failure", fail)
    monkeypatch.setattr(SafeRequest, "deaths", recorded)
    request = SafeRequest.__new__(SafeRequest)
    request.id, request.acknowledged = "p.1", False
    request.on_failure(SimpleNamespace(exception=MemoryError()))
    assert recorded.deaths == [("p.1", Death(FaultKind.OUT_OF_MEMORY, ""))]
    assert rejected == []
    request.reject(requeue=True)  # as Celery does on a time limit, twice
    assert len(recorded.deaths) == 1
    assert recorded.then is not None
    recorded.then()
    assert rejected == [True]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (WorkerLostError("signal 9"), FaultKind.CHILD_LOST),
        (SystemExit(1), FaultKind.CHILD_LOST),
        (MemoryError(), FaultKind.OUT_OF_MEMORY),
        (TimeLimitExceeded(5), FaultKind.TIME_LIMIT),
        (ExceptionWithTraceback(MemoryError(), "trace"), FaultKind.OUT_OF_MEMORY),
        (Reject("given back", requeue=True), None),
        (Terminated(15), None),
        (ValueError("raised"), None),
    ],
)
def test_a_death_is_told_from_other_failures(error: BaseException, kind: FaultKind | None) -> None:
    death = death_of(error)
    assert (death and death.kind) == kind


def test_nobody_dies_of_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "should_terminate", 0)
    assert death_of(WorkerLostError("signal 9")) is None


def test_events_wait_for_each_other() -> None:
    """Each sending is a publish; a task has three events, and Celery would send them alone."""
    calls: list[tuple[float, object]] = []
    consumer = SafeConsumer.__new__(SafeConsumer)  # without a worker to belong to
    consumer.hub = SimpleNamespace(call_later=lambda *call: calls.append(call))
    for _ in range(3):
        consumer.on_send_event_buffered()
    assert calls == [(0.1, consumer._flush_events)]
    consumer._events_leave_at = 0.0  # as a tenth of a second later
    consumer.on_send_event_buffered()
    assert len(calls) == 2
