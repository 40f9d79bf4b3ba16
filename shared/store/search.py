"""Full-text search: the queue of changed texts, the index that is made of it, and the search.

The index is behind the ingestion, which would take seven times as long if it wrote both.
"""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from html import escape
from math import isfinite
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    Double,
    FromClause,
    Row,
    Select,
    cast,
    func,
    literal,
    literal_column,
    select,
    text,
    tuple_,
)
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from shared.errors import TooBroad
from shared.models import Document, IndexedText
from shared.revision import EPOCH
from shared.store import ledger
from shared.store.listings import Filter, Listing, conditions
from shared.store.page import NO_SCOPE, BadCursor

BATCH_DOCUMENTS: Final = 100
BATCH_BYTES: Final = 256 << 10
"""What one call of `index` takes at most, so that it is short whatever the texts are."""

INDEXED_CHARACTERS: Final = 65_536
"""What is indexed of a text: its beginning. More could have more words than a tsvector can hold."""

MAX_CANDIDATES: Final = 1_000
"""Documents that are ranked at most: the newest of those that fit."""

_LOCK_KEY: Final = 0x506F7374496E6478  # "PostIndx"

_WALK_SECONDS: Final = 1
_FENCED_SECONDS: Final = 2
_FENCED_HITS: Final = 20_000
_CANCELED: Final = "57014"

_MICROSECOND: Final = timedelta(microseconds=1)
_MARKS: Final = "\x02\x03"


class NothingToSearch(ValueError):
    """A query without a word that a document must have."""


class Place(NamedTuple):
    """Where a document stands among others by time."""

    created_at: datetime
    id: UUID


class Hit(NamedTuple):
    """A document that fits, and how well; greater is better, and of equals the newer one."""

    rank: float
    place: Place


@dataclass(frozen=True, slots=True)
class RankedCursor:
    """The last hit of a page, and among which documents it was ranked.

    These are all that fit and are neither newer than `newest` nor older than `oldest`: the next
    page ranks the same ones, whatever is written meanwhile.

    Attributes:
        scope: which search it is, 8 bytes: the cursor means nothing in any other.
        ranked: how many they were.
        exact: whether no others fit.
        fenced: see `_candidates`: they may be few of those that fit between the two.
    """

    last: Hit
    newest: Place
    oldest: Place
    scope: bytes
    ranked: int
    exact: bool
    fenced: bool

    def encode(self) -> str:
        """Return the cursor as text for a URL."""
        places = [
            part
            for place in (self.last.place, self.newest, self.oldest)
            for part in ((place.created_at - EPOCH) // _MICROSECOND, place.id.bytes)
        ]
        about = (self.scope, self.ranked, self.exact, self.fenced)
        packed = _CURSOR.pack(b"r", *about, self.last.rank, *places)
        return urlsafe_b64encode(packed).decode()

    @classmethod
    def decode(cls, value: str) -> Self:
        """Return the cursor that `encode` made into `value`.

        Raises:
            BadCursor: it made no such thing.
        """
        try:
            kind, scope, ranked, exact, fenced, rank, *parts = _CURSOR.unpack(
                urlsafe_b64decode(value.encode("ascii"))
            )
            last, newest, oldest = (
                Place(EPOCH + parts[at] * _MICROSECOND, UUID(bytes=parts[at + 1]))
                for at in (0, 2, 4)
            )
        except (ValueError, OverflowError, struct.error) as error:
            raise BadCursor("is not a cursor of this list") from error
        if kind != b"r" or not isfinite(rank):
            raise BadCursor("is not a cursor of this list")
        return cls(Hit(rank, last), newest, oldest, scope, ranked, exact, fenced)


_CURSOR: Final = struct.Struct(">c8sxI??d" + 3 * "Q16s")


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for.

    Attributes:
        q: words, `"phrases"`, `or`, `-without`, as people write them into a search box.
        where: what else a document must be.
    """

    q: str
    where: Filter = field(default_factory=Filter)

    @property
    def scope(self) -> bytes:
        """What tells its cursors from those of other searches."""
        digest = blake2b(Listing(self.where).scope, digest_size=len(NO_SCOPE))
        digest.update(self.q.encode())
        return digest.digest()

    def after(self, cursor: str | None) -> RankedCursor | None:
        """Return the place that a cursor of this search means.

        Raises:
            BadCursor: it is none, or one of another list.
        """
        if cursor is None:
            return None
        place = RankedCursor.decode(cursor)
        if place.scope != self.scope:
            raise BadCursor("belongs to a search for something else, or to another list")
        return place


@dataclass(frozen=True, slots=True)
class Found:
    """A document of a page.

    Attributes:
        rank: how well it fits, greater is better.
        snippet: one or two places of its text as HTML, words that fit in `<mark>`.
    """

    document: Document
    rank: float
    snippet: str


@dataclass(frozen=True, slots=True)
class RankedPage:
    """A page of the documents that fit, best first.

    Attributes:
        ranked: how many were ranked, on all pages together; at most `MAX_CANDIDATES`.
        exact: whether these are all that fit; else they are the newest of them.
        next: place of the next page, None if this is the last one.
    """

    found: Sequence[Found]
    ranked: int
    exact: bool
    next: RankedCursor | None


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


def page(
    session: Session, search: Search, after: RankedCursor | None, limit: int, max_bytes: int
) -> RankedPage:
    """Return a page of the documents that fit, best first.

    Args:
        session: a transaction's session in which nothing was done yet.
        search: what is looked for.
        after: place of the page, None for the first one.
        limit: documents at most.
        max_bytes: bytes of content at most; a page has one document at least, however large.

    Raises:
        NothingToSearch: no word of the query must be there, or all are as common as "the".
        TooBroad: too many documents would have to be looked at.
    """
    ledger.one_snapshot(session)
    if session.scalar(_NEEDED, {"q": search.q}) in {"", "T"}:
        raise NothingToSearch
    fenced, rows = _candidates(session, search, after, limit + 1)
    shown = rows[: _fitting((row.size for row in rows[:limit]), max_bytes)]
    if not shown:
        ranked, exact = (after.ranked, after.exact) if after else (0, not fenced)
        return RankedPage((), ranked, exact, None)
    here = _place(search, after, shown[-1], fenced=fenced)
    following = here if len(shown) < len(rows) else None
    return RankedPage(_show(session, search, shown), here.ranked, here.exact, following)


def _place(
    search: Search, after: RankedCursor | None, last: Row[Any], *, fenced: bool
) -> RankedCursor:
    """Return the place after the last row of a page."""
    hit = Hit(last.rank, Place(last.created_at, last.id))
    if after is not None:
        return replace(after, last=hit)
    newest, oldest = Place(last.newest_at, last.newest_id), Place(last.oldest_at, last.oldest_id)
    exact = last.taken < MAX_CANDIDATES and (not fenced or last.hits < _FENCED_HITS)
    return RankedCursor(hit, newest, oldest, search.scope, last.ranked, exact, fenced)


def _candidates(
    session: Session, search: Search, after: RankedCursor | None, limit: int
) -> tuple[bool, Sequence[Row[Any]]]:
    """Return whether candidates were fenced in, and the best of them.

    PostgreSQL finds the newest by walking back in time if the words are frequent, else by the
    index of words. Where frequent words are in old documents only it walks for long: then it is
    told to use the index of words, and takes the first of very many hits, not the newest.
    """
    if after is not None:
        return after.fenced, _best(session, search, after, limit, fenced=after.fenced)
    try:
        with session.begin_nested():
            return False, _best(session, search, None, limit, fenced=False)
    except TooBroad:
        return True, _best(session, search, None, limit, fenced=True)


def _best(
    session: Session, search: Search, after: RankedCursor | None, limit: int, *, fenced: bool
) -> Sequence[Row[Any]]:
    seconds = _FENCED_SECONDS if fenced else _WALK_SECONDS
    session.execute(_LIMITS, {"timeout": f"{seconds}s", "walk": "off" if fenced else "on"})
    try:
        rows = session.execute(_selected(search, after, limit, fenced=fenced)).all()
    except OperationalError as error:
        if getattr(error.orig, "pgcode", None) == _CANCELED:
            raise TooBroad from error
        raise
    session.execute(_NO_LIMITS)
    return rows


def _selected(
    search: Search, after: RankedCursor | None, limit: int, *, fenced: bool
) -> Select[Any]:
    """Return the statement for the best candidates after a place, and what there is of them."""
    query, hits = _query(search.q), _hits(search.q, fenced=fenced)
    newest = _newest(search, hits, after).cte("newest")
    whole: dict[str, Any] = {
        "order_by": (newest.c.created_at.desc(), newest.c.id.desc()),
        "rows": (None, None),
    }
    columns = {
        "rank": cast(func.ts_rank(IndexedText.tsv, query, _BY_LENGTH), Double),
        "ranked": func.count().over(),
        "taken": select(func.count()).select_from(newest).scalar_subquery(),
        "newest_at": func.first_value(newest.c.created_at).over(**whole),
        "newest_id": func.first_value(newest.c.id).over(**whole),
        "oldest_at": func.last_value(newest.c.created_at).over(**whole),
        "oldest_id": func.last_value(newest.c.id).over(**whole),
    }
    if isinstance(hits, CTE):
        columns["hits"] = select(func.count()).select_from(hits).scalar_subquery()
    labelled = [column.label(name) for name, column in columns.items()]
    # Words and documents are fetched for these only: all that fit are sorted by time without them.
    ranked = (
        select(newest.c.id, newest.c.created_at, _SIZE.label("size"), *labelled)
        .join(IndexedText, IndexedText.id == newest.c.id)
        .join(Document, Document.id == newest.c.id)
        .where(Document.content.is_not(None))
        .subquery()
    )
    order = (ranked.c.rank, ranked.c.created_at, ranked.c.id)
    best = select(ranked).order_by(*(column.desc() for column in order)).limit(limit)
    if after is not None:
        rank = cast(literal(after.last.rank), Double)
        best = best.where(tuple_(*order) < tuple_(rank, *_literals(after.last.place)))
    return best


def _newest(search: Search, hits: FromClause, after: RankedCursor | None) -> Select[Any]:
    """Return the statement for the candidates: the newest, or those of the page before."""
    newest = (
        select(hits.c.id, hits.c.created_at)
        .where(hits.c.tsv.op("@@")(_query(search.q)))
        .order_by(hits.c.created_at.desc(), hits.c.id.desc())
    )
    if search.where.given.keys() - {"created_after", "created_before"}:
        wanted = conditions(Listing(search.where))
        newest = newest.join(Document, Document.id == hits.c.id).where(*wanted)
    # PostgreSQL does not know that both tables' times are the same.
    if (earliest := search.where.created_after) is not None:
        newest = newest.where(hits.c.created_at >= earliest)
    if (end := search.where.created_before) is not None:
        newest = newest.where(hits.c.created_at < end)
    if after is None:
        return newest.limit(MAX_CANDIDATES)
    # What was indexed since may lie in between, so that no limit may leave the last ones out.
    place = tuple_(hits.c.created_at, hits.c.id)
    between = newest.where(place <= tuple_(*_literals(after.newest)))
    return between.where(place >= tuple_(*_literals(after.oldest))).limit(2 * MAX_CANDIDATES)


def _hits(q: str, *, fenced: bool) -> FromClause:
    """Return the table of what is indexed, or the first that the index of words finds in it."""
    if not fenced:
        return IndexedText.__table__
    columns = (IndexedText.id, IndexedText.created_at, IndexedText.tsv)
    fits = IndexedText.tsv.op("@@")(_query(q))
    return select(*columns).where(fits).limit(_FENCED_HITS).cte("hits")


def _query(q: str) -> ColumnElement[Any]:
    return func.websearch_to_tsquery(_CONFIGURATION, q)


def _literals(place: Place) -> tuple[ColumnElement[Any], ...]:
    return literal(place.created_at), literal(place.id)


def _show(session: Session, search: Search, hits: Sequence[Row[Any]]) -> list[Found]:
    """Return the documents of hits with their snippets."""
    beginning = func.translate(func.left(Document.content, INDEXED_CHARACTERS), _MARKS, "")
    snippet = func.ts_headline(_CONFIGURATION, beginning, _query(search.q), _HEADLINE)
    chosen = select(Document, snippet).where(Document.id.in_(hit.id for hit in hits))
    found = {document.id: (document, snippet) for document, snippet in session.execute(chosen)}
    return [
        Found(document, hit.rank, _html(snippet))
        for hit in hits
        for document, snippet in [found[hit.id]]
    ]


def _html(snippet: str) -> str:
    """Return a snippet as HTML: all of the text escaped, so that only our marks are tags."""
    start, stop = _MARKS
    return escape(snippet).replace(start, "<mark>").replace(stop, "</mark>")


def _take(session: Session) -> Sequence[Row[Any]]:
    """Take documents off the queue, a bounded number with a bounded amount of text."""
    values = {"documents": BATCH_DOCUMENTS, "characters": INDEXED_CHARACTERS}
    head = session.execute(_HEAD, values).all()
    taken = head[: _fitting((row.size for row in head), BATCH_BYTES)]
    if taken:
        last = taken[-1]
        rows = {"taken": [each.n for each in taken], "last": last.n, "place": last.place}
        session.execute(_DROP, rows)
    return taken


def _fitting(sizes: Iterable[int], most: int) -> int:
    """Return how many of the first sizes are not too much together; one in any case."""
    count = 0
    for size in sizes:
        most -= size
        if count and most < 0:
            break
        count += 1
    return count


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


_CONFIGURATION: Final[ColumnElement[str]] = literal_column("'postroom'")
_SIZE: Final = func.octet_length(Document.content)

# A rank is divided by 1 + the logarithm of the text's length: long texts have more of any word.
_BY_LENGTH: Final = 1

# Signs that no text has mark the words, or a text that says "<mark>" would be believed.
_HEADLINE: Final = (
    f"StartSel={_MARKS[0]}, StopSel={_MARKS[1]}, MaxFragments=2, MinWords=8, MaxWords=24,"
    ' ShortWord=0, FragmentDelimiter=" … "'
)

_NEEDED: Final = text("SELECT querytree(websearch_to_tsquery('postroom', :q))")

# To compile a statement, or to start processes for it, takes longer than most of these do. At the
# usual cost of a random page, made for turning disks, the walk is taken where it is the slower way.
_LIMITS: Final = text("""
    SELECT set_config('statement_timeout', :timeout, true), set_config('jit', 'off', true),
        set_config('max_parallel_workers_per_gather', '0', true),
        set_config('random_page_cost', '1.1', true),
        set_config('enable_seqscan', :walk, true)
""")
_NO_LIMITS: Final = text("SET LOCAL statement_timeout TO DEFAULT")

_ENQUEUE: Final = text("INSERT INTO index_queue (ids) VALUES (CAST(:ids AS uuid[]))")

_TRY_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:key)")

_HEAD: Final = text("""
    WITH counted AS (
        SELECT n, ids, sum(cardinality(ids)) OVER (ORDER BY n) - cardinality(ids) AS before
        FROM (SELECT n, ids FROM index_queue ORDER BY n LIMIT :documents) first),
    head AS (
        SELECT n, place, id FROM counted, unnest(ids) WITH ORDINALITY AS i(id, place)
        WHERE before < :documents ORDER BY n, place LIMIT :documents)
    SELECT n, place, id::text AS id,
        coalesce(least(octet_length(d.content), :characters), 0) AS size
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
