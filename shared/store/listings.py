"""Lists of documents: what a filter chooses, page by page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, literal, select, tuple_
from sqlalchemy.orm import Session

from shared.models import Document
from shared.store.page import Cursor

SelectT = TypeVar("SelectT", bound=Select[Any])


@dataclass(frozen=True, slots=True)
class Filter:
    """Which documents to list; None means any."""

    category: str | None = None
    source: str | None = None
    external_id: str | None = None
    status: str | None = None
    model_version: str | None = None


@dataclass(frozen=True, slots=True)
class Reclassified:
    """A document to classify anew; `size` is its content's, in bytes."""

    id: UUID
    content_revision: int
    created_at: datetime
    size: int


def page(
    session: Session, where: Filter, after: Cursor | None, limit: int, max_bytes: int
) -> tuple[Sequence[Document], bool]:
    """Return a page of documents, newest first, and whether there are more.

    Args:
        session: a transaction's session in which nothing was done yet.
        where: which documents.
        after: the last document of the page before, or None for the first page.
        limit: documents at most.
        max_bytes: bytes of content at most; a page has one document at least, however large.
    """
    # One snapshot for both statements: a document deleted in between would come without content.
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    size = func.octet_length(Document.content)
    places = _placed(select(Document.id, size), where, after).limit(limit + 1)
    found = session.execute(places).all()
    ids = _fitting(found[:limit], max_bytes)
    rows = session.scalars(select(Document).where(Document.id.in_(ids)).order_by(*_NEWEST_FIRST))
    return rows.all(), len(ids) < len(found)


def to_reclassify(
    session: Session, where: Filter, after: Cursor | None, limit: int
) -> tuple[Sequence[Reclassified], bool]:
    """Return documents to classify anew, newest first, and whether there are more.

    Args:
        session: a transaction's session.
        where: which documents.
        after: the last document of the part before, or None for the first part.
        limit: documents at most.
    """
    size = func.octet_length(Document.content)
    found = select(Document.id, Document.content_revision, Document.created_at, size)
    rows = session.execute(_placed(found, where, after).limit(limit + 1)).all()
    return [Reclassified(*row) for row in rows[:limit]], len(rows) > limit


def _placed(selected: SelectT, where: Filter, after: Cursor | None) -> SelectT:
    """Return a statement for the documents of a filter, newest first, from a place on."""
    found = selected.where(Document.content.is_not(None), *_conditions(where))
    if after is not None:
        place = tuple_(literal(after.created_at), literal(after.id))
        found = found.where(tuple_(Document.created_at, Document.id) < place)
    return found.order_by(*_NEWEST_FIRST)


def _conditions(where: Filter) -> Iterable[ColumnElement[bool]]:
    for column in (
        Document.category,
        Document.source,
        Document.external_id,
        Document.status,
        Document.model_version,
    ):
        wanted = getattr(where, column.key)
        if wanted is not None:
            yield column == wanted


def _fitting(found: Iterable[tuple[UUID, int]], max_bytes: int) -> list[UUID]:
    """Return the ids up to the one whose content would be too much; the first in any case."""
    ids: list[UUID] = []
    for document_id, size in found:
        max_bytes -= size
        if ids and max_bytes < 0:
            break
        ids.append(document_id)
    return ids


_NEWEST_FIRST: Final = (Document.created_at.desc(), Document.id.desc())
