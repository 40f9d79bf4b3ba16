from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import event

from shared.db import Database
from shared.decide import NeedsClassification
from shared.store import documents
from shared.store.documents import Filter, Vanished, hash_content
from shared.store.ledger import AlreadyAccounted
from shared.store.page import Cursor
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


# --- Lists ---------------------------------------------------------------------------------------


class Lister:
    def __init__(self, database: Database) -> None:
        self.database = database

    def page(
        self,
        where: Filter = Filter(),  # noqa: B008  # frozen
        *,
        after: Cursor | None = None,
        limit: int = 10,
        max_bytes: int = 1_000_000,
    ) -> tuple[list[str], Cursor | None]:
        """Return a page's ids and the cursor of the next one, None on the last."""
        with self.database.transaction() as session:
            rows, more = documents.page(session, where, after, limit, max_bytes)
        last = Cursor(rows[-1].created_at, rows[-1].id) if more else None
        return [str(row.id) for row in rows], last and Cursor.decode(last.encode())

    def pages(self, where: Filter = Filter(), **limits: int) -> list[list[str]]:  # noqa: B008
        """Return all pages' ids; there are at most twenty."""
        pages = []
        after = None
        for _ in range(20):
            ids, after = self.page(where, after=after, **limits)
            pages.append(ids)
            if after is None:
                return pages
        raise AssertionError("the list does not end")


@pytest.fixture
def lister(database: Database) -> Lister:
    return Lister(database)


def test_pages_go_on_where_the_last_one_ended_also_among_equal_times(
    sender: Sender, lister: Lister, sql: Sql
) -> None:
    ids = [document_id(number) for number in range(9)]
    sender.send(*(put(key, 10, "alpha") for key in ids))  # one transaction, one time
    sql("UPDATE documents SET created_at = created_at + interval '1 microsecond'"
        " WHERE id = ANY(CAST(:ids AS uuid[]))", ids=ids[:3])  # fmt: skip
    newest_first = [*reversed(ids[:3]), *reversed(ids[3:])]
    assert lister.pages(limit=2) == [newest_first[at : at + 2] for at in range(0, 9, 2)]
    assert lister.pages(limit=9) == [newest_first]
    assert lister.pages(limit=8) == [newest_first[:8], newest_first[8:]]


def test_a_page_ends_where_its_contents_would_be_too_large(sender: Sender, lister: Lister) -> None:
    sizes = {ONE: 50, TWO: 90, THREE: 10, document_id(4): 100, document_id(5): 1}
    sender.send(*(put(key, 10, "é" * (size // 2) or "x") for key, size in sizes.items()))
    four, five = document_id(4), document_id(5)
    assert lister.pages(max_bytes=100) == [[five], [four], [THREE, TWO], [ONE]]
    assert lister.pages(max_bytes=1) == [[five], [four], [THREE], [TWO], [ONE]]
    assert lister.pages(max_bytes=251) == [[five, four, THREE, TWO, ONE]]


def test_an_empty_list_is_one_empty_page(lister: Lister) -> None:
    assert lister.page() == ([], None)


def test_filters_choose_and_tombstones_are_never_listed(sender: Sender, lister: Lister) -> None:
    four, five = document_id(4), document_id(5)
    sender.send(
        put(ONE, 10, "alpha", source="mail", external_id="x-1"),
        put(TWO, 10, "alpha", source="ftp", label="human"),
        put(THREE, 10, "bad", source="mail"),
        put(four, 10, "alpha", source="mail"),
        put(five, 10, "beta", external_id="x-1"),
    )
    sender.delete(four, 20)
    sender.delete(document_id(6), 20)
    assert lister.pages() == [[five, THREE, TWO, ONE]]
    assert lister.pages(Filter(category="alpha")) == [[ONE]]
    assert lister.pages(Filter(category="human")) == [[TWO]]
    assert lister.pages(Filter(source="mail")) == [[THREE, ONE]]
    assert lister.pages(Filter(external_id="x-1")) == [[five, ONE]]
    assert lister.pages(Filter(status="failed")) == [[THREE]]
    assert lister.pages(Filter(status="stored")) == [[five, TWO, ONE]]
    assert lister.pages(Filter(source="mail", status="stored")) == [[ONE]]
    assert lister.pages(Filter(category="")) == [[]]
    assert lister.pages(Filter(source="mail"), limit=1) == [[THREE], [ONE]]


def test_a_document_that_is_deleted_while_it_is_listed_is_on_the_page_or_not(
    sender: Sender, lister: Lister, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is one snapshot: never a row without content, never a page without a last row."""
    sender.send(put(ONE, 10, "alpha"), put(TWO, 10, "alpha"), put(THREE, 10, "alpha"))
    fitting = documents._fitting

    def delete_first(found: Any, max_bytes: int) -> list[UUID]:
        for key in (THREE, TWO):
            sender.delete(key, 20)
        return fitting(found, max_bytes)

    monkeypatch.setattr(documents, "_fitting", delete_first)
    with lister.database.transaction() as session:
        rows, more = documents.page(session, Filter(), None, 2, 1000)
    assert [(str(row.id), row.content) for row in rows] == [(THREE, "alpha"), (TWO, "alpha")]
    assert more


# --- Indexes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "index"),
    [
        (Filter(), "ix_documents_newest"),
        (Filter(category="alpha"), "ix_documents_category"),
        (Filter(source="mail"), "ix_documents_source"),
        (Filter(external_id="x-1"), "ix_documents_external_id"),
        (Filter(status="failed"), "ix_documents_failed"),
        (Filter(status="stored"), "ix_documents_newest"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_each_filter_reads_its_index_in_order(
    database: Database, sender: Sender, where: Filter, index: str, first: bool
) -> None:
    plan = _plan_of_page(database, sender, where, first=first)
    assert f"using {index} on documents" in plan
    assert "Sort" not in plan
    if not first:
        assert "ROW(created_at, id) < ROW(" in next(
            line for line in plan.splitlines() if "Index Cond" in line
        )


def _plan_of_page(database: Database, sender: Sender, where: Filter, *, first: bool) -> str:
    """Return the plan of the statement that finds a page's places, as `page` sends it."""
    seen: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        seen.append((statement, values))

    event.listen(database._engine, "before_cursor_execute", note)
    cursor = None if first else Cursor(datetime.now(UTC), UUID(ONE))
    with database.transaction() as session:
        documents.page(session, where, cursor, 50, 1000)
        statement, values = seen[0]
        raw = session.connection().connection.cursor()
        # All that is asked is whether the index can serve the statement at all.
        for other in ("seqscan", "bitmapscan", "sort"):
            raw.execute(f"SET LOCAL enable_{other} = off")
        raw.execute(f"EXPLAIN {statement}", values)
        return "\n".join(row[0] for row in raw.fetchall())
