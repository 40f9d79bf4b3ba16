"""A worker between a real broker and a real database, and what tests send it."""

from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import psutil
from sqlalchemy import text
from uuid_utils.compat import uuid7

from shared.account import Account
from shared.db import Database
from shared.messages import INGEST, Envelope
from shared.queue import Publisher, celery_app
from shared.revision import DAY, microseconds_now
from shared.store import ledger
from tests.shared.store.samples import document_id
from tests.stack import Worker, poll

QUICK = {"WORKER_CONCURRENCY": "2", "RETRY_INITIAL_SECONDS": "0.1", "RETRY_MAX_SECONDS": "0.3"}


def document(key: str, content: str = "a text", **more: Any) -> dict[str, Any]:
    stamp = microseconds_now()
    accepted_at = "2026-11-21T10:00:00+00:00"
    return {"id": key, "stamp": stamp, "accepted_at": accepted_at, "content": content, **more}


class DeadlyWorker(Worker):
    """A worker whose classifier some words are deadly to, see `tests.deadly`."""

    def arguments(self) -> tuple[str, ...]:
        return ("-m", "tests.deadly")


class Bench:
    """A worker, its broker and its database, and a publisher that feeds it."""

    def __init__(
        self, folder: Path, database_url: str, broker_url: str, worker: type[Worker] = Worker
    ) -> None:
        self.broker_url = broker_url
        self.app = celery_app(broker_url)
        self.publisher = Publisher(self.app, Account(uuid7()))
        self.publisher.declare()
        url = database_url.replace("postgresql://", "postgresql+psycopg2://")
        self.database = Database(url, pool_size=2, statement_seconds=10, application="bench")
        self.worker = worker(folder / "worker", database_url, broker_url, **QUICK)

    def send(self, *documents: dict[str, Any]) -> Envelope:
        return self.publisher.publish(
            INGEST, {"documents": list(documents)}, documents=len(documents), summary="some"
        )

    def task_id(self, document_key: str) -> str | None:
        with self.database.transaction() as session:
            statement = text("SELECT task_id FROM documents WHERE id = :id")
            found: str | None = session.scalar(statement, {"id": document_key})
            return found

    def totals(self) -> ledger.Totals:
        with self.database.transaction() as session:
            return ledger.totals(session)

    def processed(self) -> int:
        totals = self.totals()
        return totals.accepted - totals.in_flight

    def wait_for(self, documents: int, seconds: float = 40) -> None:
        poll(self.processed, lambda found: found == documents, seconds)

    def wait_for_at_least(self, documents: int) -> None:
        poll(self.processed, lambda found: found >= documents, 40)

    def children(self) -> list[psutil.Process]:
        (pid,) = self.worker.pids()
        return [each for each in psutil.Process(pid).children() if each.status() != "zombie"]

    def letters(self, **filters: str) -> list[dict[str, Any]]:
        """Return the dead letters whose columns have these values."""
        where = " AND ".join(["true", *(f"{name} = :{name}" for name in filters)])
        with self.database.transaction() as session:
            found = session.execute(
                text(f"SELECT * FROM dead_letters WHERE {where} ORDER BY id"), filters
            )
            return [dict(row) for row in found.mappings()]

    def still_works(self, key: str) -> None:
        envelope = self.send(document(key))
        poll(lambda: self.task_id(key), lambda found: found == envelope.task_id, 20)

    def close(self) -> None:
        self.publisher.close()
        self.database.close()


# --- Messages that cannot be processed -----------------------------------------------------------

Case = tuple[bytes, dict[str, Any] | None, dict[str, Any], str]
"""Body, headers and properties of a message, and the reason why it is dead."""


def headers(number: int, **changes: Any) -> dict[str, Any]:
    """Return headers of a producer that sends nothing else; `...` takes a header away."""
    envelope = Envelope(UUID(int=number, version=4), seq=1, documents=1, through=1)
    task_id = {"id": envelope.task_id, "task": INGEST.task}
    made = {"lang": "py", **task_id, **envelope.headers(), **changes}
    return {name: value for name, value in made.items() if value is not ...}


def body(*documents: dict[str, Any]) -> bytes:
    return orjson.dumps([[], {"documents": documents}, {}])


OLD = microseconds_now() - 31 * DAY
FINE = body(document(document_id(1)))
TWO = headers(22, documents=2, through=2)
NO_CONTENT = b'[[], {"documents": [{"id": "x"}]}, {}]'
OLDER = body(document(document_id(2)) | {"stamp": OLD})
NO_TIME = body(document(document_id(3)) | {"accepted_at": "tomorrow-ish"})
CASES: dict[str, Case] = {
    "undecodable": (b'[[], {"documents"', headers(1), {}, "undecodable"),
    "not UTF-8": (b"\xff\xfe\x00", headers(2), {}, "undecodable"),
    "no headers": (FINE, None, {}, "malformed_headers"),
    "no headers and undecodable": (b"{", None, {}, "malformed_headers"),
    "unknown task": (FINE, headers(3, task="documents.eat"), {}, "unknown_task"),
    "no task": (FINE, headers(4, task=...), {}, "malformed_headers"),
    "task is a list": (FINE, headers(5, task=["documents.ingest"]), {}, "malformed_headers"),
    "no id": (FINE, headers(6, id=...), {}, "malformed_headers"),
    "unknown content type": (FINE, headers(7), {"content_type": "text/yaml"}, "undecodable"),
    "no such compression": (FINE, headers(8, compression="x-nothing"), {}, "undecodable"),
    "bad compression": (FINE, headers(9, compression="application/x-gzip"), {}, "undecodable"),
    "wrong arguments": (b'[[], {"nothing": 1}, {}]', headers(10), {}, "invalid_payload"),
    "positional arguments": (b'[[1, 2], {}, {}]', headers(11), {}, "invalid_payload"),
    "body is an object": (b"{}", headers(12), {}, "invalid_payload"),
    "body is a text": (b'"x"', headers(13), {}, "invalid_payload"),
    "body is short": (b"[1]", headers(14), {}, "invalid_payload"),
    "body is null": (b"null", headers(15), {}, "invalid_payload"),
    "time limit is a text": (FINE, headers(16, timelimit="abc"), {}, "malformed_headers"),
    "time limits are texts": (FINE, headers(17, timelimit=["a", "b"]), {}, "malformed_headers"),
    "time limit below zero": (FINE, headers(29, timelimit=[-1, None]), {}, "malformed_headers"),
    "retries is a text": (FINE, headers(18, retries="abc"), {}, "malformed_headers"),
    "no such time": (FINE, headers(19, eta="soon"), {}, "malformed_headers"),
    "expires at no time": (FINE, headers(20, expires="never"), {}, "malformed_headers"),
    "version of the day before yesterday": (FINE, headers(31, version=0), {}, "unreadable_version"),
    "version of tomorrow": (FINE, headers(21, version=99), {}, "unreadable_version"),
    "no envelope": (FINE, {"id": "x", "task": INGEST.task}, {}, "malformed_headers"),
    "another number of documents": (FINE, TWO, {}, "invalid_payload"),
    "no documents": (body(), headers(30, documents=0, through=0), {}, "invalid_payload"),
    "documents are no list": (b'[[], {"documents": {}}, {}]', headers(23), {}, "invalid_payload"),
    "a document has no content": (NO_CONTENT, headers(24), {}, "invalid_payload"),
    "older than the tombstones": (OLDER, headers(25), {}, "too_old"),
    "id is no UUID": (body(document("x")), headers(26), {}, "failed"),
    "accepted at no time": (NO_TIME, headers(27), {}, "failed"),
    "NUL": (body(document(document_id(4), "a\0b")), headers(28), {}, "failed"),
}  # fmt: skip
