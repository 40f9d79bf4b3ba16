"""Stored documents that kill whoever classifies them anew: the culprit alone is a dead letter."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest
from sqlalchemy import text

from shared.messages import RECLASSIFY, Classified
from shared.revision import microseconds_now
from tests.deadly import KILL
from tests.shared.store.samples import Sender, document_id, put
from tests.stack import poll, processes, running
from tests.worker.bench import Bench, DeadlyWorker

__all__ = ["processes"]

pytestmark = pytest.mark.rabbitmq

STAMP = microseconds_now()


@pytest.fixture
def bench(
    tmp_path: Path, database_url: str, broker_url: str, processes: ExitStack
) -> Iterator[Bench]:
    bench = Bench(tmp_path, database_url, broker_url, DeadlyWorker)
    processes.callback(bench.close)
    running(processes, bench.worker)
    yield bench
    bench.still_works(document_id(1000))


def store(bench: Bench, *contents: str) -> list[Classified]:
    """Store documents, classified by another model; return what asks for it anew."""
    ids = [document_id(number) for number in range(1, len(contents) + 1)]
    sender = Sender(bench.database)
    sender.send(*(put(key, STAMP, each) for key, each in zip(ids, contents, strict=True)))
    sender.mark(closed=True)
    return [Classified(id=key, content_revision=STAMP) for key in ids]


def models(bench: Bench) -> dict[str, str]:
    with bench.database.transaction() as session:
        found = session.execute(text("SELECT id::text AS id, model_version FROM documents"))
        return {row.id: row.model_version for row in found}


def test_one_that_kills_takes_nobody_along(bench: Bench) -> None:
    items = store(bench, *["space"] * 5, f"bad {KILL}", *["hockey"] * 6)
    before = bench.totals()
    envelope = bench.publisher.publish(RECLASSIFY, {"items": items}, documents=0, summary="")
    (letter,) = poll(bench.letters, lambda found: len(found) == 1, 60)
    assert (letter["task"], letter["reason"]) == (RECLASSIFY.task, "child_killed")
    assert (letter["producer_id"], letter["seq"]) == (envelope.producer_id, envelope.seq)
    assert (letter["position"], letter["documents"], letter["attempts"]) == (5, 0, 4)
    assert orjson.loads(letter["payload"])[1] == {"items": [items[5]]}
    assert "signal 9" in letter["error"]
    classified = models(bench)
    assert classified.pop(items[5]["id"]) == "model-1"
    assert "model-1" not in classified.values()
    assert bench.totals() == before
    with bench.database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM message_faults")) == 0


def test_one_alone_that_kills_is_dead_after_as_many_tries(bench: Bench) -> None:
    items = store(bench, f"bad {KILL}")
    before = bench.totals()
    bench.publisher.publish(RECLASSIFY, {"items": items}, documents=0, summary="")
    (letter,) = poll(bench.letters, lambda found: len(found) == 1, 60)
    assert (letter["task"], letter["reason"]) == (RECLASSIFY.task, "child_killed")
    assert (letter["position"], letter["documents"], letter["attempts"]) == (None, 0, 4)
    assert orjson.loads(letter["payload"])[1] == {"items": items}
    assert bench.totals() == before
