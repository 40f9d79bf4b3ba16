"""Lists of documents: filters, sorts, pages, counts, and the indexes they read."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from random import Random
from threading import Event
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from sqlalchemy import event, text

from shared.db import Database, Session
from shared.errors import TooBroad
from shared.store import listings
from shared.store.listings import Facets, Filter, Listing, Sort, steps
from shared.store.page import BadCursor, Cursor
from tests.shared.store.samples import Sender, document_id, put

Sql = Callable[..., list[Any]]
ONE, TWO, THREE, FOUR, FIVE = (document_id(number) for number in range(1, 6))


@pytest.fixture(autouse=True, scope="module")
def _no_statistics(module_database_url: str) -> None:
    """Keep PostgreSQL from gathering statistics meanwhile: its plans would depend on the minute."""
    with psycopg2.connect(module_database_url) as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE documents SET (autovacuum_enabled = off)")
    connection.close()


def flat(lists: Iterable[list[str]]) -> list[str]:
    return list(chain.from_iterable(lists))


class Lister:
    def __init__(self, database: Database) -> None:
        self.database = database

    def page(
        self,
        listing: Listing,
        *,
        after: str | None = None,
        limit: int = 10,
        max_bytes: int = 1_000_000,
    ) -> tuple[list[str], str | None]:
        """Return a page's ids and the cursor of the next one, None on the last."""
        with self.database.transaction() as session:
            place = listing.after(after)
            rows, more = listings.page(session, listing, place, limit, max_bytes)
        return [str(row.id) for row in rows], listing.cursor(rows[-1]).encode() if more else None

    def pages(
        self,
        where: Filter = Filter(),  # noqa: B008  # frozen
        sort: Sort = Sort.NEWEST,
        **limits: int,
    ) -> list[list[str]]:
        """Return all pages' ids; there are at most twenty."""
        pages = []
        after = None
        for _ in range(20):
            ids, after = self.page(Listing(where, sort), after=after, **limits)
            pages.append(ids)
            if after is None:
                return pages
        raise AssertionError("the list does not end")

    def all(self, sort: Sort = Sort.NEWEST, **where: Any) -> list[str]:
        """Return the ids of one page."""
        [ids] = self.pages(Filter(**where), sort)
        return ids

    def export(self, listing: Listing, max_bytes: int = 1_000_000) -> list[list[str]]:
        with self.database.transaction() as session:
            listings.begin_export(session, 60)
            parts = listings.export(session, listing, max_bytes)
            return [[str(row.id) for row in part] for part in parts]

    def facets(self, by: str = "category", **where: Any) -> Facets:
        with self.database.transaction() as session:
            return listings.facets(session, Filter(**where), by.split(","))


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
    sizes = {ONE: 50, TWO: 90, THREE: 10, FOUR: 100, FIVE: 1}
    sender.send(*(put(key, 10, "é" * (size // 2) or "x") for key, size in sizes.items()))
    assert lister.pages(max_bytes=100) == [[FIVE], [FOUR], [THREE, TWO], [ONE]]
    assert lister.pages(max_bytes=1) == [[FIVE], [FOUR], [THREE], [TWO], [ONE]]
    assert lister.pages(max_bytes=251) == [[FIVE, FOUR, THREE, TWO, ONE]]


def test_an_empty_list_is_one_empty_page(lister: Lister) -> None:
    assert lister.page(Listing()) == ([], None)


def test_filters_choose_and_tombstones_are_never_listed(sender: Sender, lister: Lister) -> None:
    sender.send(
        put(ONE, 10, "alpha", source="mail", external_id="x-1"),
        put(TWO, 10, "alpha", source="ftp", label="human"),
        put(THREE, 10, "bad", source="mail"),
        put(FOUR, 10, "alpha", source="mail"),
        put(FIVE, 10, "beta", external_id="x-1"),
    )
    sender.delete(FOUR, 20)
    sender.delete(document_id(6), 20)
    assert lister.pages() == [[FIVE, THREE, TWO, ONE]]
    assert lister.pages(Filter(category="alpha")) == [[ONE]]
    assert lister.pages(Filter(category="human")) == [[TWO]]
    assert lister.pages(Filter(source="mail")) == [[THREE, ONE]]
    assert lister.pages(Filter(external_id="x-1")) == [[FIVE, ONE]]
    assert lister.pages(Filter(status="failed")) == [[THREE]]
    assert lister.pages(Filter(status="stored")) == [[FIVE, TWO, ONE]]
    assert lister.pages(Filter(source="mail", status="stored")) == [[ONE]]
    assert lister.pages(Filter(category="")) == [[]]
    assert lister.pages(Filter(source="mail"), limit=1) == [[THREE], [ONE]]


def test_a_document_that_is_deleted_while_it_is_listed_is_on_the_page_or_not(
    sender: Sender, lister: Lister, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is one snapshot: never a row without content, never a page without a last row."""
    sender.send(put(ONE, 10, "alpha"), put(TWO, 10, "alpha"), put(THREE, 10, "alpha"))
    parts = listings._parts

    def delete_first(found: Any, max_bytes: int) -> Any:
        for key in (THREE, TWO):
            sender.delete(key, 20)
        return parts(found, max_bytes)

    monkeypatch.setattr(listings, "_parts", delete_first)
    with lister.database.transaction() as session:
        rows, more = listings.page(session, Listing(), None, 2, 1000)
    assert [(str(row.id), row.content) for row in rows] == [(THREE, "alpha"), (TWO, "alpha")]
    assert more


def test_new_filters_choose(sender: Sender, lister: Lister, sql: Sql) -> None:
    sender.send(
        put(ONE, 10, "alpha", label="human"),  # 0.05
        put(TWO, 10, "beta two"),  # 0.08
        put(THREE, 10, "bad"),  # no score
        put(FOUR, 10, "gamma and more"),  # 0.14
        put(FIVE, 10, "beta", label="beta"),  # 0.04
    )
    sender.delete(FIVE, 20)
    sql("UPDATE documents SET created_at = '2026-01-01T00:00:00Z'")
    sql("UPDATE documents SET created_at = '2026-02-01T00:00:00Z' WHERE id = :id", id=TWO)
    january, february = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2))
    assert lister.all(label="human") == [ONE]
    assert lister.all(label="beta") == []
    assert lister.all(category_source="human") == [ONE]
    assert lister.all(category_source="model") == [TWO, FOUR, THREE]
    assert lister.all(confidence_below=0.14) == [TWO]
    assert lister.all(confidence_below=0.15) == [TWO, FOUR]
    assert lister.all(confidence_below=0.0) == []
    unsure = Filter(confidence_below=0.15)
    assert lister.pages(unsure, limit=1) == [[TWO], [FOUR]]
    assert lister.pages(unsure, Sort.OLDEST, limit=1) == [[FOUR], [TWO]]
    assert lister.all(model_version="model-1", status="stored") == [TWO, FOUR, ONE]
    assert lister.all(created_after=february) == [TWO]
    assert lister.all(created_before=february) == [FOUR, THREE, ONE]
    assert lister.all(created_after=january, created_before=january) == []
    assert lister.all(created_after=january) == [TWO, FOUR, THREE, ONE]


METADATA: dict[str, dict[str, Any]] = {
    ONE: {"year": 2024, "open": True, "tags": ["a", "b"], "who": {"name": "mira", "n": None}},
    TWO: {"year": "2024", "open": "true", "tags": "a", "who.name": "mira"},
    THREE: {"year": 2024.5, "tags": ["ab", 7], "": "empty", "who": [{"name": "mira"}]},
    FOUR: {"äö \"'\\% :x": "quote ' \" \\ % :x", "year": 1e29, "tags": []},
}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"year": "2024"}, [TWO, ONE]),
        ({"year": "2024.0"}, [ONE]),
        ({"year": "2024.5"}, [THREE]),
        ({"year": "20240e-1"}, [ONE]),
        ({"year": "1e29"}, [FOUR]),
        ({"year": "100000000000000000000000000000"}, [FOUR]),
        ({"year": "1e999"}, []),
        ({"year": "NaN"}, []),
        ({"year": ""}, []),
        ({"open": "true"}, [TWO, ONE]),
        ({"open": "True"}, []),
        ({"tags": "a"}, [TWO, ONE]),
        ({"tags": "7"}, [THREE]),
        ({"tags": "[]"}, []),
        ({"tags": '["a","b"]'}, []),
        ({"who.name": "mira"}, [ONE]),
        ({"who\\.name": "mira"}, [TWO]),
        ({"who.n": "null"}, [ONE]),
        ({"who": "null"}, []),
        ({"": "empty"}, [THREE]),
        ({".": "empty"}, []),
        ({"äö \"'\\\\% :x": "quote ' \" \\ % :x"}, [FOUR]),
        ({"year": "2024", "tags": "b"}, [ONE]),
        ({"year": "2024", "tags": "c"}, []),
    ],
)
def test_metadata_compares_as_text_or_as_what_it_means(
    sender: Sender, lister: Lister, wanted: dict[str, str], found: list[str]
) -> None:
    sender.send(*(put(key, 10, "alpha", metadata=each) for key, each in METADATA.items()))
    assert lister.all(metadata=tuple(wanted.items())) == found


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("a", ["a"]),
        ("a.b", ["a", "b"]),
        (r"a\.b", ["a.b"]),
        (r"a\\.b", ["a\\", "b"]),
        (r"a\b.", [r"a\b", ""]),
        ("a\n.b\\", ["a\n", "b\\"]),
        ("", [""]),
    ],
)
def test_a_path_leads_into_objects(path: str, keys: list[str]) -> None:
    assert steps(path) == keys


def test_lists_are_sorted_as_asked(sender: Sender, lister: Lister) -> None:
    texts = {ONE: "b" * 5, TWO: "b" * 9, THREE: "bad", FOUR: "b" * 5, FIVE: "b" * 7}
    sender.send(*(put(key, 10, each) for key, each in texts.items()))
    sender.send(put(document_id(6), 10, "b", label="human"))  # nothing that a model has decided
    six = document_id(6)
    assert lister.pages(sort=Sort.OLDEST, limit=4) == [[ONE, TWO, THREE, FOUR], [FIVE, six]]
    for limit in (1, 2, 3, 10):
        pages = lister.pages(sort=Sort.LEAST_SURE, limit=limit)
        assert flat(pages) == [ONE, FOUR, FIVE, TWO]
        pages = lister.pages(sort=Sort.SUREST, limit=limit)
        assert flat(pages) == [TWO, FIVE, FOUR, ONE]
    assert lister.all(Sort.LEAST_SURE, confidence_below=0.07) == [ONE, FOUR]


def test_a_cursor_fits_its_own_list_only(sender: Sender, lister: Lister) -> None:
    sender.send(put(ONE, 10, "alpha"), put(TWO, 10, "alpha"))
    others = [
        Listing(Filter(category="alpha")),
        Listing(Filter(source="alpha")),
        Listing(Filter(metadata=(("category", "alpha"),))),
        Listing(sort=Sort.OLDEST),
        Listing(sort=Sort.LEAST_SURE),
        Listing(Filter(category="alpha"), Sort.OLDEST),
    ]
    _, cursor = lister.page(Listing(), limit=1)
    assert cursor is not None
    assert lister.page(Listing(), after=cursor) == ([ONE], None)
    assert len({each.scope for each in (Listing(), *others)}) == len(others) + 1
    for other in others:
        with pytest.raises(BadCursor, match="other filters"):
            other.after(cursor)
    forged = Cursor(0.5, UUID(ONE), Listing().scope).encode()
    with pytest.raises(BadCursor):
        Listing().after(forged)


def test_pages_neither_skip_nor_repeat_while_others_write(
    sender: Sender, lister: Lister, database: Database
) -> None:
    """What is there from the first page to the last is listed once, in both orders."""
    ids = [document_id(number) for number in range(300)]
    kept = set(ids[::3])
    for at in range(0, 300, 10):
        sender.send(*(put(key, 10, f"alpha {key}") for key in ids[at : at + 10]))
    with _writers(database, ids, sorted(kept)):
        for sort in (Sort.NEWEST, Sort.OLDEST) * 2:
            seen = _walk(lister, Listing(sort=sort), until=kept)
            assert kept <= seen.keys()
            assert set(seen.values()) == {1}


@contextlib.contextmanager
def _writers(database: Database, ids: Sequence[str], kept: Sequence[str]) -> Iterator[None]:
    """Add documents, change those that are kept, delete others, in three threads."""
    done = Event()

    def write(seed: int) -> int:
        random, own, number = Random(seed), Sender(database), 1000 * (seed + 1)
        while not done.is_set():
            number += 1
            own.send(put(document_id(number), number, "new"))
            own.send(put(random.choice(kept), number, f"changed {number}"))
            if (gone := random.choice(ids)) not in kept:
                own.delete(gone, number)
        return number

    with ThreadPoolExecutor(3) as threads:
        written = [threads.submit(write, seed) for seed in range(3)]
        try:
            yield
        finally:
            done.set()
        assert all(each.result() > 1000 * (seed + 1) for seed, each in enumerate(written))


def _walk(lister: Lister, listing: Listing, until: set[str]) -> Counter[str]:
    """Count the documents of all pages; of a list that grows at its end, once it has `until`."""
    seen: Counter[str] = Counter()
    cursor = None
    for _ in range(1_000):
        page, cursor = lister.page(listing, after=cursor, limit=7)
        seen.update(page)
        if cursor is None or (listing.sort is Sort.OLDEST and until <= seen.keys()):
            return seen
    raise AssertionError("the list does not end")


def test_a_list_that_looks_at_too_much_is_given_up(
    sender: Sender, lister: Lister, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender.send(put(ONE, 10, "alpha", metadata={"a": "x"}))
    monkeypatch.setattr(listings, "_has", lambda *_: text("pg_sleep(10) IS NULL"))
    monkeypatch.setattr(listings, "BROAD_SECONDS", 0.1)
    where = Filter(metadata=(("a", "y"),))
    with pytest.raises(TooBroad):
        lister.page(Listing(where))
    with pytest.raises(TooBroad):
        lister.facets(metadata=where.metadata)
    with pytest.raises(TooBroad), lister.database.transaction() as session:
        listings.to_reclassify(session, Listing(where), None, 10)


# --- Facets --------------------------------------------------------------------------------------


@pytest.fixture
def counted(sender: Sender) -> None:
    sender.send(
        put(ONE, 10, "alpha", source="mail"),
        put(TWO, 10, "alpha", source="ftp", label="human"),
        put(THREE, 10, "bad", source="mail"),
        put(FOUR, 10, "alpha"),
        put(FIVE, 10, "beta", source="mail"),
    )
    sender.delete(FIVE, 20)


@pytest.mark.usefixtures("counted")
def test_facets_count_all(sender: Sender, lister: Lister) -> None:
    for _ in range(2):
        assert lister.facets("category,source,status") == Facets(
            4,
            {
                "category": {"alpha": 2, "human": 1},
                "source": {"mail": 2, "ftp": 1},
                "status": {"stored": 3, "failed": 1},
            },
            exact=True,
        )
        sender.fold()


@pytest.mark.usefixtures("counted")
def test_facets_count_what_a_filter_leaves(lister: Lister, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lister.facets("category,status", source="mail") == Facets(
        2, {"category": {"alpha": 1}, "status": {"failed": 1, "stored": 1}}, exact=True
    )
    assert lister.facets("source", category="none") == Facets(0, {"source": {}}, exact=True)
    monkeypatch.setattr(listings, "FACET_DOCUMENTS", 2)
    assert lister.facets("category", source="mail").exact
    assert lister.facets("source", status="stored") == Facets(
        2, {"source": {"ftp": 1}}, exact=False
    )


# --- Export --------------------------------------------------------------------------------------


def test_an_export_has_all_of_a_list_in_parts(sender: Sender, lister: Lister) -> None:
    ids = [document_id(number) for number in range(9)]
    sender.send(*(put(key, 10, "alpha x") for key in ids))
    sender.delete(ids[4], 20)
    left = [key for key in reversed(ids) if key != ids[4]]
    assert flat(lister.export(Listing())) == left
    assert flat(lister.export(Listing(sort=Sort.OLDEST))) == left[::-1]
    parts = lister.export(Listing(Filter(category="alpha")), max_bytes=20)
    assert parts == [left[at : at + 2] for at in range(0, 8, 2)]
    assert [len(part) for part in lister.export(Listing(), max_bytes=1)] == [1] * 8
    assert lister.export(Listing(Filter(category="none"))) == []


def test_an_export_is_one_snapshot(
    sender: Sender, lister: Lister, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [document_id(number) for number in range(50)]
    sender.send(*(put(key, 10, "alpha") for key in ids))
    monkeypatch.setattr(listings, "_EXPORT_PLACES", 5)
    seen = []
    with lister.database.transaction() as session:
        listings.begin_export(session, 60)
        for number, part in enumerate(listings.export(session, Listing(), 10)):
            seen += [(str(row.id), row.content) for row in part]
            sender.delete(ids[number], 20 + number)
            sender.send(put(ids[-1 - number], 100 + number, "changed"))
            sender.send(put(document_id(1000 + number), 10, "new"))
    assert seen == [(key, "alpha") for key in reversed(ids)]


# --- Indexes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listing", "index"),
    [
        (Listing(), "ix_documents_newest"),
        (Listing(Filter(category="alpha")), "ix_documents_category"),
        (Listing(Filter(source="mail")), "ix_documents_source"),
        (Listing(Filter(external_id="x-1")), "ix_documents_external_id"),
        (Listing(Filter(status="failed")), "ix_documents_failed"),
        (Listing(Filter(status="stored")), "ix_documents_newest"),
        (Listing(Filter(label="alpha")), "ix_documents_label"),
        (Listing(Filter(category_source="human")), "ix_documents_labelled"),
        (Listing(Filter(model_version="model-1")), "ix_documents_model_version"),
        (Listing(sort=Sort.OLDEST), "Backward using ix_documents_newest"),
        (Listing(Filter(category="a"), Sort.OLDEST), "Backward using ix_documents_category"),
        (Listing(sort=Sort.LEAST_SURE), "ix_documents_confidence"),
        (Listing(sort=Sort.SUREST), "Backward using ix_documents_confidence"),
        (Listing(Filter(confidence_below=0.5), Sort.SUREST), "ix_documents_confidence"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_each_list_reads_its_index_in_order(
    database: Database, sender: Sender, listing: Listing, index: str, first: bool
) -> None:
    plan = _plan_of_page(database, listing, first=first)
    assert f"{index} on documents" in plan
    assert "Sort" not in plan
    assert listing.indexed
    if not first:
        condition = next(line for line in plan.splitlines() if "Index Cond" in line)
        sign = "<" if listing.sort.descending else ">"
        assert f"ROW({listing.sort.column.key}, id) {sign} ROW(" in condition


def test_metadata_is_found_by_its_index(database: Database, sender: Sender) -> None:
    sender.send(put(ONE, 10, "alpha", metadata={"a": 1}))
    listing = Listing(Filter(metadata=(("a.b", "1"), ("c", "x"))))
    statement, values = _statement_of_page(database, listing, first=True)
    with database.transaction() as session:
        # With them, the planner is free to take another for a table of one row.
        session.execute(text("DROP INDEX ix_documents_newest, ix_documents_category"))
        session.execute(text("SET LOCAL enable_seqscan = off"))
        plan = _explain(session, statement, values)
        session.rollback()
    assert "Bitmap Index Scan on ix_documents_metadata" in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize("sort", [Sort.NEWEST, Sort.OLDEST])
def test_few_unsure_documents_are_sorted_and_many_are_walked(
    database: Database, sender: Sender, monkeypatch: pytest.MonkeyPatch, sort: Sort
) -> None:
    """However many the planner takes them for: it has no statistics of them here."""
    sender.send(*(put(document_id(number), 10, "alpha") for number in range(5)))
    listing = Listing(Filter(confidence_below=0.5), sort)
    monkeypatch.setattr(listings, "_FEW", 5)
    assert "using ix_documents_newest" not in _plan(database, listing)
    assert "Sort Key: ((created_at + " in _plan(database, listing)
    monkeypatch.setattr(listings, "_FEW", 4)
    assert "using ix_documents_newest" in _plan_of_page(database, listing, first=False)


def _plan(database: Database, listing: Listing) -> str:
    statement, values = _statement_of_page(database, listing, first=False)
    with database.transaction() as session:
        return _explain(session, statement, values)


def _plan_of_page(database: Database, listing: Listing, *, first: bool) -> str:
    """Return the plan of the statement that finds a page's places, as `page` sends it."""
    statement, values = _statement_of_page(database, listing, first=first)
    with database.transaction() as session:
        # All that is asked is whether the index can serve the statement at all.
        for other in ("seqscan", "bitmapscan", "sort"):
            session.execute(text(f"SET LOCAL enable_{other} = off"))
        return _explain(session, statement, values)


def _statement_of_page(database: Database, listing: Listing, *, first: bool) -> tuple[str, Any]:
    seen: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        seen.append((statement, values))

    event.listen(database._engine, "before_cursor_execute", note)
    key = 0.5 if listing.sort.by_confidence else datetime.now(UTC)
    cursor = None if first else Cursor(key, UUID(ONE), listing.scope)
    with database.transaction() as session:
        listings.page(session, listing, cursor, 50, 1000)
    event.remove(database._engine, "before_cursor_execute", note)
    return next(each for each in seen if "octet_length" in each[0])


def _explain(session: Session, statement: str, values: Any) -> str:
    cursor = session.connection().connection.cursor()
    cursor.execute(f"EXPLAIN {statement}", values)
    return "\n".join(row[0] for row in cursor.fetchall())
