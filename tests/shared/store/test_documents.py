from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from shared.db import Database
from shared.decide import NeedsClassification
from shared.store import documents
from shared.store.documents import Vanished, hash_content
from shared.store.ledger import AlreadyAccounted
from tests.shared.store.samples import PROBLEM, Sender, document_id, put, unclassified

ONE, TWO, THREE = (document_id(number) for number in (1, 2, 3))
Sql = Callable[..., list[Any]]


def test_a_new_document_is_stored_as_it_came(sender: Sender) -> None:
    write = put(
        ONE, 10, "alpha one", metadata={"n": [1, 2.5, None]}, source="mail", external_id="x-1"
    )
    assert sender.send(write) == "c"
    stored = sender.get(ONE)
    assert stored is not None
    assert (stored.content, stored.metadata_) == ("alpha one", {"n": [1, 2.5, None]})
    assert (stored.source, stored.external_id) == ("mail", "x-1")
    assert (stored.revision, stored.content_revision, stored.label_revision) == (10, 10, 0)
    assert (stored.category, stored.confidence, stored.model_version) == ("alpha", 0.09, "model-1")
    assert (stored.status, stored.error) == ("stored", None)
    assert stored.content_hash == hash_content("alpha one")
    assert stored.task_id == f"{sender.account.producer_id}.1"
    assert stored.accepted_at.isoformat() == write.accepted_at
    assert stored.created_at == stored.updated_at == stored.classified_at
    assert stored.created_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "content",
    [
        "\u0001",
        "tab\tand\nline",
        'quote "\\ %s %(name)s :name {}',
        "ß 漢 😀 \u202e",
        "x" * 1_000_000,
    ],
)
def test_any_text_survives(sender: Sender, content: str) -> None:
    write = put(ONE, 10, "alpha", metadata={content[:50]: content[:50]}, source=content[:50])
    sender.send(documents.Write(write.id, write.put, content, write.accepted_at))
    stored = sender.get(ONE)
    assert stored is not None
    assert stored.content == content
    assert stored.metadata_ == {content[:50]: content[:50]}
    assert stored.source == content[:50]


def test_several_documents_of_one_message_have_a_letter_each_in_its_order(sender: Sender) -> None:
    sender.send(put(TWO, 10, "alpha"), put(THREE, 50, "alpha"))
    letters = sender.send(
        put(THREE, 40, "beta"),
        put(ONE, 20, "bad"),
        put(TWO, 21, "alpha"),
        put(document_id(4), 22, "beta"),
        put(TWO, 23, "beta"),
        known=[THREE],
    )
    assert letters == "xfucs"


def test_of_several_writes_of_one_id_in_a_message_the_highest_stamp_wins(sender: Sender) -> None:
    assert sender.send(put(ONE, 12, "beta"), put(ONE, 11, "alpha"), put(ONE, 13, "gamma")) == "cxs"
    stored = sender.get(ONE)
    assert stored is not None
    assert (stored.content, stored.content_revision) == ("gamma", 13)
    assert sender.counts("category") == {"gamma": 1}
    assert sender.totals().stored == 2


def test_an_older_write_that_comes_late_changes_nothing(sender: Sender) -> None:
    sender.send(put(ONE, 20, "alpha"))
    assert sender.send(put(ONE, 10, "beta")) == "x"
    stored = sender.get(ONE)
    assert stored is not None
    assert (stored.content, stored.revision) == ("alpha", 20)
    assert stored.task_id is not None
    assert stored.task_id.endswith(".1")


def test_an_older_write_with_a_label_sets_only_the_label(sender: Sender) -> None:
    sender.send(put(ONE, 20, "alpha"))
    assert sender.send(put(ONE, 10, "beta", label="human")) == "s"
    stored = sender.get(ONE)
    assert stored is not None
    assert (stored.content, stored.label, stored.category) == ("alpha", "human", "human")
    assert (stored.revision, stored.content_revision, stored.label_revision) == (21, 20, 10)
    assert stored.task_id is not None
    assert stored.task_id.endswith(".1")  # the content's message, not the label's
    assert sender.counts("category") == {"human": 1}


def test_the_same_content_moves_the_stamps_and_nothing_else(sender: Sender) -> None:
    sender.send(put(ONE, 10, "alpha", metadata={"n": 1}))
    before = sender.get(ONE)
    assert sender.send(unclassified(put(ONE, 20, "alpha", metadata={"n": 1})), known=[ONE]) == "u"
    after = sender.get(ONE)
    assert before is not None
    assert after is not None
    assert (after.revision, after.content_revision) == (20, 20)
    assert after.task_id is not None
    assert after.task_id.endswith(".2")
    assert (after.updated_at, after.classified_at) == (before.updated_at, before.classified_at)
    # "A, B, A": a B from between arrives late and must lose.
    assert sender.send(put(ONE, 15, "beta")) == "x"


def test_the_same_content_with_other_metadata_keeps_its_classification(sender: Sender) -> None:
    sender.send(put(ONE, 10, "alpha"))
    before = sender.get(ONE)
    write = unclassified(put(ONE, 20, "alpha", metadata={"n": 1}, source="mail"))
    assert sender.send(write, known=[ONE]) == "s"
    after = sender.get(ONE)
    assert before is not None
    assert after is not None
    assert (after.metadata_, after.source) == ({"n": 1}, "mail")
    assert after.content == "alpha"
    assert (after.confidence, after.classified_at) == (before.confidence, before.classified_at)
    assert after.updated_at > before.updated_at
    assert after.created_at == before.created_at


def test_a_patch_that_is_newer_than_a_late_write_is_replayed_over_it(
    sender: Sender, sql: Sql
) -> None:
    sender.send(put(ONE, 10, "alpha", metadata={"a": 1}))
    patches = orjson.dumps([[15, {"b": None}], [30, {"c": {"d": 2}}]]).decode()
    sql("UPDATE documents SET metadata_patches = CAST(:patches AS jsonb)", patches=patches)
    sender.send(put(ONE, 20, "beta", metadata={"b": 3}))
    stored = sender.get(ONE)
    assert stored is not None
    assert stored.metadata_ == {"b": 3, "c": {"d": 2}}
    assert stored.metadata_patches == [[30, {"c": {"d": 2}}, False]]
    sender.send(put(ONE, 40, "beta", metadata={"b": 4}))
    stored = sender.get(ONE)
    assert stored is not None
    assert (stored.metadata_, stored.metadata_patches) == ({"b": 4}, None)


def test_what_cannot_be_classified_is_stored_as_failed_until_it_can(sender: Sender) -> None:
    assert sender.send(put(ONE, 10, "bad")) == "f"
    failed = sender.get(ONE)
    assert failed is not None
    assert (failed.status, failed.error, failed.category) == ("failed", PROBLEM, None)
    assert failed.content == "bad"
    assert sender.counts("status") == {"failed": 1}
    assert sender.counts("category") == {}
    assert sender.known(ONE) == {ONE: None}  # to be classified again, whatever its content
    assert sender.send(put(ONE, 20, "bad")) == "f"
    assert sender.send(put(ONE, 30, "alpha")) == "s"
    stored = sender.get(ONE)
    assert stored is not None
    assert (stored.status, stored.error, stored.category) == ("stored", None, "alpha")
    assert sender.counts("status") == {"stored": 1}


@pytest.mark.parametrize("number", [1e29, -1e300, 2**63, 0.1, 5e-324])
def test_a_number_that_comes_back_as_a_large_integer_can_be_written_again(
    sender: Sender, number: float
) -> None:
    sender.send(put(ONE, 20, "alpha", metadata={"n": number}))
    assert sender.send(put(ONE, 10, "beta", label="human")) == "s"
    stored = sender.get(ONE)
    assert stored is not None
    assert (float(stored.metadata_["n"]), stored.label) == (number, "human")
    assert sender.send(put(ONE, 30, "alpha", metadata={"n": number})) == "u"


# --- Hints that are wrong ------------------------------------------------------------------------


def test_known_tells_ids_and_digests(sender: Sender) -> None:
    sender.send(put(ONE, 10, "alpha"), put(TWO, 10, "beta"))
    sender.delete(TWO, 20)
    assert sender.known(ONE, TWO, THREE) == {ONE: hash_content("alpha"), TWO: None}
    assert sender.known() == {}


def test_a_hint_that_the_content_is_the_same_is_not_believed_when_the_row_differs(
    sender: Sender,
) -> None:
    sender.send(put(ONE, 10, "alpha"))
    with pytest.raises(NeedsClassification):
        sender.send(unclassified(put(ONE, 20, "beta")), known=[ONE])
    assert sender.totals().stored == 1  # rolled back, as if it had never come
    assert sender.send(put(ONE, 20, "beta")) == "s"


def test_a_hint_of_a_row_that_was_purged_meanwhile_is_said(sender: Sender) -> None:
    with pytest.raises(Vanished):
        sender.send(put(ONE, 10, "alpha"), put(TWO, 10, "alpha"), known=[ONE])
    assert sender.get(TWO) is None
    assert sender.send(put(ONE, 10, "alpha"), put(TWO, 10, "alpha")) == "cc"


def test_a_missing_hint_changes_nothing(sender: Sender) -> None:
    sender.send(put(ONE, 10, "alpha"))
    assert sender.send(put(ONE, 20, "beta"), put(TWO, 20, "beta"), known=[]) == "sc"


@pytest.mark.parametrize("folded", [False, True])
def test_a_message_counts_once(sender: Sender, folded: bool) -> None:
    envelope = sender.account.number(1)
    sender.deliver(envelope, put(ONE, 10, "alpha"))
    if folded:
        sender.fold()
    for known in ([], [ONE]):
        with pytest.raises(AlreadyAccounted):
            sender.deliver(envelope, put(ONE, 10, "alpha"), known=known)
    assert (sender.totals().stored, sender.totals().superseded) == (1, 0)
    assert sender.counts("category") == {"alpha": 1}


# --- Deletes and tombstones ----------------------------------------------------------------------


def test_a_deleted_document_is_gone_and_stays_gone(sender: Sender, sql: Sql) -> None:
    sender.send(put(ONE, 10, "alpha", metadata={"n": 1}, source="mail", label="human"))
    assert sender.delete(ONE, 20) == 20
    assert sender.get(ONE) is None
    assert sender.counts("category") == sender.counts("source") == sender.counts("status") == {}
    assert sender.send(put(ONE, 15, "beta", label="late")) == "x"
    assert sender.get(ONE) is None
    (row,) = sql("SELECT * FROM documents")
    # Nothing of the document is left.
    gone = ["content", "content_hash", "metadata_patches", "source", "external_id", "label"]
    gone += ["predicted_category", "category", "confidence", "model_version", "error", "task_id"]
    assert [getattr(row, name) for name in gone] == [None] * len(gone)
    assert row.metadata == {}
    assert (row.revision, row.content_revision, row.label_revision) == (20, 20, 20)


def test_deleting_again_raises_the_revision(sender: Sender) -> None:
    sender.send(put(ONE, 10, "alpha"))
    assert [sender.delete(ONE, now) for now in (5, 5, 30)] == [11, 12, 30]
    assert sender.counts("status") == {}


def test_a_delete_comes_before_the_write_that_is_still_queued(sender: Sender) -> None:
    assert sender.delete(ONE, 20) == 20
    assert sender.delete(ONE, 7) == 21
    assert sender.send(put(ONE, 10, "alpha")) == "x"
    assert sender.get(ONE) is None
    assert sender.totals().superseded == 1
    assert sender.counts("status") == {}


def test_a_newer_write_revives_a_deleted_document(sender: Sender, sql: Sql) -> None:
    sender.send(put(ONE, 10, "alpha", label="human"))
    sql("UPDATE documents SET created_at = '2020-01-01', updated_at = '2020-01-01'")
    sender.delete(ONE, 20)
    assert sender.send(put(ONE, 30, "alpha")) == "c"
    stored = sender.get(ONE)
    assert stored is not None
    assert (stored.content, stored.label, stored.category) == ("alpha", None, "alpha")
    # It is a new document, on the first page of a list that is sorted by time of creation.
    assert stored.created_at == stored.updated_at
    assert datetime.now(UTC) - stored.created_at < timedelta(minutes=5)
    assert sender.counts("category") == {"alpha": 1}


@pytest.mark.parametrize("days", [1, 30])
def test_only_old_tombstones_are_purged(sender: Sender, sql: Sql, days: int) -> None:
    sender.send(put(ONE, 10, "alpha"), put(TWO, 10, "alpha"))
    for key in (TWO, THREE, document_id(4)):
        sender.delete(key, 20)
    age = "UPDATE documents SET updated_at = now() - make_interval(days => :days, mins => :mins)"
    for key, minutes in ((ONE, 600), (TWO, 5), (THREE, -5), (document_id(4), 600)):
        sql(f"{age} WHERE id = '{key}'", days=days + 1, mins=minutes)
    sql(f"UPDATE documents SET updated_at = '2020-01-01' WHERE id = '{document_id(4)}'")
    assert sender.purge(days, limit=1) == 1
    assert sender.purge(days, limit=1) == 1
    assert sender.purge(days, limit=1) == 0
    left = {row.id for row in sql("SELECT id FROM documents")}
    assert left == {UUID(ONE), UUID(THREE)}


def test_a_tombstone_that_is_being_revived_is_not_purged(
    database: Database, sender: Sender, sql: Sql
) -> None:
    sender.delete(ONE, 10)
    sql("UPDATE documents SET updated_at = '2020-01-01'")
    with database.transaction() as session:
        envelope = sender.account.number(1)
        assert documents.write(session, envelope, [put(ONE, 20, "alpha")], [ONE]) == "c"
        assert sender.purge() == 0
    assert sender.purge() == 0
    assert sender.get(ONE) is not None
