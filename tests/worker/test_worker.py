"""A real worker on a real broker: what it is sent, what kills it, what it waits for."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from api.intake import MESSAGE_BYTES
from local.postgres import Postgres
from tests.conftest import migrate
from tests.shared.broker import consumers, depth, put_raw, wait_for_depth
from tests.shared.store.samples import document_id
from tests.stack import Worker, poll, running
from tests.worker.bench import CASES, Bench, body, document, headers

pytestmark = pytest.mark.rabbitmq


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


def test_what_cannot_be_processed_is_dead_and_the_worker_goes_on(bench: Bench) -> None:
    for content, head, properties, _ in CASES.values():
        put_raw(bench.broker_url, "ingest", content, headers=head, **properties)
    poll(lambda: len(bench.letters()), lambda found: found == len(CASES), 60)
    letters = bench.letters()
    kept = [
        (letter["reason"], bytes(letter["payload"]), letter["headers"].get("producer_id"))
        for letter in letters
    ]
    sent = [
        (reason, content, (head or {}).get("producer_id"))
        for content, head, _, reason in CASES.values()
    ]
    assert sorted(kept, key=str) == sorted(sent, key=str)
    totals = bench.totals()
    counted = sum(letter["documents"] for letter in letters if letter["producer_id"])
    assert (totals.dead, totals.in_flight) == (counted, 0)
    wait_for_depth(bench.broker_url, "dead", 0)
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
        put_raw(bench.broker_url, "ingest", content, headers=head)

    def unsettled() -> list[dict[str, Any]]:
        dead = {letter["producer_id"] for letter in bench.letters()}
        return [
            changes
            for number, changes in enumerate(odd, first)
            if UUID(int=number, version=4) not in dead
            and bench.task_id(document_id(number)) is None
        ]

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
    assert bench.letters(producer_id=str(bench.publisher.account.producer_id)) == []
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


def test_a_worker_tells_its_state_when_flower_asks(bench: Bench) -> None:
    """Its connection's options hold a function, which is no JSON."""
    inspect = bench.app.control.inspect(timeout=2)
    (found,) = poll(lambda: list((inspect.stats() or {}).values()), bool, 30)
    assert found["pool"]["max-concurrency"] == 2


def test_a_worker_does_not_show_the_documents_that_it_works_on(bench: Bench) -> None:
    """Celery's main process would decode them to tell them, and to send them to a child twice."""
    before = bench.processed()
    with bench.database.transaction() as session:
        session.execute(text("LOCK TABLE documents"))
        envelope = bench.send(document(document_id(200), "for nobody else"))
        inspect = bench.app.control.inspect(timeout=2)
        (working,) = poll(lambda: [*filter(None, (inspect.active() or {}).values())], bool, 30)
    assert [(each["id"], each["args"], each["kwargs"]) for each in working] == [
        (envelope.task_id, [], {})
    ]
    bench.wait_for(before + 1)


def test_a_message_fits_into_a_childs_pipe(bench: Bench) -> None:
    """Those that the main process writes into; the way back is short."""
    for child in bench.children():
        read_from = []
        for link in Path(f"/proc/{child.pid}/fd").iterdir():
            if link.readlink().name.startswith("pipe:"):
                with suppress(PermissionError):
                    descriptor = os.open(link, os.O_RDONLY | os.O_NONBLOCK)
                    read_from.append(fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ))
                    os.close(descriptor)
        assert max(read_from) >= 4 * MESSAGE_BYTES
