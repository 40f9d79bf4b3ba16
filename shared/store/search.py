"""Full-text search: the queue of changed documents, the index behind it, and the search itself."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

BATCH_DOCUMENTS: Final = 250
BATCH_BYTES: Final = 512 << 10
"""What one call of `index` takes at most: a tenth of a second of one core, whatever the texts."""

INDEXED_CHARACTERS: Final = 65_536
"""What is indexed of a text: its beginning. More could have more words than a tsvector can hold."""

_LOCK_KEY: Final = 0x506F7374496E6478  # "PostIndx"


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A document in the queue: in row `n`, at `place`, 1 for the first."""

    n: int
    place: int
    id: str
    size: int


def enqueue(session: Session, ids: Collection[str]) -> None:
    """Let documents be indexed anew once this transaction has committed."""
    if ids:
        session.execute(_ENQUEUE, {"ids": list(ids)})


def index(session: Session) -> int:
    """Index a batch of the documents that have waited longest; return how many.

    Nothing is done, and 0 returned, while another transaction does the same. What a document's
    row says when it is read counts, so their order in the queue does not matter.
    """
    if not session.scalar(_TRY_LOCK, {"key": _LOCK_KEY}):
        return 0
    waiting = _take(session)
    ids = sorted({each.id for each in waiting})
    if ids:
        session.execute(_REMOVE, {"ids": ids})
        _index(session, ids)
    return len(waiting)


def lag(session: Session) -> float:
    """Return how long the first document of the queue has waited, in seconds."""
    return float(session.scalar(_LAG) or 0)


def waiting(session: Session) -> int:
    """Return how many documents wait to be indexed."""
    return int(session.scalar(_WAITING) or 0)


def under_pressure(session: Session) -> bool:
    """Say whether documents wait to be stored: the newest came late, and only just."""
    return bool(session.scalar(_UNDER_PRESSURE))


def _take(session: Session) -> Sequence[_Waiting]:
    """Take documents off the queue, a bounded number with a bounded amount of text."""
    values = {"documents": BATCH_DOCUMENTS, "characters": INDEXED_CHARACTERS}
    taken = _fitting(_Waiting(*row) for row in session.execute(_HEAD, values))
    if taken:
        last = taken[-1]
        rows = {"taken": [each.n for each in taken], "last": last.n, "place": last.place}
        session.execute(_DROP, rows)
    return taken


def _fitting(head: Iterable[_Waiting]) -> list[_Waiting]:
    """Return the documents up to the one whose text would be too much; the first in any case."""
    taken: list[_Waiting] = []
    left = BATCH_BYTES
    for each in head:
        left -= each.size
        if taken and left < 0:
            break
        taken.append(each)
    return taken


def _index(session: Session, ids: Sequence[str]) -> None:
    """Index documents; where PostgreSQL cannot do it with one of them, find it and leave it out."""
    values: dict[str, Any] = {"ids": ids, "characters": INDEXED_CHARACTERS}
    try:
        with session.begin_nested():
            session.execute(_INDEX, values)
    except DBAPIError as error:
        if not _is_the_texts_fault(error):
            raise
        if len(ids) == 1:
            session.execute(_INDEX, values | {"characters": 0})
            return
        middle = len(ids) // 2
        _index(session, ids[:middle])
        _index(session, ids[middle:])


def _is_the_texts_fault(error: DBAPIError) -> bool:
    code: str = getattr(error.orig, "pgcode", None) or ""
    return code[:2] in {"22", "54"}  # data exception, program limit exceeded


_ENQUEUE: Final = text("INSERT INTO index_queue (ids) VALUES (CAST(:ids AS uuid[]))")

_TRY_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:key)")

_HEAD: Final = text("""
    WITH counted AS (
        SELECT n, ids, sum(cardinality(ids)) OVER (ORDER BY n) - cardinality(ids) AS before
        FROM (SELECT n, ids FROM index_queue ORDER BY n LIMIT :documents) first),
    head AS (
        SELECT n, place, id FROM counted, unnest(ids) WITH ORDINALITY AS i(id, place)
        WHERE before < :documents ORDER BY n, place LIMIT :documents)
    SELECT n, place, id::text,
        coalesce(least(octet_length(d.content), 4 * CAST(:characters AS int)), 0)
    FROM head LEFT JOIN documents d USING (id) ORDER BY n, place
""")

# Of all rows but the last everything was taken.
_DROP: Final = text("""
    WITH shortened AS (
        UPDATE index_queue SET ids = ids[CAST(:place AS int) + 1 : cardinality(ids)]
        WHERE n = :last AND cardinality(ids) > :place RETURNING n)
    DELETE FROM index_queue WHERE n = ANY(:taken) AND n NOT IN (SELECT n FROM shortened)
""")

_INDEX: Final = text("""
    INSERT INTO document_search AS s (id, created_at, content_revision, tsv)
    SELECT id, created_at, content_revision, to_tsvector('postroom', left(content, :characters))
    FROM documents WHERE id = ANY(CAST(:ids AS uuid[])) AND content IS NOT NULL ORDER BY id
    ON CONFLICT (id) DO UPDATE SET created_at = excluded.created_at,
        content_revision = excluded.content_revision, tsv = excluded.tsv
    WHERE s.content_revision <= excluded.content_revision
""")

_REMOVE: Final = text("""
    DELETE FROM document_search s WHERE id = ANY(CAST(:ids AS uuid[])) AND NOT EXISTS (
        SELECT FROM documents d WHERE d.id = s.id AND d.content IS NOT NULL)
""")

_LAG: Final = text("""
    SELECT greatest(extract(epoch FROM clock_timestamp() - min(at)), 0) FROM index_queue
""")

_WAITING: Final = text("SELECT sum(cardinality(ids)) FROM index_queue")

_UNDER_PRESSURE: Final = text("""
    SELECT at > clock_timestamp() - interval '2 s' AND at > d.accepted_at + interval '2 s'
    FROM (SELECT at, ids[1] AS id FROM index_queue ORDER BY n DESC LIMIT 1) newest
        JOIN documents d USING (id)
""")
