"""Imports: begun and gone on with, how far each has come, what it refused."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.account import Mark
from shared.models import Import, ImportProducer, ImportReject
from shared.store import ledger
from shared.store.page import BadCursor, Cursor

ABANDONED_SECONDS: Final = 10
"""Time without a mark after which another upload may take over from one that said no end."""

_LOST_SECONDS: Final = 60
"""Time without a mark after which an upload is taken for dead: more than it waits for anything."""


_IMPORTS: Final = b"imports\0"
_REJECTS: Final = b"rejects\0"
"""Scopes of cursors."""

_MOST_LINES: Final = 1 << 53


class Status(StrEnum):
    """What an import is doing.

    Attributes:
        RECEIVING: its body is coming in.
        PROCESSING: the body is in; workers are busy with its documents.
        DONE: all its documents are processed.
        INTERRUPTED: the body did not end; send it again with the same key.
        CANCELLED: no more is taken; what was accepted stays.
        FAILED: the body was not what it said, and nothing was accepted.
    """

    RECEIVING = "receiving"
    PROCESSING = "processing"
    DONE = "done"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Point:
    """A place in an import's unpacked body, up to which everything was taken.

    Attributes:
        position: bytes.
        digest: blake2b of those bytes, 32 bytes long; empty at the start.
        accepted, rejected: records among them.
    """

    position: int = 0
    digest: bytes = b""
    accepted: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that became no document; see `shared.models.ImportReject`."""

    line: int
    errors: list[dict[str, Any]]
    original: bytes
    truncated: bool


@dataclass(frozen=True, slots=True)
class Upload:
    """What is known of an upload when it begins.

    Attributes:
        import_id: taken if the key is new.
        caller, key, format: see `shared.models.Import`.
        producer_id: numbers its messages.
        length: bytes that will come, if it says so.
    """

    import_id: UUID
    caller: str
    key: str
    format: dict[str, Any]
    producer_id: UUID
    length: int | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload has come.

    Attributes:
        import_id, producer_id: which.
        mark: of its producer.
        point: what is safe.
        rejects: those up to that point that are not written down yet.
        received: bytes that came.
        header: first row of CSV, once it was read.
        status, error: where it stands.
    """

    import_id: UUID
    mark: Mark
    point: Point
    rejects: Sequence[Reject]
    received: int
    header: bytes | None
    status: Status = Status.RECEIVING
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of an import's accepted documents, from one snapshot with the import.

    A document that was sent twice, because nobody knew whether it had arrived, counts twice here.
    `latest` are those of the latest upload that were processed.
    """

    stored: int = 0
    unchanged: int = 0
    superseded: int = 0
    failed: int = 0
    dead: int = 0
    in_flight: int = 0
    latest: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """An import as it is shown, and the database's time."""

    row: Import
    counts: Counts
    now: datetime = field(compare=False)


def begin(session: Session, upload: Upload) -> Import:
    """Begin an import, or go on with one; return it as it is then.

    The upload may go on if the row has its `producer_id`. Else another one is under way, or the
    import has ended, or its body had another format.
    """
    session.execute(_insert(upload))
    row = session.scalars(
        select(Import)
        .where(Import.caller == upload.caller, Import.key == upload.key)
        .with_for_update()
    ).one()
    now = session.scalar(select(func.now()))
    assert now is not None  # noqa: S101  # every server knows the time
    silent = (now - row.updated_at).total_seconds() > ABANDONED_SECONDS
    if row.status == Status.FAILED:
        row.format, row.position, row.digest, row.accepted, row.rejected = (
            upload.format,
            0,
            b"",
            0,
            0,
        )
        row.status, row.header = Status.INTERRUPTED, None
    resumable = row.status == Status.INTERRUPTED or (row.status == Status.RECEIVING and silent)
    if row.format == upload.format and resumable:
        row.status, row.error, row.producer_id = Status.RECEIVING, None, upload.producer_id
        row.received, row.length = 0, upload.length
        row.started_at = row.updated_at = now
    if row.producer_id == upload.producer_id:
        session.add(ImportProducer(import_id=row.id, producer_id=upload.producer_id))
    return row


def progress(session: Session, made: Progress) -> Import | None:
    """Write down how far an upload has come; return None.

    Returns:
        The import, if the upload is no longer the one that it takes: it was cancelled, or another
        upload has taken over. Its producer's mark is written all the same.
    """
    ledger.mark(session, made.mark)
    # The row first: whoever takes over waits for it, or has it already.
    kept = session.execute(
        _PROGRESS,
        {
            "id": str(made.import_id),
            "producer_id": str(made.mark.producer_id),
            "position": made.point.position,
            "digest": made.point.digest,
            "accepted": made.point.accepted,
            "rejected": made.point.rejected,
            "received": made.received,
            "header": made.header,
            "status": made.status,
            "error": made.error,
        },
    ).first()
    if kept is None:
        return session.get_one(Import, made.import_id)
    if made.rejects:
        session.execute(_REJECT, _reject_values(made.import_id, made.rejects))
    return None


def cancel(session: Session, import_id: UUID) -> Import | None:
    """Cancel an import that does not have all of its body yet; return it, or None if unknown."""
    row = session.get(Import, import_id, with_for_update=True)
    if row is not None and row.status in {Status.RECEIVING, Status.INTERRUPTED}:
        row.status = Status.CANCELLED
        row.finished_at = row.updated_at = session.scalar(select(func.now())) or row.updated_at
    return row


def settle(session: Session) -> None:
    """Note which imports are done, and which uploads have died without a word."""
    session.execute(_ABANDON, {"seconds": _LOST_SECONDS})
    ids = session.scalars(select(Import.id).where(Import.status == Status.PROCESSING)).all()
    done = [each for each, found in _counts(session, ids).items() if found.in_flight <= 0]
    if done:
        session.execute(_FINISH, {"ids": [str(each) for each in done]})


def purge(session: Session, days: int, limit: int) -> int:
    """Remove up to `limit` rows of imports that nothing was heard of for `days`; return how many.

    Their rejects go first. The documents, and what the account says of them, stay.
    """
    rejects = session.execute(_PURGE_REJECTS, {"days": days, "limit": limit}).all()
    left = limit - len(rejects)
    imports = session.execute(_PURGE, {"days": days, "limit": left}).all() if left else []
    return len(rejects) + len(imports)


def get(session: Session, import_id: UUID) -> Seen | None:
    """Return an import."""
    row = session.get(Import, import_id)
    return None if row is None else _seen(session, [row])[0]


@dataclass(frozen=True, slots=True)
class Listing:
    """Imports, the newest first; None means any."""

    key: str | None = None
    status: str | None = None

    def after(self, cursor: str | None) -> tuple[datetime, UUID] | None:
        """Return the place that a cursor of this list means.

        Raises:
            BadCursor: it is of another list.
        """
        if cursor is None:
            return None
        found = Cursor.decode(cursor)
        found.check(_IMPORTS)
        if not isinstance(found.key, datetime):
            raise BadCursor("is not a cursor of this list")
        return found.key, found.id

    def page(
        self, session: Session, after: tuple[datetime, UUID] | None, limit: int
    ) -> tuple[list[Seen], str | None]:
        """Return up to `limit` imports, and the cursor of the next page if there is one."""
        statement = select(Import)
        if self.key is not None:
            statement = statement.where(Import.key == self.key)
        if self.status is not None:
            statement = statement.where(Import.status == self.status)
        if after is not None:
            statement = statement.where(tuple_(Import.created_at, Import.id) < after)
        statement = statement.order_by(Import.created_at.desc(), Import.id.desc()).limit(limit + 1)
        rows = session.scalars(statement).all()
        cursor = None
        if len(rows) > limit:
            last = rows[limit - 1]
            cursor = Cursor(last.created_at, last.id, _IMPORTS).encode()
        return _seen(session, rows[:limit]), cursor


@dataclass(frozen=True, slots=True)
class Rejects:
    """The rejects of an import, in the order of their lines."""

    import_id: UUID

    def after(self, cursor: str | None) -> int:
        """Return the line that a cursor of this list means.

        Raises:
            BadCursor: it is of another list.
        """
        if cursor is None:
            return 0
        found = Cursor.decode(cursor)
        found.check(_REJECTS)
        if isinstance(found.key, datetime) or not 0 <= found.key <= _MOST_LINES:
            raise BadCursor("is not a cursor of this list")
        return int(found.key)

    def page(
        self, session: Session, after: int, limit: int, max_bytes: int
    ) -> tuple[list[ImportReject], str | None]:
        """Return rejects, and the cursor of the next page if there is one.

        Args:
            session: a transaction's session.
            after: the last line of the page before; 0 for the first page.
            limit: rejects at most.
            max_bytes: bytes of originals at most; one reject at least.
        """
        where = (ImportReject.import_id == self.import_id, ImportReject.line > after)
        sizes = (
            select(ImportReject.line, func.octet_length(ImportReject.original))
            .where(*where)
            .order_by(ImportReject.line)
            .limit(limit + 1)
        )
        found = session.execute(sizes).all()
        last, count = after, 0
        for line, size in found[:limit]:
            max_bytes -= size
            if count and max_bytes < 0:
                break
            last, count = line, count + 1
        wanted = select(ImportReject).where(*where, ImportReject.line <= last)
        rows = list(session.scalars(wanted.order_by(ImportReject.line)))
        has_more = count < len(found)
        return rows, Cursor(float(last), self.import_id, _REJECTS).encode() if has_more else None


def _insert(upload: Upload) -> Any:
    values = {
        "id": upload.import_id,
        "caller": upload.caller,
        "key": upload.key,
        "format": upload.format,
        "status": Status.RECEIVING,
        "producer_id": upload.producer_id,
        "position": 0,
        "digest": b"",
        "accepted": 0,
        "rejected": 0,
        "received": 0,
        "length": upload.length,
        "started_at": func.now(),
        "updated_at": func.now(),
    }
    return insert(Import).values(values).on_conflict_do_nothing(index_elements=["caller", "key"])


def _seen(session: Session, rows: Sequence[Import]) -> list[Seen]:
    counts = _counts(session, [row.id for row in rows])
    now = session.scalar(select(func.now()))
    assert now is not None  # noqa: S101  # every server knows the time
    return [Seen(row, counts.get(row.id, Counts()), now) for row in rows]


def _counts(session: Session, ids: Iterable[UUID]) -> dict[UUID, Counts]:
    wanted = [str(each) for each in ids]
    if not wanted:
        return {}
    rows = session.execute(_COUNTS, {"ids": wanted}).mappings()
    return {
        row["import_id"]: Counts(**{key: row[key] for key in row if key != "import_id"})
        for row in rows
    }


def _reject_values(import_id: UUID, refused: Sequence[Reject]) -> dict[str, Any]:
    return {
        "import_id": str(import_id),
        "lines": [each.line for each in refused],
        "errors": [orjson.dumps(each.errors).decode() for each in refused],
        "originals": [each.original for each in refused],
        "truncated": [each.truncated for each in refused],
    }


# What was read before is never read less: an upload that goes on starts where the last one ended.
_PROGRESS: Final = text("""
    UPDATE imports SET position = :position, digest = :digest, accepted = :accepted,
        rejected = :rejected, received = :received, status = :status, error = :error,
        header = coalesce(CAST(:header AS bytea), header), updated_at = now()
    WHERE id = CAST(:id AS uuid) AND producer_id = CAST(:producer_id AS uuid)
        AND status = 'receiving'
    RETURNING id
""")

_REJECT: Final = text("""
    INSERT INTO import_rejects (import_id, line, errors, original, truncated)
    SELECT CAST(:import_id AS uuid), r.line, CAST(r.errors AS jsonb), r.original, r.truncated
    FROM unnest(CAST(:lines AS int8[]), CAST(:errors AS text[]), CAST(:originals AS bytea[]),
        CAST(:truncated AS bool[])) AS r(line, errors, original, truncated)
    ON CONFLICT (import_id, line) DO NOTHING
""")

_ABANDON: Final = text("""
    UPDATE imports SET status = 'interrupted', error = 'The API that received it is gone.'
    WHERE status = 'receiving' AND updated_at < now() - make_interval(secs => :seconds)
""")

_FINISH: Final = text("""
    UPDATE imports SET status = 'done', finished_at = now(), updated_at = now()
    WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'processing'
""")

# Locked, so that none of them goes on meanwhile; who does go on keeps them.
_OLD: Final = """
    old AS MATERIALIZED (
        SELECT id FROM imports
        WHERE status NOT IN ('receiving', 'processing')
            AND updated_at < clock_timestamp() - make_interval(days => :days)
        ORDER BY updated_at LIMIT :limit FOR UPDATE SKIP LOCKED)
"""

_PURGE_REJECTS: Final = text(f"""
    WITH {_OLD}
    DELETE FROM import_rejects WHERE (import_id, line) IN (
        SELECT r.import_id, r.line FROM import_rejects r JOIN old ON old.id = r.import_id
        LIMIT :limit)
    RETURNING line
""")  # noqa: S608  # of our own words

_PURGE: Final = text(f"""
    WITH {_OLD}
    DELETE FROM imports WHERE id IN (SELECT id FROM old) RETURNING id
""")  # noqa: S608

# As in the account of all producers; see `shared.store.ledger`.
_COUNTS: Final = text("""
    WITH wanted AS (
        SELECT p.import_id, p.producer_id, i.producer_id = p.producer_id AS is_latest
        FROM import_producers p JOIN imports i ON i.id = p.import_id
        WHERE p.import_id = ANY(CAST(:ids AS uuid[]))),
    parts AS (
        SELECT producer_id, through, 0 AS documents, 0 AS stored, 0 AS unchanged, 0 AS superseded,
            0 AS failed, 0 AS dead
        FROM producers WHERE producer_id IN (SELECT producer_id FROM wanted)
        UNION ALL
        SELECT producer_id, through, documents, stored, unchanged, superseded, failed, dead
        FROM ledger WHERE producer_id IN (SELECT producer_id FROM wanted)
        UNION ALL
        SELECT producer_id, through, documents, stored, unchanged, superseded, failed, dead
        FROM ledger_producers WHERE producer_id IN (SELECT producer_id FROM wanted)),
    producer AS (
        SELECT producer_id, max(through) AS through, sum(documents) AS documents,
            sum(stored) AS stored, sum(unchanged) AS unchanged, sum(superseded) AS superseded,
            sum(failed) AS failed, sum(dead) AS dead
        FROM parts GROUP BY producer_id),
    void AS (
        SELECT v.producer_id, sum(v.documents) AS documents FROM void_messages v
        WHERE v.producer_id IN (SELECT producer_id FROM wanted)
            AND NOT EXISTS (SELECT FROM ledger l
                WHERE l.producer_id = v.producer_id AND l.seq = v.seq)
            AND NOT EXISTS (SELECT FROM ledger_producers p
                WHERE p.producer_id = v.producer_id AND p.done @> v.seq)
        GROUP BY v.producer_id)
    SELECT w.import_id, CAST(sum(p.stored) AS int8) AS stored,
        CAST(sum(p.unchanged) AS int8) AS unchanged,
        CAST(sum(p.superseded) AS int8) AS superseded, CAST(sum(p.failed) AS int8) AS failed,
        CAST(sum(p.dead) AS int8) AS dead,
        CAST(sum(p.through - coalesce(v.documents, 0) - p.documents) AS int8) AS in_flight,
        CAST(coalesce(sum(p.documents) FILTER (WHERE w.is_latest), 0) AS int8) AS latest
    FROM wanted w JOIN producer p USING (producer_id) LEFT JOIN void v USING (producer_id)
    GROUP BY w.import_id
""")
