"""Searches among very many documents: their index, and words by how many documents have them."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg2

from shared.store.search import INDEXED_CHARACTERS

_WORDS: Final = 10
"""Words of one kind, asked for in turns."""

_HITS: Final = (500_000, 50_000, 10_000, 1_000)

_SAMPLE: Final = "SELECT tsv FROM document_search TABLESAMPLE SYSTEM (1) REPEATABLE (1)"


def index(database: psycopg2.extensions.connection) -> None:
    """Index all documents as the indexer would, but in one go."""
    with database.cursor() as cursor:
        cursor.execute("SET maintenance_work_mem = '512MB'")
        cursor.execute(
            "SELECT indexname, indexdef FROM pg_indexes"
            " WHERE tablename = 'document_search' AND indexname NOT LIKE 'pk%'"
        )
        indexes = cursor.fetchall()
        for name, _ in indexes:
            cursor.execute(f"DROP INDEX {name}")
        cursor.execute(
            "INSERT INTO document_search SELECT id, created_at, content_revision,"
            " to_tsvector('postroom', left(content, %s)) FROM documents ORDER BY created_at",
            (INDEXED_CHARACTERS,),
        )
        for _, definition in indexes:
            cursor.execute(definition)
        cursor.execute("VACUUM ANALYZE document_search")


def words(database: Any, documents: int) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield a name and words for each kind: the commonest word, then words by their hits.

    They are counted in a hundredth of the documents.
    """
    database.execute(f"SELECT count(*) FROM ({_SAMPLE}) sample")
    [[size]] = database.fetchall()
    # Words that are their own stems, so that they are found as they stand here.
    database.execute(
        "SELECT word, ndoc FROM ts_stat(%s)"
        " WHERE websearch_to_tsquery('postroom', word)::text = quote_literal(word)"
        " ORDER BY ndoc DESC, word",
        (_SAMPLE,),
    )
    found = [(word, ndoc * documents // size) for word, ndoc in database.fetchall()]
    yield f"commonest word, {found[0][1]:,} hits", [found[0][0]]
    for most in _HITS:
        some = [(word, hits) for word, hits in found if hits <= most][:_WORDS]
        yield f"words, {some[-1][1]:,} to {some[0][1]:,} hits", [word for word, _ in some]
