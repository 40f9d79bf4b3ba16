"""A real worker on a real broker: what it is sent, what kills it, what it waits for."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

import orjson
import psutil
import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from local.postgres import Postgres
from shared.account import Account
from shared.db import Database
from shared.messages import INGEST, Envelope
from shared.queue import Publisher, celery_app
from shared.revision import DAY, microseconds_now
from shared.store import ledger
from tests.conftest import migrate
from tests.shared.broker import consumers, depth, put_raw, take_all, wait_for_depth
from tests.shared.store.samples import document_id
from tests.stack import Worker, poll, running

pytestmark = pytest.mark.rabbitmq

QUICK = {"WORKER_CONCURRENCY": "2", "RETRY_INITIAL_SECONDS": "0.1", "RETRY_MAX_SECONDS": "0.3"}


def document(key: str, content: str = "a text", **more: Any) -> dict[str, Any]:
    stamp = microseconds_now()
    accepted_at = "2026-11-21T10:00:00+00:00"
    return {"id": key, "stamp": stamp, "accepted_at": accepted_at, "content": content, **more}


class Bench:
    """A worker, its broker and its database, and a publisher that feeds it."""

    def __init__(self, folder: Path, database_url: str, broker_url: str) -> None:
        self.broker_url = broker_url
        self.app = celery_app(broker_url)
        self.publisher = Publisher(self.app, Account(uuid7()))
        self.publisher.declare()
        url = database_url.replace("postgresql://", "postgresql+psycopg2://")
        self.database = Database(url, pool_size=2, statement_seconds=10, application="bench")
        self.worker = Worker(folder / "worker", database_url, broker_url, **QUICK)

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

    def still_works(self, key: str) -> None:
        envelope = self.send(document(key))
        poll(lambda: self.task_id(key), lambda found: found == envelope.task_id, 20)

    def close(self) -> None:
        self.publisher.close()
        self.database.close()


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, module_broker_url: str
) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("bench"), module_database_url, module_broker_url)
    with ExitStack() as stack:
        stack.callback(bench.close)
        running(stack, bench.worker)
        yield bench


# --- Messages that cannot be processed -----------------------------------------------------------

Case = tuple[bytes, dict[str, Any] | None, dict[str, Any]]


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
DEAD: dict[str, Case] = {
    "undecodable": (b'[[], {"documents"', headers(1), {}),
    "not UTF-8": (b"\xff\xfe\x00", headers(2), {}),
    "no headers": (FINE, None, {}),
    "no headers and undecodable": (b"{", None, {}),
    "unknown task": (FINE, headers(3, task="documents.eat"), {}),
    "no task": (FINE, headers(4, task=...), {}),
    "task is a list": (FINE, headers(5, task=["documents.ingest"]), {}),
    "no id": (FINE, headers(6, id=...), {}),
    "unknown content type": (FINE, headers(7), {"content_type": "application/x-python-serialize"}),
    "no such compression": (FINE, headers(8, compression="application/x-nothing"), {}),
    "bad compression": (FINE, headers(9, compression="application/x-gzip"), {}),
    "wrong arguments": (b'[[], {"nothing": 1}, {}]', headers(10), {}),
    "positional arguments": (b'[[1, 2], {}, {}]', headers(11), {}),
    "body is an object": (b"{}", headers(12), {}),
    "body is a text": (b'"x"', headers(13), {}),
    "body is short": (b"[1]", headers(14), {}),
    "body is null": (b"null", headers(15), {}),
    "time limit is a text": (FINE, headers(16, timelimit="abc"), {}),
    "time limits are texts": (FINE, headers(17, timelimit=["a", "b"]), {}),
    "time limit below zero": (FINE, headers(29, timelimit=[-1, None]), {}),
    "retries is a text": (FINE, headers(18, retries="abc"), {}),
    "no such time": (FINE, headers(19, eta="soon"), {}),
    "expires at no time": (FINE, headers(20, expires="never"), {}),
    "version of tomorrow": (FINE, headers(21, version=99), {}),
    "no envelope": (FINE, {"id": "x", "task": INGEST.task}, {}),
    "another number of documents": (FINE, headers(22, documents=2), {}),
    "no documents": (body(), headers(30, documents=0, through=0), {}),
    "documents are no list": (b'[[], {"documents": {}}, {}]', headers(23), {}),
    "a document has no content": (b'[[], {"documents": [{"id": "x"}]}, {}]', headers(24), {}),
    "older than the tombstones": (body(document(document_id(2)) | {"stamp": OLD}), headers(25), {}),
    "id is no UUID": (body(document("x")), headers(26), {}),
    "accepted at no time": (
        body(document(document_id(3)) | {"accepted_at": "tomorrow-ish"}), headers(27), {}
    ),
    "NUL": (body(document(document_id(4), "a\0b")), headers(28), {}),
}  # fmt: skip


def test_what_cannot_be_processed_is_dead_and_the_worker_goes_on(bench: Bench) -> None:
    for name, (content, head, properties) in DEAD.items():
        put_raw(
            bench.broker_url, "ingest", content, headers=head, correlation_id=name, **properties
        )
    wait_for_depth(bench.broker_url, "dead", len(DEAD), 40)
    dead = {}
    for message in take_all(bench.broker_url, "dead"):
        content = message.body
        raw = content.encode() if isinstance(content, str) else bytes(content)
        dead[message.properties["correlation_id"]] = raw
        (death,) = message.headers["x-death"]
        assert (death["reason"], death["queue"]) == ("rejected", "ingest")
    assert dead == {name: content for name, (content, _, _) in DEAD.items()}
    assert bench.totals().accepted == bench.processed()
    with bench.database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM documents")) == 0
    bench.still_works(document_id(100))
    assert depth(bench.broker_url, "ingest") == 0


def test_odd_headers_never_stop_the_worker(bench: Bench) -> None:
    """Whatever becomes of the message: it is either dead or stored, and the next one is stored."""
    odd: list[dict[str, Any]] = [
        {"group": 5}, {"parent_id": ["x"]}, {"root_id": {}}, {"shadow": 5}, {"argsrepr": 5},
        {"kwargsrepr": []}, {"origin": 5}, {"ignore_result": "x"}, {"replaced_task_nesting": "x"},
        {"stamped_headers": 5}, {"stamps": "x"}, {"lang": 5}, {"utc": "x"}, {"reply_to": 5},
        {"timelimit": [60, 30]}, {"retries": -1}, {"retries": True},
        {"expires": "2020-01-01T00:00:00+00:00"}, {"eta": "2020-01-01T00:00:00"},
        {"x-delivery-count": "x"}, {"errbacks": 5}, {"chain": "x"}, {"delivery_info": 5},
    ]  # fmt: skip
    first = 200
    for number, changes in enumerate(odd, first):
        content = body(document(document_id(number)))
        head = headers(number, **changes)
        put_raw(bench.broker_url, "ingest", content, headers=head, correlation_id=str(number))

    def unsettled() -> list[dict[str, Any]]:
        dead.extend(m.properties["correlation_id"] for m in take_all(bench.broker_url, "dead"))
        return [
            changes
            for number, changes in enumerate(odd, first)
            if str(number) not in dead and bench.task_id(document_id(number)) is None
        ]

    dead: list[str] = []
    poll(unsettled, lambda left: not left, 40)
    bench.still_works(document_id(101))


def test_a_revoked_message_runs(bench: Bench) -> None:
    account = bench.publisher.account
    task_id = f"{account.producer_id}.{account.mark().seq + 1}"
    bench.app.control.revoke(task_id)
    poll(bench.worker.logged, lambda log: f"flagged as revoked: {task_id}" in log, 20)
    bench.still_works(document_id(102))
    assert bench.task_id(document_id(102)) == task_id


# --- Deaths --------------------------------------------------------------------------------------


def feed(bench: Bench, messages: int, first: int) -> int:
    """Publish messages of five documents each; return how many were processed before."""
    before = bench.processed()
    for number in range(messages):
        keys = [document_id(first + 5 * number + at) for at in range(5)]
        bench.send(*(document(key, f"text of {key} " * 20) for key in keys))
    return before


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_a_kill_loses_nothing(bench: Bench, victim: str) -> None:
    before = feed(bench, 150, first=1_000 if victim == "child" else 10_000)
    for share in (100, 300, 500):
        bench.wait_for_at_least(before + share)
        if victim == "child":
            bench.children()[0].kill()
        elif share == 300:
            bench.worker.kill()
            assert bench.processed() < before + 750
            bench.worker.start()
            bench.worker.wait_ready()
    bench.wait_for(before + 750)
    assert bench.totals().in_flight == 0
    producer = str(bench.publisher.account.producer_id)
    dead = [message.headers for message in take_all(bench.broker_url, "dead")]
    assert [each for each in dead if each["producer_id"] == producer] == []
    assert depth(bench.broker_url, "ingest") == 0


# --- Patience ------------------------------------------------------------------------------------


def test_messages_wait_while_the_database_is_away_and_go_back_on_a_stop(
    own_postgres: Postgres, broker_url: str, tmp_path: Path, processes: ExitStack
) -> None:
    url = own_postgres.create_database("postroom_away")
    migrate(url)
    bench = Bench(tmp_path, url, broker_url)
    processes.callback(bench.close)
    running(processes, bench.worker)
    bench.still_works(document_id(1))

    own_postgres.stop()
    for number in range(10, 20):
        bench.send(document(document_id(number)))
    poll(bench.worker.logged, lambda log: "waiting for the database" in log, 20)
    start = monotonic()
    # Two are with the children, one with each; the others wait in the queue.
    poll(lambda: depth(broker_url, "ingest"), lambda found: found <= 8, 20)
    poll(monotonic, lambda now: now > start + 2, 20)
    assert depth(broker_url, "dead") == 0
    own_postgres.start()
    own_postgres.wait_ready()
    bench.wait_for(11)

    own_postgres.stop()
    log_before = bench.worker.logged().count("waiting for the database")
    for number in range(20, 24):
        bench.send(document(document_id(number)))
    poll(
        lambda: bench.worker.logged().count("waiting for the database"),
        lambda found: found > log_before,
        20,
    )
    start = monotonic()
    bench.worker.stop(patience=30)
    assert monotonic() - start < 15
    wait_for_depth(broker_url, "ingest", 4)
    assert depth(broker_url, "dead") == 0


# --- Queues --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "consumed"),
    [("", {"ingest", "maintain"}), ("maintain", {"maintain"}), ("ingest , ingest", {"ingest"})],
)
def test_a_worker_consumes_the_queues_that_it_is_told(
    tmp_path: Path,
    database_url: str,
    broker_url: str,
    processes: ExitStack,
    told: str,
    consumed: set[str],
) -> None:
    worker = Worker(tmp_path, database_url, broker_url, WORKER_QUEUES=told, WORKER_CONCURRENCY="1")
    running(processes, worker)
    found = {queue: consumers(broker_url, queue) for queue in ("ingest", "maintain", "dead")}
    assert found == {queue: int(queue in consumed) for queue in found}
