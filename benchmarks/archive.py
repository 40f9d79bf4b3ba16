"""Very many documents, made at once: rows as the worker would have stored them."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

import numpy as np
import orjson
import psycopg2
from numpy.typing import NDArray

from worker.classify.artefact import DEFAULT, read

SOURCES: Final = 50
AUTHORS: Final = 50_000
WORDS: Final = 90
"""Words of a text, on average."""

_FAILED, _LABELLED, _WITH_METADATA = 0.001, 0.01, 0.7
_END: Final = datetime(2026, 11, 21, tzinfo=UTC)
_DAYS: Final = 60
_PART: Final = 20_000
_COLUMNS: Final = (
    "id, revision, content_revision, label_revision, content, content_hash, metadata, source,"
    " external_id, predicted_category, confidence, model_version, label, status, error, task_id,"
    " accepted_at, created_at, updated_at, classified_at"
)
_ERROR: Final = orjson.dumps({"title": "The document could not be classified"}).decode()


class Archive:
    """Makes the rows: texts of the model's words by Zipf's law, categories as often as real ones.

    One in a hundred has a label, one in a thousand could not be classified, the oldest tenth is
    of an older model, and seven in ten have metadata.
    """

    def __init__(self, documents: int) -> None:
        model = read(DEFAULT)
        self.categories = list(model.categories)
        self._words = np.array(model.vectoriser.terms, dtype=object)
        self._chance = np.random.default_rng(20)
        self._documents = documents
        self._step = timedelta(days=_DAYS) / documents

    def load(self, database: psycopg2.extensions.connection) -> None:
        """Fill the empty table `documents` of a migrated database, and the counts."""
        with database.cursor() as cursor:
            cursor.execute("SET synchronous_commit = off; SET maintenance_work_mem = '512MB'")
            cursor.execute(
                "SELECT indexname, indexdef FROM pg_indexes"
                " WHERE tablename = 'documents' AND indexname NOT LIKE 'pk%'"
            )
            indexes = cursor.fetchall()
            for name, _ in indexes:
                cursor.execute(f"DROP INDEX {name}")
            for start in range(0, self._documents, _PART):
                rows = self._rows(start, min(_PART, self._documents - start))
                lines = io.StringIO("".join(rows))
                cursor.copy_expert(f"COPY documents ({_COLUMNS}) FROM STDIN", lines)
            for _, definition in indexes:
                cursor.execute(definition)
            for kind in ("category", "source", "status"):
                cursor.execute(
                    f"INSERT INTO counts (kind, key, n) SELECT '{kind}', {kind}, count(*)"
                    f" FROM documents WHERE {kind} IS NOT NULL GROUP BY 2"
                )
            cursor.execute("VACUUM ANALYZE")

    def _rows(self, start: int, count: int) -> Iterator[str]:
        chance = self._chance
        lengths = chance.poisson(WORDS, count) + 1
        words = self._words[_zipf(chance, len(self._words), int(lengths.sum()))]
        texts = np.split(words, np.cumsum(lengths)[:-1])
        sources = _zipf(chance, SOURCES, count)
        categories = chance.integers(len(self.categories), size=count)
        authors = _zipf(chance, AUTHORS, count)
        confidences = chance.beta(5, 2, count)
        dice = chance.random((count, 3))
        for at in range(count):
            yield self._row(
                number=start + at,
                content=" ".join(texts[at]),
                source=f"source-{sources[at]}",
                category=self.categories[categories[at]],
                author=int(authors[at]),
                confidence=float(confidences[at]),
                dice=dice[at],
            )

    def _row(
        self,
        *,
        number: int,
        content: str,
        source: str,
        category: str,
        author: int,
        confidence: float,
        dice: NDArray[np.float64],
    ) -> str:
        created_at = _END - timedelta(days=_DAYS) + number * self._step
        revision = int(created_at.timestamp() * 1_000_000)
        failed = dice[0] < _FAILED
        metadata: dict[str, Any] = {}
        if dice[1] < _WITH_METADATA:
            metadata = {
                "author": f"user-{author}",
                "year": 2000 + number % 27,
                "tags": [f"tag-{number % 7}", f"tag-{number % 11}"],
                "thread": {"id": number // 5, "open": number % 3 == 0},
            }
        values = (
            _uuid7(revision, number),
            revision,
            revision,
            0,
            content,
            "\\\\x" + blake2b(content.encode(), digest_size=32).hexdigest(),
            orjson.dumps(metadata).decode(),
            source,
            f"post-{number}" if number % 2 else None,
            None if failed else category,
            None if failed else confidence,
            f"model-{1 if number < self._documents // 10 else 2}",
            category if dice[2] < _LABELLED else None,
            "failed" if failed else "stored",
            _ERROR if failed else None,
            f"0198f3c2-7a3b-7cc2-a1f0-4d3f0c2f6b11.{number // 100}",
            *[created_at] * 4,
        )
        return "\t".join("\\N" if each is None else str(each) for each in values) + "\n"


def _zipf(chance: np.random.Generator, largest: int, count: int) -> NDArray[np.int64]:
    """Return numbers from 0 on, each about as often as its place in the order says."""
    numbers: NDArray[np.int64] = np.exp(chance.random(count) * np.log(largest)).astype(np.int64)
    return numbers - 1


def _uuid7(microseconds: int, number: int) -> UUID:
    high = (microseconds // 1000) << 80 | 0x7 << 76 | (number & 0xFFF) << 64
    low = 0b10 << 62 | (number * 0x9E3779B97F4A7C15 & ((1 << 62) - 1))
    return UUID(int=high | low)
