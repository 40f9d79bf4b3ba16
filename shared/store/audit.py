"""The audit log: entries are written once, listed, and purged when they are old."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from shared.models import AuditEntry
from shared.store.page import Cursor


class ObjectKind(StrEnum):
    """What can be changed."""

    DEAD_LETTER = "dead_letter"
    DOCUMENT = "document"
    IMPORT = "import"
    KEY = "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry as it is written; see `AuditEntry`."""

    action: str
    caller: str | None = None
    key_id: UUID | None = None
    object_kind: ObjectKind | None = None
    object_id: UUID | None = None
    request_id: str | None = None
    address: str | None = None
    outcome: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: UUID = field(default_factory=uuid7)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries; None means any. `end` is not included."""

    caller: str | None = None
    action: str | None = None
    object_id: UUID | None = None
    start: datetime | None = None
    end: datetime | None = None


def record(session: Session, *entries: Entry) -> None:
    """Write entries; again, with other details, only those are written.

    So whoever cannot tell whether an entry was written may write it once more.
    """
    statement = insert(AuditEntry).values([asdict(each) for each in entries])
    details = {"details": statement.excluded.details}
    session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=details))


def page(
    session: Session, where: Filter, after: Cursor | None, limit: int
) -> tuple[list[AuditEntry], bool]:
    """Return a page of entries, the newest first, and whether more are."""
    statement = select(AuditEntry).where(*_conditions(where))
    if after is not None:
        place = tuple_(AuditEntry.at, AuditEntry.id)
        statement = statement.where(place < tuple_(after.key, after.id))
    statement = statement.order_by(AuditEntry.at.desc(), AuditEntry.id.desc())
    rows = list(session.scalars(statement.limit(limit + 1)))
    return rows[:limit], len(rows) > limit


def purge(session: Session, days: int, limit: int) -> int:
    """Remove up to `limit` entries that are older than `days`; return how many."""
    return len(session.execute(_PURGE, {"days": days, "limit": limit}).all())


def _conditions(where: Filter) -> Iterable[ColumnElement[bool]]:
    for column in (AuditEntry.caller, AuditEntry.action, AuditEntry.object_id):
        wanted = getattr(where, column.key)
        if wanted is not None:
            yield column == wanted
    if where.start is not None:
        yield AuditEntry.at >= where.start
    if where.end is not None:
        yield AuditEntry.at < where.end


_PURGE: Final = text("""
    DELETE FROM audit WHERE id = ANY(ARRAY(
        SELECT id FROM audit WHERE at < clock_timestamp() - make_interval(days => :days)
        ORDER BY at LIMIT :limit FOR UPDATE SKIP LOCKED))
    RETURNING id
""")
