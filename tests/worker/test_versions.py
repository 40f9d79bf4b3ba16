"""Messages of the release before are read; those of one before it are dead letters."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
from kombu import Connection
from sqlalchemy import text

from shared.db import Database
from shared.messages import VERSION
from shared.queue import declare
from shared.revision import microseconds_now
from shared.store import ledger
from tests.shared.broker import put_raw, take_all, wait_for_depth
from tests.stack import Worker, poll, processes, running

__all__ = ["processes"]

pytestmark = pytest.mark.rabbitmq

PRODUCER = "0198c0de-0000-7000-8000-000000000001"
DOCUMENT = "0198c0de-0000-4000-8000-000000000002"


def as_released(seq: int, version: int) -> tuple[bytes, dict[str, Any]]:
    """Return body and headers as the release with payloads of version 1 wrote them, literally."""
    task_id = f"{PRODUCER}.{seq}"
    body = (
        b'[[],{"documents":[{"id":"%s","stamp":%d,'
        b'"accepted_at":"2026-11-21T10:00:00+00:00","content":"The shuttle will launch on Monday.",'
        b'"request_id":"r","may_exist":true,"metadata":{"a":1},"source":"forum",'
        b'"external_id":"x","label":null}]},'
        b'{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'
    ) % (DOCUMENT.encode(), microseconds_now())
    headers: dict[str, Any] = {
        "lang": "py",
        "task": "documents.ingest",
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": "1 document",
        "kwargsrepr": "",
        "origin": "gen1@host",
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        "producer_id": PRODUCER,
        "seq": seq,
        "documents": 1,
        "through": seq,
        "version": version,
    }
    return body, headers


def test_the_previous_version_is_stored_and_the_one_before_it_a_dead_letter(
    broker_url: str, database_url: str, tmp_path: Path, processes: ExitStack
) -> None:
    # It leaves the dead letters where they are: those are read by who consumes `maintain`.
    worker = Worker(
        tmp_path / "worker",
        database_url,
        broker_url,
        WORKER_CONCURRENCY="1",
        WORKER_QUEUES="ingest",
    )
    with Connection(broker_url) as connection:
        declare(connection)
    for seq, version in ((1, VERSION - 2), (2, VERSION - 1)):
        body, headers = as_released(seq, version)
        put_raw(broker_url, "ingest", body, headers=headers, correlation_id=headers["id"])
    running(processes, worker)
    url = database_url.replace("postgresql://", "postgresql+psycopg2://")
    database = Database(url, pool_size=1, statement_seconds=10, application="postroom-test")
    processes.callback(database.close)

    def totals() -> ledger.Totals:
        with database.transaction() as session:
            return ledger.totals(session)

    found = poll(totals, lambda found: found.stored == 1, seconds=30)
    assert (found.accepted, found.in_flight) == (2, 1)
    with database.transaction() as session:
        row = session.execute(text("SELECT id::text, task_id, metadata FROM documents")).one()
    assert tuple(row) == (DOCUMENT, f"{PRODUCER}.2", {"a": 1})
    wait_for_depth(broker_url, "dead", 1)
    (dead,) = take_all(broker_url, "dead")
    assert dead.headers["version"] == VERSION - 2
    assert dead.headers["id"] == f"{PRODUCER}.1"
    assert orjson.loads(dead.body)[1]["documents"][0]["id"] == DOCUMENT
    assert f"version {VERSION - 2} is not readable" in worker.logged()
