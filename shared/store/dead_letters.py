"""Dead letters: kept with their place in the account, listed, replayed, deleted."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

import orjson
from sqlalchemy import ARRAY, ColumnElement, Select, delete, func, select, text
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import InstrumentedAttribute, Session
from uuid_utils.compat import uuid7

from shared.dead import Letter, RawMessage, clean, plain_headers, task_id_of
from shared.decide import Outcome
from shared.messages import Envelope
from shared.models import DeadLetter
from shared.store import ledger, message_faults

Row: TypeAlias = dict[str, Any]


class Gone(Exception):
    """The dead letter of a replay is there no more: replayed before, or deleted."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters; None means any. `since` is about the last time that one died."""

    reason: str | None = None
    fingerprint: str | None = None
    task: str | None = None
    producer_id: UUID | None = None
    since: datetime | None = None


def check(session: Session) -> None:
    """See that the database answers and has the table."""
    session.execute(_CHECK)


def bury(session: Session, letter: Letter, *, redelivered: bool) -> None:
    """Keep a whole message, and account for its documents as dead.

    A replay that died is no letter of its own: the letter that it replayed says so.

    Args:
        session: a transaction's session. Roll it back if this raises.
        letter: the message.
        redelivered: whether it may have been kept before, if it is outside the account.

    Raises:
        ledger.AlreadyAccounted: the message was stored, or kept, before.
    """
    envelope = letter.envelope
    if envelope is None:
        session.execute(_KEEP_ONCE if redelivered else _KEEP, _values(letter))
    elif envelope.replays is not None and not envelope.documents:
        values = _values(letter) | {"replays": str(envelope.replays)}
        session.execute(_DIED_AGAIN, values)
    else:
        if envelope.replays is not None:
            remove(session, envelope.replays)
        session.execute(_KEEP, _values(letter))
    task_id = task_id_of(letter.raw)
    if task_id is not None:
        message_faults.forget(session, task_id)
    if envelope is not None:
        ledger.record(session, envelope, Outcome.DEAD * envelope.documents, {})


def keep(session: Session, letters: Iterable[Letter]) -> None:
    """Keep single documents of a message; its own entry in the ledger accounts for them."""
    for letter in letters:
        session.execute(_KEEP, _values(letter))


def take(session: Session, envelope: Envelope) -> int:
    """Remove the letter that a message replays: of two replays at once, one waits for the other.

    Returns:
        How many documents the account has no longer as dead.

    Raises:
        Gone: it is there no more, and the account has its documents.
    """
    assert envelope.replays is not None  # noqa: S101  # the caller's condition
    documents = remove(session, envelope.replays)
    if envelope.documents:
        return 0  # outside the account until now: accepted anew
    if documents is None:
        raise Gone
    return documents


def remove(session: Session, letter_id: UUID) -> int | None:
    """Remove a letter; return its documents, or None if it is there no more."""
    statement = delete(DeadLetter).where(DeadLetter.id == letter_id)
    return session.scalar(statement.returning(DeadLetter.documents))


def remove_all(session: Session, where: Filter, limit: int) -> int:
    """Remove up to `limit` letters; return how many."""
    wanted = select(DeadLetter.id).where(*_conditions(where)).limit(limit)
    wanted = wanted.with_for_update(skip_locked=True)
    statement = delete(DeadLetter).where(DeadLetter.id.in_(wanted)).returning(DeadLetter.id)
    return len(session.execute(statement).all())


def page(session: Session, where: Filter, after: UUID | None, limit: int) -> tuple[list[Row], bool]:
    """Return a page of letters without headers and payload, the newest first; whether more are."""
    statement = select(*_LISTED).where(*_conditions(where))
    if after is not None:
        statement = statement.where(DeadLetter.id < after)
    statement = statement.order_by(DeadLetter.id.desc()).limit(limit + 1)
    rows = _rows(session, statement)
    return rows[:limit], len(rows) > limit


def get(session: Session, letter_id: UUID, max_bytes: int) -> Row | None:
    """Return a letter with its headers and up to `max_bytes` of its payload."""
    payload = func.substring(DeadLetter.payload, 1, max_bytes).label("payload")
    statement = select(*_LISTED, DeadLetter.headers, payload).where(DeadLetter.id == letter_id)
    return next(iter(_rows(session, statement)), None)


def groups(session: Session, where: Filter, limit: int) -> list[Row]:
    """Return letters that died alike, the most frequent first, each with the latest's id."""
    letters = func.count().label("letters")
    statement = (
        select(
            DeadLetter.fingerprint,
            DeadLetter.reason,
            DeadLetter.task,
            letters,
            func.sum(DeadLetter.documents).label("documents"),
            func.min(DeadLetter.first_at).label("first_at"),
            func.max(DeadLetter.last_at).label("last_at"),
            _latest(DeadLetter.error).label("error"),
            _latest(DeadLetter.id).label("example"),
        )
        .where(*_conditions(where))
        .group_by(DeadLetter.fingerprint, DeadLetter.reason, DeadLetter.task)
        .order_by(letters.desc(), DeadLetter.fingerprint)
        .limit(limit)
    )
    return _rows(session, statement)


@dataclass(frozen=True, slots=True)
class Kept:
    """A letter as it is replayed; `announced` is None where it is outside the account."""

    id: UUID
    announced: int | None
    raw: RawMessage


def to_replay(session: Session, letter_id: UUID) -> Kept | None:
    """Return a letter with all that is needed to replay it."""
    found = _kept(session, [letter_id])
    return found[0] if found else None


def all_to_replay(
    session: Session, where: Filter, after: UUID | None, *, letters: int, max_bytes: int
) -> tuple[list[Kept], bool]:
    """Return the oldest letters after one, and whether there are more.

    Args:
        session: a transaction's session.
        where: which letters.
        after: the last letter of the call before.
        letters: how many at most.
        max_bytes: bytes of payload at most; one letter at least, however large.
    """
    size = func.octet_length(DeadLetter.payload)
    statement = select(DeadLetter.id, size).where(*_conditions(where))
    if after is not None:
        statement = statement.where(DeadLetter.id > after)
    found = session.execute(statement.order_by(DeadLetter.id).limit(letters + 1)).all()
    ids: list[UUID] = []
    for letter_id, length in found[:letters]:
        max_bytes -= length
        if ids and max_bytes < 0:
            break
        ids.append(letter_id)
    return _kept(session, ids), len(ids) < len(found)


def _rows(session: Session, statement: Select[Any]) -> list[Row]:
    return [{str(key): row[key] for key in row} for row in session.execute(statement).mappings()]


def _latest(column: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    ordered = aggregate_order_by(column, DeadLetter.id.desc())
    return func.array_agg(ordered, type_=ARRAY(column.type))[1]


def _kept(session: Session, ids: Collection[UUID]) -> list[Kept]:
    rows = session.scalars(select(DeadLetter).where(DeadLetter.id.in_(ids)).order_by(DeadLetter.id))
    return [
        Kept(
            row.id,
            None if row.producer_id is None else row.documents,
            RawMessage(row.headers, row.content_type, row.content_encoding, bytes(row.payload)),
        )
        for row in rows
    ]


def _conditions(where: Filter) -> Iterable[ColumnElement[bool]]:
    for column in (
        DeadLetter.reason,
        DeadLetter.fingerprint,
        DeadLetter.task,
        DeadLetter.producer_id,
    ):
        wanted = getattr(where, column.key)
        if wanted is not None:
            yield column == wanted
    if where.since is not None:
        yield DeadLetter.last_at >= where.since


def _values(letter: Letter) -> dict[str, Any]:
    envelope, raw = letter.envelope, letter.raw
    return {
        "id": str(uuid7()),
        "reason": letter.reason,
        "error": letter.error,
        "fingerprint": letter.fingerprint,
        "task": letter.task,
        "producer_id": envelope and str(envelope.producer_id),
        "seq": envelope and envelope.seq,
        "position": letter.position,
        "documents": letter.documents,
        "attempts": letter.attempts,
        "first_at": letter.first_at,
        "last_at": letter.last_at,
        "headers": orjson.dumps(plain_headers(raw.headers)).decode(),
        "content_type": raw.content_type and clean(raw.content_type),
        "content_encoding": raw.content_encoding and clean(raw.content_encoding),
        "payload": raw.body,
    }


_LISTED: Final = (
    DeadLetter.id,
    DeadLetter.reason,
    DeadLetter.error,
    DeadLetter.fingerprint,
    DeadLetter.task,
    DeadLetter.producer_id,
    DeadLetter.seq,
    DeadLetter.position,
    DeadLetter.documents,
    DeadLetter.attempts,
    DeadLetter.first_at,
    DeadLetter.last_at,
    DeadLetter.content_type,
    DeadLetter.content_encoding,
    func.octet_length(DeadLetter.payload).label("size"),
)

_CHECK: Final = text("SELECT FROM dead_letters LIMIT 1")

_INSERT: Final = """
    INSERT INTO dead_letters (id, reason, error, fingerprint, task, producer_id, seq, position,
        documents, attempts, first_at, last_at, headers, content_type, content_encoding, payload)
    SELECT CAST(:id AS uuid), :reason, :error, :fingerprint, CAST(:task AS text),
        CAST(:producer_id AS uuid), CAST(:seq AS int8), CAST(:position AS int4), :documents,
        :attempts, :first_at, :last_at, CAST(:headers AS jsonb), CAST(:content_type AS text),
        CAST(:content_encoding AS text), CAST(:payload AS bytea)
"""

# A conflict is a message that was kept before: its entry in the ledger says so in a moment.
_KEEP: Final = text(f"{_INSERT} ON CONFLICT DO NOTHING")

_KEEP_ONCE: Final = text(f"""{_INSERT}
    WHERE NOT EXISTS (SELECT FROM dead_letters WHERE fingerprint = :fingerprint
        AND producer_id IS NULL AND headers = CAST(:headers AS jsonb)
        AND payload = CAST(:payload AS bytea))
""")

_DIED_AGAIN: Final = text("""
    UPDATE dead_letters SET reason = :reason, error = :error, fingerprint = :fingerprint,
        attempts = attempts + :attempts, last_at = :last_at
    WHERE id = CAST(:replays AS uuid)
""")
