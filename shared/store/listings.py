"""Lists of documents: what a filter chooses, page by page, counted, or all of it."""

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

import orjson
from sqlalchemy import (
    ColumnElement,
    Double,
    Row,
    Select,
    cast,
    func,
    inspect,
    literal,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import InstrumentedAttribute, Session

from shared.errors import TooBroad
from shared.models import Document
from shared.store import ledger
from shared.store.page import NO_SCOPE, BadCursor, Cursor

SelectT = TypeVar("SelectT", bound=Select[Any])

BROAD_SECONDS: Final = 2
"""Time that a list may take to look at documents that its filter does not want."""

FACET_DOCUMENTS: Final = 10_000
"""Documents that are counted one by one at most."""

_EXPORT_PLACES: Final = 1_000
_FEW: Final = 3_000
_CANCELED: Final = "57014"


class Sort(StrEnum):
    """How a list is sorted; equal ones by id."""

    NEWEST = "-created_at"
    OLDEST = "created_at"
    LEAST_SURE = "confidence"
    SUREST = "-confidence"

    @property
    def by_confidence(self) -> bool:
        """Whether the list has only documents that have a model's category."""
        return self in {Sort.LEAST_SURE, Sort.SUREST}

    @property
    def column(self) -> InstrumentedAttribute[Any]:
        """What is sorted by."""
        return Document.confidence if self.by_confidence else Document.created_at

    @property
    def descending(self) -> bool:
        """Whether the largest comes first."""
        return self.startswith("-")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which documents to list; None means any.

    Attributes:
        label: the human label.
        category_source: "human" for documents with a label, "model" for those without.
        confidence_below: of documents that a model has sorted: the score is less.
        created_after, created_before: from this time on, and before that one.
        metadata: (path, value) pairs, all of which must fit; see `steps` and `_has`.
    """

    category: str | None = None
    source: str | None = None
    external_id: str | None = None
    status: str | None = None
    model_version: str | None = None
    label: str | None = None
    category_source: Literal["model", "human"] | None = None
    confidence_below: float | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def given(self) -> dict[str, Any]:
        """What is asked for, by name."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value not in {None, ()}}


@dataclass(frozen=True, slots=True)
class Listing:
    """A list: which documents, in which order."""

    where: Filter = Filter()
    sort: Sort = Sort.NEWEST

    @property
    def scope(self) -> bytes:
        """What tells its cursors from those of other lists; filters yet to come change nothing."""
        asked = [f"{name}={value}" for name, value in sorted(self.where.given.items())]
        return blake2b("\0".join([self.sort, *asked]).encode(), digest_size=len(NO_SCOPE)).digest()

    @property
    def indexed(self) -> bool:
        """Whether one index finds its pages, so that none of them can take long."""
        asked = self.where.given.keys() - {"created_after", "created_before"}
        if self.sort.by_confidence:
            return self.where.given.keys() <= {"confidence_below"}
        return len(asked) <= 1 and not asked & {"metadata", "confidence_below"}

    def cursor(self, row: Any) -> Cursor:
        """Return the place of a document in the list."""
        return Cursor(getattr(row, self.sort.column.key), row.id, self.scope)

    def after(self, cursor: str | None) -> Cursor | None:
        """Return the place that a cursor of this list means.

        Raises:
            BadCursor: it is none, or one of another list.
        """
        if cursor is None:
            return None
        place = Cursor.decode(cursor)
        place.check(self.scope)
        if isinstance(place.key, float) is not self.sort.by_confidence:
            raise BadCursor("is not a cursor of this list")
        return place


@dataclass(frozen=True, slots=True)
class Facets:
    """How many documents there are, and how many with each value of some fields.

    Attributes:
        documents: how many.
        values: by field, the most frequent value first.
        exact: whether these are all; else each number is "at least".
    """

    documents: int
    values: dict[str, dict[str, int]]
    exact: bool


@dataclass(frozen=True, slots=True)
class Reclassified:
    """A document to classify anew; `size` is its content's, in bytes."""

    id: UUID
    content_revision: int
    created_at: datetime
    size: int


def page(
    session: Session, listing: Listing, after: Cursor | None, limit: int, max_bytes: int
) -> tuple[Sequence[Document], bool]:
    """Return a page of documents, and whether there are more.

    Args:
        session: a transaction's session in which nothing was done yet.
        listing: which list.
        after: the last document of the page before, or None for the first page.
        limit: documents at most.
        max_bytes: bytes of content at most; a page has one document at least, however large.

    Raises:
        TooBroad: too many documents would have to be looked at.
    """
    # One snapshot for both statements: a document deleted in between would come without content.
    ledger.one_snapshot(session)
    with _in_time(session, listing):
        few = _few(session, listing)
        places = _placed(select(Document.id, _SIZE), listing, after, few=few).limit(limit + 1)
        found = session.execute(places).all()
    ids = next(_parts(found[:limit], max_bytes), [])
    rows = session.scalars(select(Document).where(Document.id.in_(ids)).order_by(*_order(listing)))
    return rows.all(), len(ids) < len(found)


def facets(session: Session, where: Filter, by: Iterable[str]) -> Facets:
    """Count documents by the values of "category", "source" and "status".

    Without a filter the counts are those that are kept anyway. With one, up to
    `FACET_DOCUMENTS` documents are counted, the newest.

    Args:
        session: a transaction's session in which nothing was done yet.
        where: which documents.
        by: of these fields.

    Raises:
        TooBroad: too many documents would have to be looked at.
    """
    if not where.given:
        ledger.one_snapshot(session)
        counts = {kind: ledger.counts(session, kind) for kind in {*by, "status"}}
        return Facets(sum(counts["status"].values()), {kind: counts[kind] for kind in by}, True)
    listing = Listing(where)
    columns = [getattr(Document, name) for name in by]
    with _in_time(session, listing):
        newest = _placed(select(*columns), listing, None, few=_few(session, listing))
        rows = session.execute(newest.limit(FACET_DOCUMENTS + 1)).all()
    counted = rows[:FACET_DOCUMENTS]
    values = {name: Counter(getattr(row, name) for row in counted) for name in by}
    for counts_of_one in values.values():
        del counts_of_one[None]
    most = {name: dict(counts.most_common()) for name, counts in values.items()}
    return Facets(len(counted), most, len(rows) <= FACET_DOCUMENTS)


def begin_export(session: Session, silent_seconds: int) -> Callable[[], None]:
    """Take the snapshot of an export; return what interrupts its statements from another thread.

    Args:
        session: a transaction's session in which nothing was done yet.
        silent_seconds: time without a statement after which PostgreSQL ends the transaction.
    """
    ledger.one_snapshot(session)
    session.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{silent_seconds}s'"))
    session.execute(text("SELECT 1"))  # the first query takes the snapshot
    connection: Any = session.connection().connection.dbapi_connection

    def interrupt() -> None:
        # It may be closed already, or its server gone.
        with contextlib.suppress(connection.Error):
            connection.cancel()

    return interrupt


def export(session: Session, listing: Listing, max_bytes: int) -> Iterator[Sequence[Any]]:
    """Yield all documents of a list in parts, from one snapshot: rows with a `Document`'s values.

    Args:
        session: a transaction's session that `begin_export` was given.
        listing: which list.
        max_bytes: bytes of a part's contents at most; a part has one document at least.
    """
    places = session.execute(
        _placed(select(Document.id, _SIZE), listing, None),
        execution_options={"yield_per": _EXPORT_PLACES},
    )
    for found in places.partitions():
        for ids in _parts(found, max_bytes):
            part = select(*_EXPORTED).where(Document.id.in_(ids)).order_by(*_order(listing))
            yield session.execute(part).all()


def to_reclassify(
    session: Session, listing: Listing, after: Cursor | None, limit: int
) -> tuple[Sequence[Reclassified], bool]:
    """Return documents to classify anew, and whether there are more.

    Args:
        session: a transaction's session.
        listing: which documents.
        after: the last document of the part before, or None for the first part.
        limit: documents at most.

    Raises:
        TooBroad: too many documents would have to be looked at.
    """
    found = select(Document.id, Document.content_revision, Document.created_at, _SIZE)
    with _in_time(session, listing):
        rows = session.execute(_placed(found, listing, after).limit(limit + 1)).all()
    return [Reclassified(*row) for row in rows[:limit]], len(rows) > limit


def steps(path: str) -> list[str]:
    r"""Return the keys that lead into metadata: `a.b` is `b` in `a`, `a\.b` is the key `a.b`."""
    found = [""]
    for escaped, dot, other in re.findall(r"(?s)\\([.\\])|(\.)|(.)", path):
        if dot:
            found.append("")
        else:
            found[-1] += escaped or other
    return found


@contextlib.contextmanager
def _in_time(session: Session, listing: Listing) -> Iterator[None]:
    """Give a list up that would look at too many documents; one that an index finds, never."""
    if listing.indexed:
        yield
        return
    session.execute(text(f"SET LOCAL statement_timeout = '{BROAD_SECONDS}s'"))
    try:
        yield
    except OperationalError as error:
        if getattr(error.orig, "pgcode", None) == _CANCELED:
            raise TooBroad from error
        raise


def _few(session: Session, listing: Listing) -> bool:
    """Say whether a limit of confidence leaves so few documents that they are best sorted.

    PostgreSQL's statistics do not say how many are at the end of a range, and it would rather
    walk back through millions of documents, in order, than sort what it takes for thousands.
    """
    if listing.where.confidence_below is None or listing.sort.by_confidence:
        return False
    unsure = Listing(Filter(confidence_below=listing.where.confidence_below), Sort.LEAST_SURE)
    some = _placed(select(Document.id), unsure, None).limit(_FEW + 1).subquery()
    count = session.scalar(select(func.count()).select_from(some)) or 0
    return count <= _FEW


def _placed(
    selected: SelectT, listing: Listing, after: Cursor | None, *, few: bool = False
) -> SelectT:
    """Return a statement for the documents of a list, in its order, from a place on.

    With `few`, all documents are looked for first, and then sorted.
    """
    found = selected.where(Document.content.is_not(None), *conditions(listing))
    if after is not None:
        key = literal(after.key)
        number = cast(key, Double) if isinstance(after.key, float) else key
        place = tuple_(number, literal(after.id))
        here = tuple_(listing.sort.column, Document.id)
        found = found.where(here < place if listing.sort.descending else here > place)
    return found.order_by(*_order(listing, few=few))


def _order(listing: Listing, *, few: bool = False) -> tuple[ColumnElement[Any], ...]:
    key: ColumnElement[Any] = listing.sort.column.expression
    # An expression, which no index is sorted by.
    columns = (key + literal(timedelta()) if few else key, Document.id)
    return tuple(each.desc() if listing.sort.descending else each.asc() for each in columns)


def conditions(listing: Listing) -> Iterator[ColumnElement[bool]]:
    """Yield what the documents of a list must be, besides documents that are not deleted."""
    where = listing.where
    for column in _EQUAL:
        wanted = getattr(where, column.key)
        if wanted is not None:
            yield column == wanted
    if where.category_source == "human":
        yield Document.label.is_not(None)
    if where.category_source == "model" or where.confidence_below is not None:
        yield Document.label.is_(None)
    if where.confidence_below is not None:
        yield Document.confidence < where.confidence_below
    if where.created_after is not None:
        yield Document.created_at >= where.created_after
    if where.created_before is not None:
        yield Document.created_at < where.created_before
    yield from _of_metadata(where)
    if listing.sort.by_confidence:
        yield Document.label.is_(None)
        yield Document.confidence.is_not(None)


def _of_metadata(where: Filter) -> Iterator[ColumnElement[bool]]:
    if where.metadata:
        yield Document.metadata_ != _EMPTY  # its index leaves those without metadata out
    for path, value in where.metadata:
        yield _has(steps(path), value)


def _has(path: Sequence[str], value: str) -> ColumnElement[bool]:
    """Return the condition that metadata has a value: as text, or as what it means in JSON.

    A list has the values that are in it.
    """
    wanted: list[Any] = [value]
    with contextlib.suppress(orjson.JSONDecodeError):
        if not isinstance(meant := orjson.loads(value), str | list | dict):
            wanted.append(meant)
    return or_(
        *(
            Document.metadata_.contains(_nested(path, each))
            for one in wanted
            for each in (one, [one])
        )
    )


def _nested(path: Sequence[str], value: Any) -> Any:
    for step in reversed(path):
        value = {step: value}
    return literal(value, JSONB)


def _parts(found: Iterable[Row[UUID, Any]], max_bytes: int) -> Iterator[list[UUID]]:
    """Yield the ids in parts whose contents are not too much together; one in each at least."""
    ids: list[UUID] = []
    left = max_bytes
    for document_id, size in found:
        left -= size
        if ids and left < 0:
            yield ids
            ids, left = [], max_bytes - size
        ids.append(document_id)
    if ids:
        yield ids


_EMPTY: Final = literal({}, JSONB)
_SIZE: Final = func.octet_length(Document.content)
_EQUAL: Final = (
    Document.category,
    Document.source,
    Document.external_id,
    Document.status,
    Document.model_version,
    Document.label,
)
_EXPORTED: Final = tuple(
    getattr(Document, each.key)
    for each in inspect(Document).column_attrs
    if each.key not in {"content_hash", "content_revision", "label_revision", "metadata_patches"}
)
