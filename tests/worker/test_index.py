"""Ticks of the indexer: how long one takes, and what a killed worker leaves to the next."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from sqlalchemy import text

from shared.db import Database
from shared.messages import INDEX_DOCUMENTS
from shared.store import search
from tests.shared.store.samples import Sender, document_id, open_empty, put
from tests.stack import poll, running
from tests.worker.bench import Bench, document
from worker.app import runtime
from worker.tasks import index_documents

Count = Callable[[str], int]


@pytest.fixture
def database(module_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    database = open_empty(module_database_url)
    monkeypatch.setattr(runtime, "database", database)
    yield database
    database.close()


@pytest.fixture
def count(database: Database) -> Count:
    def rows(table: str) -> int:
        with database.transaction() as session:
            return int(session.scalar(text(f"SELECT count(*) FROM {table}")) or 0)

    return rows


def fill(database: Database, documents: int, accepted: str) -> None:
    """Store short documents, accepted at that time, a hundred a message."""
    sender, numbers = Sender(database), range(1, documents + 1)
    for start in range(0, documents, 100):
        sender.send(*(put(document_id(n), 1, f"apple {n}") for n in numbers[start : start + 100]))
    with database.transaction() as session:
        session.execute(text(f"UPDATE documents SET accepted_at = {accepted}"))


def tick() -> None:
    index_documents.index_documents.run()


def test_a_tick_indexes_all_that_waits(database: Database, count: Count) -> None:
    fill(database, 3 * search.BATCH_DOCUMENTS, "now()")
    for _ in range(20):  # each for half a second at most
        tick()
        if not count("index_queue"):
            break
    assert count("document_search") == 3 * search.BATCH_DOCUMENTS
    tick()


def test_a_tick_ends_in_time(
    database: Database, count: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BATCH_DOCUMENTS", 1)
    monkeypatch.setattr(index_documents, "_SLICE_SECONDS", 0.05)
    fill(database, 2_000, "now()")
    start = monotonic()
    tick()
    assert monotonic() - start < 2
    assert 1 <= count("document_search") < 2_000


def test_a_tick_is_shorter_while_documents_wait_to_be_stored(
    database: Database, count: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_documents, "_SLICE_SECONDS", 60)
    monkeypatch.setattr(index_documents, "_BUSY_SECONDS", 0)
    fill(database, 3 * search.BATCH_DOCUMENTS, "now() - interval '1 minute'")
    tick()
    assert count("document_search") == search.BATCH_DOCUMENTS
    with database.transaction() as session:
        session.execute(text("UPDATE documents SET accepted_at = now()"))
    tick()
    assert count("document_search") == 3 * search.BATCH_DOCUMENTS


@pytest.mark.rabbitmq
def test_a_killed_worker_leaves_nothing_out(
    tmp_path: Path, database_url: str, broker_url: str
) -> None:
    documents = 3_000
    bench = Bench(tmp_path, database_url, broker_url)

    def indexed() -> int:
        with bench.database.transaction() as session:
            found: Any = session.scalar(text("SELECT count(*) FROM document_search"))
            return int(found)

    def ticked() -> int:
        bench.app.send_task(INDEX_DOCUMENTS.task, queue=INDEX_DOCUMENTS.queue, expires=1)
        return indexed()

    with ExitStack() as stack:
        stack.callback(bench.close)
        for start in range(0, documents, 100):
            keys = range(start, start + 100)
            bench.send(*(document(document_id(key), f"apple {key}") for key in keys))
        with ExitStack() as first:
            running(first, bench.worker)
            bench.wait_for(documents)
            poll(ticked, lambda found: found > 0, 30)
            bench.worker.kill()
        running(stack, bench.worker)
        poll(ticked, lambda found: found == documents, 60)
        with bench.database.transaction() as session:
            assert search.waiting(session) == 0
            assert search.lag(session) == 0
