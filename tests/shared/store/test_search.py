"""The full-text index follows what is written; searches rank, highlight and turn pages."""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from shared.db import Database
from shared.errors import DatabaseUnavailable, TooBroad
from shared.store import documents, ledger, search
from shared.store.listings import Filter
from shared.store.page import BadCursor
from shared.store.search import (
    Hit,
    NothingToSearch,
    Place,
    RankedCursor,
    RankedPage,
    Search,
)
from tests.migrations.test_migrations import alembic
from tests.shared.store.samples import ACCEPTED_AT, Sender, document_id, open_empty, put

MEBIBYTE = 1 << 20
LOTS = 9 * MEBIBYTE
SQL = Callable[..., list[Any]]


def index(database: Database) -> int:
    """Index batches until nothing waits; return how many documents there were."""
    total = 0
    while True:
        with database.transaction() as session:
            done = search.index(session)
        if not done:
            return total
        total += done


def look(
    database: Database,
    q: str,
    after: RankedCursor | None = None,
    limit: int = 50,
    max_bytes: int = LOTS,
    **more: Any,
) -> RankedPage:
    with database.transaction() as session:
        return search.page(session, Search(q, **more), after, limit, max_bytes)


def found(database: Database, q: str, **more: Any) -> set[str]:
    return {str(each.document.id) for each in look(database, q, **more).found}


def store(sender: Sender, *contents: str, start: int = 1) -> list[str]:
    """Store documents, each in a message of its own, so that they have times of their own."""
    keys = [document_id(start + number) for number, _ in enumerate(contents)]
    for key, content in zip(keys, contents, strict=True):
        sender.send(put(key, 1, content))
    return keys


# --- The index follows ----------------------------------------------------------------------------


def test_writes_updates_and_deletes_are_followed(database: Database, sender: Sender) -> None:
    one, two = store(sender, "an apple falls", "a pear stays")
    assert found(database, "apple") == set()
    assert index(database) == 2
    assert found(database, "apple") == {one}
    sender.send(put(one, 2, "a plum falls"), known=[one])
    sender.delete(two, 3)
    assert found(database, "pear") == set()  # gone at once, indexed still
    assert index(database) == 2
    assert (found(database, "apple"), found(database, "plum")) == (set(), {one})
    sender.send(put(two, 4, "an apple again"), known=[two])
    assert index(database) == 1
    assert found(database, "apple") == {two}


def test_a_tombstone_has_nothing_in_the_index(database: Database, sender: Sender, sql: SQL) -> None:
    [key] = store(sender, "an apple")
    index(database)
    sender.delete(key, 2)
    sender.delete(document_id(9), 3)  # unknown
    index(database)
    assert sql("SELECT FROM document_search") == []
    assert sql("SELECT FROM index_queue") == []


def test_a_message_queues_the_ids_whose_text_changed(sender: Sender, sql: SQL) -> None:
    old, same, new = (document_id(number) for number in (1, 2, 3))
    sender.send(put(old, 1, "old"), put(same, 1, "same"))
    sql("TRUNCATE index_queue")
    changes = [put(old, 2, "older"), put(same, 2, "same", source="x"), put(new, 2, "new")]
    sender.send(*changes, known=[old, same])
    queued = sql("SELECT ids FROM index_queue")  # a row for new ones, a row for old ones
    assert sorted(str(each) for [ids] in queued for each in ids) == [old, new]
    sender.send(put(same, 3, "same", source="x"), put(old, 1, "late"), known=[old, same])
    assert len(sql("SELECT FROM index_queue")) == 2
    sender.send(*(put(document_id(n), 1, "more") for n in range(10, 20)))
    assert len(sql("SELECT FROM index_queue")) == 3


def test_what_is_rolled_back_is_not_indexed(database: Database, sender: Sender, sql: SQL) -> None:
    envelope = sender.account.number(1)
    sender.deliver(envelope, put(document_id(1), 1, "an apple"))
    with pytest.raises(ledger.AlreadyAccounted), database.transaction() as session:
        documents.write(session, envelope, [put(document_id(2), 1, "a pear")], [])
    assert len(sql("SELECT FROM index_queue")) == 1


def test_lag_and_what_waits(database: Database, sender: Sender, sql: SQL) -> None:
    def now() -> tuple[float, int]:
        with database.transaction() as session:
            return search.lag(session), search.waiting(session)

    assert now() == (0, 0)
    store(sender, "one", "two")
    sender.send(*(put(document_id(number), 1, "more") for number in range(10, 15)))
    sql(
        "UPDATE index_queue SET at = at - interval '1 hour'"
        " WHERE n = (SELECT min(n) FROM index_queue)"
    )
    lag, waiting = now()
    assert 3600 <= lag < 3660
    assert waiting == 7
    index(database)
    assert now() == (0, 0)


def test_a_batch_is_bounded_whatever_the_messages(
    database: Database, sender: Sender, sql: SQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BATCH_DOCUMENTS", 7)
    store(sender, *(f"single {number}" for number in range(10)))
    sender.send(*(put(document_id(number), 1, f"batch {number}") for number in range(100, 120)))
    store(sender, "last", start=200)
    batches: list[int] = []
    while not batches or batches[-1]:
        with database.transaction() as session:
            batches.append(search.index(session))
    assert batches == [7, 7, 7, 7, 3, 0]
    assert len(sql("SELECT FROM document_search")) == 31


def test_a_batch_has_a_bounded_amount_of_text(database: Database, sender: Sender) -> None:
    huge = "word " * 200_000
    sender.send(*(put(document_id(number), 1, f"{number} {huge}") for number in range(5)))
    batches: list[int] = []
    while not batches or batches[-1]:
        with database.transaction() as session:
            batches.append(search.index(session))
    assert batches == [4, 1, 0]


def test_ids_come_back_in_the_queue(database: Database, sender: Sender, sql: SQL) -> None:
    [key] = store(sender, "first")
    for stamp in range(2, 6):
        sender.send(put(key, stamp, f"text {stamp}"), known=[key])
    assert index(database) == 5
    assert sql("SELECT content_revision FROM document_search") == [(5,)]


def test_a_row_that_commits_late_is_not_lost(database: Database, sender: Sender, sql: SQL) -> None:
    """Its number is smaller than those that the indexer has dealt with already."""
    with database.transaction() as late:
        documents.write(late, sender.account.number(1), [put(document_id(1), 1, "late")], [])
        store(sender, "soon", start=2)
        assert index(database) == 1
    assert index(database) == 1
    assert len(found(database, "late")) == 1


# --- Two indexers, and one that is killed ---------------------------------------------------------


def test_of_two_indexers_one_works(database: Database, sender: Sender) -> None:
    store(sender, "an apple")
    with database.transaction() as first:
        assert search.index(first) == 1
        with database.transaction() as second:
            assert search.index(second) == 0
    assert len(found(database, "apple")) == 1


def test_an_older_text_never_replaces_a_newer_one(
    database: Database, sender: Sender, sql: SQL
) -> None:
    [key] = store(sender, "an apple")
    index(database)
    sql("UPDATE document_search SET content_revision = 5, tsv = to_tsvector('postroom', 'a pear')")
    sql("INSERT INTO index_queue (ids) VALUES (ARRAY[CAST(:id AS uuid)])", id=key)
    index(database)
    assert sql("SELECT content_revision FROM document_search") == [(5,)]


def test_what_a_killed_indexer_had_taken_is_done_again(
    database: Database, sender: Sender, sql: SQL
) -> None:
    store(sender, "an apple")
    with pytest.raises(DatabaseUnavailable), database.transaction() as session:  # noqa: PT012  # the kill is the point
        assert search.index(session) == 1
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        sql("SELECT pg_terminate_backend(:pid)", pid=pid)
        session.execute(text("SELECT 1"))
    assert sql("SELECT FROM document_search") == []
    assert index(database) == 1
    assert len(found(database, "apple")) == 1


def test_writers_deleters_and_two_indexers_at_once(
    database: Database, sender: Sender, sql: SQL
) -> None:
    """In the end the index says of each document what its text says."""
    stop = Event()
    keys = [document_id(number) for number in range(20)]

    def write(seed: int) -> None:
        own, chance = Sender(database), random.Random(seed)
        for stamp in range(1, 150):
            key = chance.choice(keys)
            if chance.random() < 0.2:
                own.delete(key, 10 * stamp + seed)
            else:
                words = " ".join(chance.choices(["apple", "pear", "plum"], k=2))
                own.send(put(key, 10 * stamp + seed, words), known=list(own.known(key)))

    def keep_indexing() -> None:
        while not stop.is_set():
            index(database)

    writers = [Thread(target=write, args=(seed,)) for seed in (1, 2)]
    indexers = [Thread(target=keep_indexing) for _ in range(2)]
    for thread in (*writers, *indexers):
        thread.start()
    for thread in writers:
        thread.join(60)
    stop.set()
    for thread in indexers:
        thread.join(60)
    index(database)
    assert sql("SELECT FROM index_queue") == []
    texts = "SELECT id, to_tsvector('postroom', content) FROM documents WHERE content IS NOT NULL"
    assert sql(f"{texts} ORDER BY id") == sql("SELECT id, tsv FROM document_search ORDER BY id")


# --- Odd texts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "x" * MEBIBYTE,
        " ".join(f"{number:x}" for number in range(150_000))[:MEBIBYTE],
        "𐐀" * (MEBIBYTE // 4),
        "a-" * (MEBIBYTE // 2),
        "www.example.org/" * (MEBIBYTE // 16),
        "\ufffe\x01\x02\x03 '\"\\ :*&|!()<->",
        " ",
        "',:1A 'b':2",
    ],
    ids=["one word", "many words", "wide", "hyphens", "addresses", "signs", "blank", "tsvector"],
)
def test_any_text_can_be_indexed(
    database: Database, sender: Sender, sql: SQL, content: str
) -> None:
    odd, _ = store(sender, f"odd {content}", "an apple")
    assert index(database) == 2
    assert len(found(database, "apple")) == 1
    assert sql("SELECT FROM document_search WHERE id = CAST(:id AS uuid)", id=odd) == [()]


def test_the_beginning_of_a_text_is_indexed(database: Database, sender: Sender) -> None:
    beginning = "word " * (search.INDEXED_CHARACTERS // 5)
    store(sender, f"pear {beginning} apple")
    index(database)
    assert len(found(database, "pear")) == 1
    assert found(database, "apple") == set()


def test_a_text_that_cannot_be_indexed_stops_no_other(
    database: Database, sender: Sender, sql: SQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen with a limit that lets more words through than PostgreSQL can hold."""
    monkeypatch.setattr(search, "INDEXED_CHARACTERS", MEBIBYTE)
    monkeypatch.setattr(search, "BATCH_BYTES", 100 * MEBIBYTE)
    chance = random.Random(1)
    huge = " ".join(f"{chance.getrandbits(64):016x}" for _ in range(MEBIBYTE // 17))
    writes = [put(document_id(number), 1, f"apple {number}") for number in range(9)]
    writes[4] = put(document_id(4), 1, huge)
    sender.send(*writes)
    assert index(database) == 9
    assert len(found(database, "apple")) == 8
    assert sql("SELECT id FROM document_search WHERE tsv = ''") == [(UUID(document_id(4)),)]


# --- Documents that were there before ------------------------------------------------------------


def test_documents_from_before_are_indexed(database_url: str) -> None:
    database = open_empty(database_url)
    try:
        sender = Sender(database)
        sender.send(*(put(document_id(n), 1, f"apple number{n}") for n in range(1, 1202)))
        sender.delete(document_id(7), 2)
        alembic(database_url, "downgrade", "20261121_search-1")
        alembic(database_url, "upgrade", "head")
        with database.transaction() as session:
            assert search.waiting(session) == 1200
            sizes = session.scalars(text("SELECT cardinality(ids) FROM index_queue ORDER BY n"))
            assert sizes.all() == [500, 500, 200]
        assert index(database) == 1200
        assert found(database, "number1201") == {document_id(1201)}
        assert found(database, "number7") == set()
    finally:
        database.close()


# --- What is found -------------------------------------------------------------------------------


def test_words_phrases_alternatives_and_exclusions(database: Database, sender: Sender) -> None:
    one, two, three = store(
        sender, "red apples and green pears", "green apples", "a green, unripe pear"
    )
    index(database)
    for q, expected in {
        "apple": {one, two},
        "APPLES green": {one, two},
        "apple or pear": {one, two, three},
        "green -apple": {three},
        '"green pears"': {one},
        '"green apples" or unripe': {two, three},
        "nothing": set(),
    }.items():
        assert found(database, q) == expected, q


def test_other_conditions_are_kept(database: Database, sender: Sender) -> None:
    one, two = store(sender, "fruit apple", "tool apple")
    index(database)
    assert found(database, "apple") == {one, two}
    assert found(database, "apple", where=Filter(category="fruit")) == {one}


def test_the_better_fit_comes_first_and_of_equals_the_newer(
    database: Database, sender: Sender
) -> None:
    once, twice, again = store(
        sender, "apple and nothing else here", "apple apple", "apple and nothing else there"
    )
    index(database)
    page = look(database, "apple")
    assert [str(each.document.id) for each in page.found] == [twice, again, once]
    ranks = [each.rank for each in page.found]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] > ranks[1] == ranks[2] > 0
    assert (page.ranked, page.exact, page.next) == (3, True, None)


@pytest.mark.parametrize("q", ["the", "of the and", "-apple", "apple or -pear", "...", "''", '"'])
def test_a_query_without_a_word_is_refused(database: Database, q: str) -> None:
    with pytest.raises(NothingToSearch):
        look(database, q)


@pytest.mark.parametrize(
    "q",
    [
        "apple' OR 1=1 --",
        "apple :* & | ! ( ) <-> \\",
        'apple " " "',
        "apple %s %(q)s :q {0}",
        "apple " + "(" * 500,
        "apple -" + "x" * 5000,
        "apple or " * 200,
        "apple \x01\x02\x03\ufffe",
        "apple:*A & <1000> pear:B",
    ],
)
def test_no_query_breaks(database: Database, sender: Sender, q: str) -> None:
    store(sender, "apple pear")
    index(database)
    assert look(database, q).exact


def test_snippets_are_html_in_which_only_our_marks_are_tags(
    database: Database, sender: Sender
) -> None:
    text_ = 'x \x02 y \x03 a <b> & "q" <mark>apple</mark> <script>alert(1)</script> pear'
    store(sender, text_)
    index(database)
    [one] = look(database, "apples pears").found
    assert one.snippet.count("<") == 2 * one.snippet.count("<mark>") == 4
    assert "<mark>apple</mark>" in one.snippet
    assert "<mark>pear</mark>" in one.snippet
    assert "&amp;" in one.snippet
    assert not {"\x02", "\x03"} & set(one.snippet)


def test_a_snippet_shows_the_place_of_a_long_text(database: Database, sender: Sender) -> None:
    store(sender, "word " * 3000 + "here is an apple indeed " + "word " * 3000)
    index(database)
    [one] = look(database, "apple").found
    assert "here is an <mark>apple</mark> indeed" in one.snippet
    assert len(one.snippet) < 500


# --- Pages ---------------------------------------------------------------------------------------


def pages(database: Database, q: str, limit: int) -> Iterator[RankedPage]:
    after = None
    while True:
        page = look(database, q, after, limit)
        yield page
        if page.next is None:
            return
        after = RankedCursor.decode(page.next.encode())


def ids(page: RankedPage) -> list[str]:
    return [str(each.document.id) for each in page.found]


def test_pages_neither_skip_nor_repeat_while_others_write(
    database: Database, sender: Sender
) -> None:
    chance = random.Random(3)
    texts = [" ".join(chance.choices(["apple", "pear", "plum"], k=5)) for _ in range(60)]
    store(sender, *(f"{each} apple" for each in texts))
    index(database)
    expected = ids(look(database, "apple", limit=250))
    assert len(expected) == 60
    seen = []
    for number, page in enumerate(pages(database, "apple", 7)):
        assert (page.ranked, page.exact) == (60, True)
        seen += ids(page)
        store(sender, "apple apple apple", "apple pear", start=1000 + 2 * number)
        index(database)
    assert seen == expected


def test_only_the_newest_are_ranked_and_it_is_said(
    database: Database, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_CANDIDATES", 20)
    keys = store(sender, "apple apple apple", *(f"apple {number}" for number in range(29)))
    index(database)
    seen = []
    for page in pages(database, "apple", 6):
        assert (page.ranked, page.exact) == (20, False)
        seen += ids(page)
        store(sender, "apple", start=1000 + len(seen))
        index(database)
    assert len(seen) == 20
    assert set(seen) == set(keys[-20:])


def test_a_page_of_large_documents_is_shorter(database: Database, sender: Sender) -> None:
    store(sender, *("apple " + "x" * 1000 for _ in range(5)))
    index(database)
    first = look(database, "apple", max_bytes=2500)
    assert len(first.found) == 2
    assert first.next is not None
    assert len(look(database, "apple", first.next, max_bytes=1).found) == 1


def test_deleted_documents_are_missing_from_later_pages(database: Database, sender: Sender) -> None:
    keys = store(sender, *(f"apple {number}" for number in range(6)))
    index(database)
    first = look(database, "apple", limit=2)
    sender.delete(keys[2], 9)
    rest = look(database, "apple", first.next)
    assert sorted(ids(first) + ids(rest)) == sorted(set(keys) - {keys[2]})


def test_a_walk_that_takes_too_long_becomes_a_search_by_word(
    database: Database, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(sender, *(f"apple {number}" for number in range(30)))
    index(database)
    monkeypatch.setattr(search, "_FENCED_HITS", 20)
    real, tried = search._selected, []

    def selected(*arguments: Any, fenced: bool) -> Any:
        tried.append(fenced)
        return real(*arguments, fenced=fenced) if fenced else text("SELECT pg_sleep(30)")

    monkeypatch.setattr(search, "_selected", selected)
    monkeypatch.setattr(search, "_WALK_SECONDS", 0.05)
    seen = list(itertools.chain.from_iterable(map(ids, pages(database, "apple", 6))))
    assert len(seen) == len(set(seen)) == 20
    assert tried == [False, True, True, True, True]
    assert not look(database, "apple").exact


def test_what_takes_too_long_even_so_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_selected", lambda *_, **__: text("SELECT pg_sleep(30)"))
    monkeypatch.setattr(search, "_WALK_SECONDS", 0.05)
    monkeypatch.setattr(search, "_FENCED_SECONDS", 0.05)
    with pytest.raises(TooBroad):
        look(database, "apple")


NOW = Place(datetime(2026, 11, 21, 13, 0, 0, 123456, UTC), UUID(int=4711))
OLD = Place(datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))
CURSOR = RankedCursor(Hit(0.0607927106320858, NOW), NOW, OLD, b"12345678", 1000, True, False)


@pytest.mark.parametrize("cursor", [CURSOR, replace(CURSOR, exact=False, fenced=True)])
def test_a_cursor_comes_back_exactly(cursor: RankedCursor) -> None:
    assert RankedCursor.decode(cursor.encode()) == cursor


@pytest.mark.parametrize("wrong", ["", "x", "ä", CURSOR.encode()[:-4], CURSOR.encode() + "AAAA"])
def test_a_cursor_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(BadCursor):
        RankedCursor.decode(wrong)


# --- Pressure ------------------------------------------------------------------------------------


def test_pressure_is_when_documents_come_late_and_just_now(
    database: Database, sender: Sender, sql: SQL
) -> None:
    def pressed() -> bool:
        with database.transaction() as session:
            return search.under_pressure(session)

    assert not pressed()
    store(sender, f"accepted at {ACCEPTED_AT}")
    assert pressed()
    sql("UPDATE documents SET accepted_at = now()")
    assert not pressed()
    sql("UPDATE documents SET accepted_at = now() - interval '1 hour'")
    assert pressed()
    sql("UPDATE index_queue SET at = now() - interval '5 s'")
    assert not pressed()
