from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from celery.worker.request import Request

from shared.dead import MalformedHeaders, check_headers
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


def test_a_childs_memory_error_sends_its_message_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Request, "on_failure", fail)
    request = SafeRequest.__new__(SafeRequest)
    rejected: list[bool] = []
    monkeypatch.setattr(
        SafeRequest, "reject", lambda _self, requeue=False: rejected.append(requeue)
    )
    request.on_failure(None)
    assert rejected == [True]


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
