"""Over `BACKLOG_LIMIT` nothing more is accepted, until enough is worked off."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
import pytest
import structlog
from kombu import Connection

import shared.spool  # noqa: F401  # registers the transport
from api.backlog import Backlog
from shared.errors import BacklogFull
from tests.shared.broker import depth, take_all
from tests.stack import Api, ledger, poll, running

BROKERS = (pytest.param("rabbitmq", marks=pytest.mark.rabbitmq), "spool")


def test_it_is_full_above_its_limit_only() -> None:
    backlog = Backlog(2)
    for messages, full in ((0, False), (2, False), (3, True), (2, False)):
        backlog.observe(messages)
        assert backlog.full is full
    backlog.observe(5)
    with pytest.raises(BacklogFull, match=r"5 messages .* 2 may"):
        backlog.check()


def test_a_change_is_logged_once() -> None:
    backlog = Backlog(2)
    with structlog.testing.capture_logs() as logs:
        for messages in (1, 2, 3, 4, 5, 1, 0):
            backlog.observe(messages)
    assert [each["event"] for each in logs] == [
        "backlog is over its limit",
        "backlog is within its limit again",
    ]


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "spool":
        return f"spool://{tmp_path / 'spool'}"
    found: str = request.getfixturevalue("broker_url")
    return found


def post(client: httpx2.Client) -> httpx2.Response:
    return client.post("/v1/documents", json={"content": "fine"})


def test_over_the_limit_documents_are_refused_until_it_recovers(
    url: str, database_url: str, tmp_path: Path, processes: ExitStack
) -> None:
    api = Api(tmp_path / "api", database_url, url, BACKLOG_LIMIT="2")
    running(processes, api)
    client = processes.enter_context(api.client())
    poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, seconds=15)
    accepted = 0

    def full() -> bool:
        nonlocal accepted
        response = post(client)
        accepted += response.status_code == 202
        return response.status_code == 503

    poll(full, bool, seconds=15)
    refusal = post(client)
    assert refusal.status_code == 503
    assert refusal.headers["Retry-After"] == "5"
    assert "wait to be processed" in refusal.json()["detail"]
    assert refusal.elapsed.total_seconds() < 0.5
    batch = client.post("/v1/documents/batch", json=[{"content": "fine"}])
    assert batch.status_code == 503
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "BACKLOG_LIMIT" in ready.json()["broker"]
    assert ready.json()["database"] == "ok"
    assert client.get("/v1/documents").status_code == 200

    assert depth(url, "ingest") == accepted > 2  # no message of those refused
    assert len(list(take(url))) == accepted
    poll(lambda: post(client).status_code, lambda status: status == 202, seconds=15)
    assert client.get("/readyz").status_code == 200
    lines = api.logged()
    assert lines.count("backlog is over its limit") == 1
    assert lines.count("backlog is within its limit again") == 1
    account = poll(lambda: ledger(client), lambda found: found["accepted"] > accepted, seconds=5)
    assert (account["accepted"], account["void"]) == (accepted + 1, 0)


def take(url: str) -> list[Any]:
    """Take all messages, as a worker would."""
    if url.startswith("amqp"):
        return list(take_all(url, "ingest"))
    taken: list[Any] = []
    channel: Any
    with Connection(url) as connection, connection.channel() as channel:
        while message := channel.basic_get("ingest", no_ack=True):
            taken.append(message)
    return taken


def test_what_waits_came_after_the_queue_was_empty() -> None:
    backlog = Backlog(2)
    backlog.observe(1)
    assert backlog.seconds_since_empty is None
    with patch("api.backlog.monotonic", side_effect=[10.0, 17.0]):
        backlog.observe(0)
        backlog.observe(3)
        assert backlog.seconds_since_empty == 7
