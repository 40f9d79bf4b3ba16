"""Statistics over HTTP; what a worker would store is stored by the test."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx2
import pytest

from api.schemas.stats import MAX_KEYS, MAX_POINTS, Range, StatsQuery
from shared.store import search
from tests.shared.store.samples import Sender, document_id, put
from tests.stack import ledger, poll

pytestmark = pytest.mark.rabbitmq

NOW = datetime(2026, 11, 21, 10, 15, 30, tzinfo=UTC)
ISO = "%Y-%m-%dT%H:%M:%SZ"


def stats(client: httpx2.Client, **parameters: str | int) -> dict[str, Any]:
    response = client.get("/v1/stats", params=parameters)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def summed(found: dict[str, Any], name: str) -> int:
    return sum(point[name] for point in found["points"])


def test_without_documents_all_points_are_zeros(client: httpx2.Client, sender: Sender) -> None:
    found = stats(client)
    assert found["interval"] == "minute"
    assert len(found["points"]) == 60
    assert summed(found, "accepted") == 0
    assert found["documents"]["total"] == 0
    assert found["rates"] == {"seconds": 60, "accepted": 0, "stored": 0}
    times = [datetime.fromisoformat(point["at"]) for point in found["points"]]
    assert {later - time for time, later in pairwise(times)} == {timedelta(minutes=1)}
    assert timedelta(0) <= datetime.now(UTC) - times[-1] < timedelta(minutes=1, seconds=5)


@pytest.mark.parametrize("interval", ["minute", "hour", "day"])
def test_folded_and_unfolded_documents_are_counted(
    client: httpx2.Client, sender: Sender, interval: str
) -> None:
    sender.send(put(document_id(1), 10, "alpha", source="mail"), put(document_id(2), 10, "bad"))
    sender.fold()
    sender.send(put(document_id(3), 10, "alpha"), put(document_id(4), 10, "beta"))
    sender.mark()
    found = stats(client, interval=interval, by="category")
    for name, expected in (("accepted", 4), ("stored", 3), ("failed", 1), ("dead", 0)):
        assert summed(found, name) == expected
    by_category = [
        (each["category"], each["stored"], each["failed"])
        for point in found["points"]
        for each in point["categories"]
    ]
    assert {category for category, _, _ in by_category} == {None, "alpha", "beta"}
    assert sum(stored for category, stored, _ in by_category if category == "alpha") == 2
    assert sum(failed for category, _, failed in by_category if category is None) == 1
    assert found["documents"] == {
        "total": 4,
        "by_status": {"counts": {"stored": 3, "failed": 1}, "others": 0},
        "by_category": {"counts": {"alpha": 2, "beta": 1}, "others": 0},
        "by_source": {"counts": {"mail": 1}, "others": 0},
    }
    account = ledger(client)
    assert summed(found, "accepted") == account["accepted"] - account["in_flight"]


def test_the_lag_of_the_search_grows_until_documents_are_indexed(
    client: httpx2.Client, sender: Sender
) -> None:
    assert stats(client)["search"] == {"lag_seconds": 0}
    sender.send(put(document_id(1), 10, "alpha"))
    poll(lambda: stats(client)["search"]["lag_seconds"], lambda lag: lag > 0.1, seconds=10)
    with sender.database.transaction() as session:
        search.index(session)
    assert stats(client)["search"] == {"lag_seconds": 0}


def test_one_category_alone(client: httpx2.Client, sender: Sender) -> None:
    sender.send(put(document_id(1), 10, "alpha"), put(document_id(2), 10, "beta"))
    found = stats(client, category="beta")
    assert summed(found, "stored") == 1
    assert all(point["categories"] is None for point in found["points"])
    assert summed(stats(client, category="nothing"), "accepted") == 0


def test_rates_and_more_keys_than_are_told(client: httpx2.Client, sender: Sender) -> None:
    sender.send(*(put(document_id(each), 10, f"c{each}") for each in range(MAX_KEYS + 20)))
    found = stats(client)
    assert found["rates"]["stored"] == 2
    by_category = found["documents"]["by_category"]
    assert (len(by_category["counts"]), by_category["others"]) == (MAX_KEYS, 20)


def test_a_part_of_the_series(client: httpx2.Client, sender: Sender) -> None:
    sender.send(put(document_id(1), 10, "alpha"))
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start, end = today - timedelta(days=3), today - timedelta(days=1)
    values = {"interval": "day", "from": start.strftime(ISO), "to": end.strftime(ISO)}
    found = stats(client, **values)
    assert [point["at"] for point in found["points"]] == [
        (start + timedelta(days=each)).isoformat() for each in range(2)
    ]
    assert summed(found, "accepted") == 0


@pytest.mark.parametrize(
    ("parameters", "pointer"),
    [
        ({"interval": "week"}, "/query/interval"),
        ({"from": "yesterday"}, "/query/from"),
        ({"from": "2026-11-21T10:00:00"}, "/query/from"),
        ({"interval": "day", "from": "1970-01-01T00:00:00Z"}, "/query/from"),
        ({"by": "source"}, "/query/by"),
        ({"category": ""}, "/query/category"),
        ({"start": "2026-11-21T10:00:00Z"}, "/query/start"),
        ({"until": "2026-11-21T10:00:00Z"}, "/query/until"),
    ],
)
def test_wrong_parameters_are_named(
    client: httpx2.Client, parameters: dict[str, str], pointer: str
) -> None:
    response = client.get("/v1/stats", params=parameters)
    assert response.status_code == 422
    assert [each["pointer"] for each in response.json()["errors"]] == [pointer]


def asked(interval: str, start: str | None = None, end: str | None = None) -> Range:
    values = {"interval": interval, "from": start, "to": end}
    return Range.of(StatsQuery.model_validate(values), NOW)


def test_the_current_interval_is_the_last() -> None:
    found = asked("hour")
    assert found.end == datetime(2026, 11, 21, 11, tzinfo=UTC)
    assert len(found.times) == 60
    assert asked("hour", end="2026-11-21T10:00:00Z").times[-1].hour == 9
    assert asked("hour", end="2026-11-21T12:00:00+02:00").times[-1].hour == 9


def test_what_is_not_kept_any_more_is_left_out() -> None:
    found = asked("minute", "2026-11-19T10:00:00Z", "2026-11-19T10:20:00Z")
    assert found.kept_from == datetime(2026, 11, 19, 10, 16, tzinfo=UTC)
    assert found.times == [found.kept_from + timedelta(minutes=each) for each in range(4)]
    assert asked("minute", "2025-01-01T00:00:00Z", "2025-01-01T01:00:00Z").times == []
    assert len(asked("day", "2023-01-01T00:00:00Z", "2026-11-21T00:00:00Z").times) == 1420


@pytest.mark.parametrize("interval", ["minute", "hour", "day"])
@pytest.mark.parametrize(
    "time",
    ["2026-11-21T00:00:00+23:59", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-12:00"],
)
def test_any_time_there_is_can_be_asked_for(interval: str, time: str) -> None:
    found = asked(interval, "2026-11-21T00:00:00Z", time)
    assert len(found.times) <= MAX_POINTS
    assert len(found.times) == 0 or found.times[-1] < NOW
    assert asked(interval, end=time).start < NOW
