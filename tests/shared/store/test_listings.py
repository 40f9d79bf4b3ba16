"""Lists of documents: filters, pages, and the indexes they read."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event

from shared.db import Database
from shared.store import listings
from shared.store.listings import Filter
from shared.store.page import Cursor
from tests.shared.store.samples import Sender, document_id, put

Sql = Callable[..., list[Any]]
ONE, TWO, THREE = (document_id(number) for number in (1, 2, 3))


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
            rows, more = listings.page(session, where, after, limit, max_bytes)
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
    fitting = listings._fitting

    def delete_first(found: Any, max_bytes: int) -> list[UUID]:
        for key in (THREE, TWO):
            sender.delete(key, 20)
        return fitting(found, max_bytes)

    monkeypatch.setattr(listings, "_fitting", delete_first)
    with lister.database.transaction() as session:
        rows, more = listings.page(session, Filter(), None, 2, 1000)
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
        listings.page(session, where, cursor, 50, 1000)
        statement, values = seen[0]
        raw = session.connection().connection.cursor()
        # All that is asked is whether the index can serve the statement at all.
        for other in ("seqscan", "bitmapscan", "sort"):
            raw.execute(f"SET LOCAL enable_{other} = off")
        raw.execute(f"EXPLAIN {statement}", values)
        return "\n".join(row[0] for row in raw.fetchall())
