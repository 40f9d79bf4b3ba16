"""Stored documents are classified anew; the account of documents stays as it is."""

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Lock
from typing import Any
from uuid import UUID

import pytest

from shared.db import Database
from shared.decide import Prediction, Reclassify
from shared.messages import Envelope
from shared.store import documents
from shared.store.ledger import AlreadyAccounted
from shared.store.listings import Filter, Listing, Reclassified, to_reclassify
from shared.store.page import Cursor
from tests.shared.store.samples import PROBLEM, Sender, document_id, put

Sql = Callable[..., list[Any]]
ONE, TWO = document_id(1), document_id(2)
GOOD = Prediction("gamma", 0.75, "model-2")
BAD = Prediction(None, None, "model-2", PROBLEM)


def reclassify(
    sender: Sender, operations: Mapping[str, Reclassify], envelope: Envelope | None = None
) -> Counter[str]:
    with sender.database.transaction() as session:
        return documents.reclassify(session, envelope or sender.account.number(0), operations)


def test_a_failed_document_becomes_a_stored_one(sender: Sender) -> None:
    sender.send(put(ONE, 10, "bad text", source="mail"), put(TWO, 10, "alpha"))
    before, totals = sender.get(ONE), sender.totals()
    assert before is not None
    assert reclassify(sender, {ONE: Reclassify(10, GOOD)}) == {"s": 1}
    after = sender.get(ONE)
    assert after is not None
    assert (after.status, after.error, after.category) == ("stored", None, "gamma")
    assert (after.confidence, after.model_version) == (0.75, "model-2")
    assert (after.content, after.source, after.task_id) == ("bad text", "mail", before.task_id)
    assert (after.revision, after.content_revision) == (before.revision + 1, 10)
    assert after.classified_at is not None
    assert before.classified_at is not None
    assert after.classified_at > before.classified_at
    assert sender.totals() == totals
    assert sender.counts("status") == {"stored": 2}
    assert sender.counts("category") == {"alpha": 1, "gamma": 1}
    sender.fold()
    assert sender.totals() == totals
    assert sender.counts("category") == {"alpha": 1, "gamma": 1}


@pytest.mark.parametrize("revision", [9, 11])
def test_content_that_was_written_anew_is_left_alone(sender: Sender, revision: int) -> None:
    sender.send(put(ONE, 10, "bad"))
    before = sender.get(ONE)
    assert reclassify(sender, {ONE: Reclassify(revision, GOOD), TWO: Reclassify(1, GOOD)}) == {
        "x": 1
    }
    after = sender.get(ONE)
    assert before is not None
    assert after is not None
    assert (after.revision, after.status) == (before.revision, "failed")


def test_what_fails_again_has_the_new_reason_and_what_was_fine_stays(sender: Sender) -> None:
    sender.send(put(ONE, 10, "bad"), put(TWO, 10, "alpha"))
    failing = {ONE: Reclassify(10, BAD), TWO: Reclassify(10, BAD)}
    assert reclassify(sender, failing) == {"f": 2}
    one, two = sender.get(ONE), sender.get(TWO)
    assert one is not None
    assert two is not None
    assert (one.status, one.model_version) == ("failed", "model-2")
    assert (two.status, two.category, two.model_version) == ("stored", "alpha", "model-1")
    assert sender.counts("status") == {"failed": 1, "stored": 1}


@pytest.mark.parametrize("folded", [False, True])
def test_a_message_that_comes_again_changes_nothing(sender: Sender, folded: bool) -> None:
    sender.send(put(ONE, 10, "bad"))
    envelope = sender.account.number(0)
    reclassify(sender, {ONE: Reclassify(10, GOOD)}, envelope)
    if folded:
        sender.fold()
    before = sender.get(ONE)
    assert before is not None
    with pytest.raises(AlreadyAccounted):
        reclassify(sender, {ONE: Reclassify(10, BAD)}, envelope)
    after = sender.get(ONE)
    assert after is not None
    assert (after.revision, after.status) == (before.revision, "stored")


def test_a_label_stays(sender: Sender) -> None:
    sender.send(put(ONE, 10, "bad", label="human"))
    reclassify(sender, {ONE: Reclassify(10, GOOD)})
    row = sender.get(ONE)
    assert row is not None
    assert (row.category, row.predicted_category) == ("human", "gamma")
    assert sender.counts("category") == {"human": 1}


def test_contents_are_those_of_the_revision_that_was_asked_for(sender: Sender) -> None:
    sender.send(put(ONE, 10, "bad"), put(TWO, 10, "alpha"), put(document_id(3), 10, "beta"))
    sender.delete(document_id(3), 20)
    asked = {ONE: 10, TWO: 9, document_id(3): 20, document_id(4): 1}
    with sender.database.transaction() as session:
        assert documents.contents(session, asked) == {ONE: "bad"}
        assert documents.content_revision(session, UUID(ONE)) == 10
        assert documents.content_revision(session, UUID(document_id(3))) is None
        assert documents.content_revision(session, UUID(document_id(4))) is None


def test_documents_are_found_part_by_part(sender: Sender) -> None:
    for number in range(7):
        text = "bad" if number != 3 else "alpha"
        source = "mail" if number else None
        sender.send(put(document_id(number), 10 + number, text, source=source))
    found: list[Reclassified] = []
    after, more = None, True
    where = Filter(status="failed", source="mail", model_version="model-1")
    while more:
        with sender.database.transaction() as session:
            part, more = to_reclassify(session, Listing(where), after, 2)
        found += part
        after = Cursor(part[-1].created_at, part[-1].id)
    assert [each.content_revision for each in found] == [16, 15, 14, 12, 11]
    assert {each.size for each in found} == {3}
    with sender.database.transaction() as session:
        none, more = to_reclassify(session, Listing(Filter(model_version="x")), None, 2)
    assert (list(none), more) == ([], False)


def test_races_leave_right_counts_and_an_even_account(
    sender: Sender, database: Database, sql: Sql
) -> None:
    """Writes, deletes, reclassifications of what they see, redeliveries and a folder at once."""
    ids = [document_id(number) for number in range(3)]
    lock, accepted, stamps = Lock(), [0], iter(range(10, 100_000))
    applied: Counter[str] = Counter()

    def write(random: Random) -> None:
        with lock:
            writes = [
                put(each, next(stamps), random.choice(["bad", "alpha", "beta"])) for each in ids
            ][: random.randint(1, 3)]
            accepted[0] += len(writes)
        sender.send(*writes)

    def again(random: Random) -> None:
        with database.transaction() as session:
            seen = {each: documents.content_revision(session, UUID(each)) for each in ids}
        operations = {
            key: Reclassify(revision, random.choice([GOOD, BAD]))
            for key, revision in seen.items()
            if revision is not None
        }
        envelope = sender.account.number(0)
        applied.update(reclassify(sender, operations, envelope))
        with pytest.raises(AlreadyAccounted):
            reclassify(sender, operations, envelope)

    def work(seed: int) -> None:
        random = Random(seed)
        for _ in range(40):
            dice = random.random()
            if dice < 0.45:
                write(random)
            elif dice < 0.9:
                again(random)
            else:
                with lock:
                    stamp = next(stamps)
                sender.delete(random.choice(ids), stamp)

    with ThreadPoolExecutor(5) as threads:
        workers = [threads.submit(work, seed) for seed in range(4)]
        while not all(each.done() for each in workers):
            sender.fold()
        for each in workers:
            each.result()
    sender.mark()
    totals = sender.totals()
    assert (totals.accepted, totals.in_flight) == (accepted[0], 0)
    live = sql("SELECT status, count(*) FROM documents WHERE content IS NOT NULL GROUP BY 1")
    assert sender.counts("status") == {row[0]: row[1] for row in live}
    live = sql(
        "SELECT category, count(*) FROM documents"
        " WHERE content IS NOT NULL AND category IS NOT NULL GROUP BY 1"
    )
    assert sender.counts("category") == {row[0]: row[1] for row in live}
    assert applied["s"] > 5
