"""The rarer events of documents: what their history tells besides the latest write.

Nothing is written for an ordinary write. An event is recorded in the transaction of what it tells.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from shared.decide import Change, Decision, Outcome, Patch, Prediction, Stored
from shared.messages import Envelope
from shared.models import Document, DocumentEvent

_MAX_KEYS: Final = 50
_MAX_KEY: Final = 100
"""Keys of a patch that its event names, and characters of each."""


class Kind(StrEnum):
    """What can have happened."""

    LABEL = "label"
    PATCH = "patch"
    DELETE = "delete"
    FAILURE = "failure"
    REPLAY = "replay"
    RECLASSIFY = "reclassify"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a document which has a row.

    Attributes:
        document_id: UUID as text.
        kind: what it was.
        revision: the document's after it.
        details: small, and nothing of the content or of the metadata's values.
        request_id: the request that asked for it, if that is known.
    """

    document_id: str
    kind: Kind
    revision: int
    details: Mapping[str, Any] = field(default_factory=dict)
    request_id: str | None = None


def record(session: Session, found: Iterable[Event], task_id: str | None = None) -> None:
    """Write events, in their order, by one statement; of none at all, none.

    Args:
        session: the session of the transaction that does what they tell.
        found: the events. Each document has a row by now, its tombstone included.
        task_id: the message that brought them, if one did.
    """
    records = [
        {
            "document_id": each.document_id,
            "kind": each.kind,
            "revision": each.revision,
            "details": each.details,
            "request_id": each.request_id,
        }
        for each in found
    ]
    if records:
        values = {"task_id": task_id, "records": orjson.dumps(records).decode()}
        session.execute(_RECORD, values)


def of_write(
    before: Stored | None,
    decision: Decision,
    prediction: Prediction | None,
    document_id: str,
    request_id: str | None,
) -> Iterator[Event]:
    """Yield what a full write was besides an ordinary one: a label that changed, a failure.

    The label that a document is created with is no event: the document says it.
    """
    row = decision.row
    if row is None:
        return
    if before is not None and not before.deleted and before.label != row.label:
        yield _label(document_id, before, row, request_id)
    if decision.classified and row.status == "failed":
        yield _failure(document_id, row.revision, prediction, request_id)


def of_patch(
    document_id: str, before: Stored | None, op: Patch, row: Stored, request_id: str | None
) -> Iterator[Event]:
    """Yield what a PATCH has changed: keys of the metadata, not their values, and the label."""
    if op.patch:
        keys = [key[:_MAX_KEY] for key in list(op.patch)[:_MAX_KEYS]]
        yield Event(document_id, Kind.PATCH, row.revision, {"keys": keys}, request_id)
    if before is not None and before.label != row.label:
        yield _label(document_id, before, row, request_id)


def of_replay(envelope: Envelope, outcomes: Iterable[tuple[str, str, int]]) -> Iterator[Event]:
    """Yield the events of documents that a replayed dead letter has written.

    Args:
        envelope: the message.
        outcomes: id, letter and revision of each document in it.
    """
    for document_id, letter, revision in outcomes:
        # One that was superseded or refused changed nothing, and may not even have a row.
        if letter not in {Outcome.SUPERSEDED, Outcome.PRECONDITION_FAILED}:
            details = {"dead_letter": str(envelope.replays)}
            yield Event(document_id, Kind.REPLAY, revision, details)


def of_reclassification(
    before: Stored, decision: Decision, prediction: Prediction, document_id: str
) -> Iterator[Event]:
    """Yield what a new classification has come to, unless it found the same category."""
    if decision.outcome is Outcome.FAILED:
        yield _failure(document_id, (decision.row or before).revision, prediction, None)
    elif decision.row is not None and decision.change is not Change.NONE:
        found = decision.row.predicted_category
        if before.predicted_category != found or before.status != decision.row.status:
            details = {
                "before": before.predicted_category,
                "predicted_category": found,
                "model_version": prediction.model_version,
            }
            yield Event(document_id, Kind.RECLASSIFY, decision.row.revision, details)


def of_delete(document_id: str, revision: int, request_id: str | None = None) -> Event:
    """Return the event of a delete."""
    return Event(document_id, Kind.DELETE, revision, request_id=request_id)


def _label(document_id: str, before: Stored, row: Stored, request_id: str | None) -> Event:
    details = {"before": before.label, "label": row.label}
    return Event(document_id, Kind.LABEL, row.revision, details, request_id)


def _failure(
    document_id: str, revision: int, prediction: Prediction | None, request_id: str | None
) -> Event:
    # The error's detail may quote the text: the document has it, for as long as it is stored.
    error = (prediction and prediction.error) or {}
    details = {
        "title": error.get("title"),
        "model_version": prediction and prediction.model_version,
    }
    return Event(document_id, Kind.FAILURE, revision, details, request_id)


@dataclass(frozen=True, slots=True)
class LatestWrite:
    """What a document's row says of its latest write; of a tombstone, little."""

    revision: int
    content_revision: int
    deleted: bool
    task_id: str | None
    status: str
    model_version: str | None
    accepted_at: datetime
    created_at: datetime
    updated_at: datetime
    classified_at: datetime | None


def latest_write(session: Session, document_id: UUID) -> LatestWrite | None:
    """Return what the row says, be it a tombstone; None where there is none."""
    found = select(
        Document.revision,
        Document.content_revision,
        Document.content.is_(None).label("deleted"),
        Document.task_id,
        Document.status,
        Document.model_version,
        Document.accepted_at,
        Document.created_at,
        Document.updated_at,
        Document.classified_at,
    ).where(Document.id == document_id)
    row = session.execute(found).mappings().one_or_none()
    return None if row is None else LatestWrite(**row)


def page(
    session: Session, document_id: UUID, before: int | None, limit: int
) -> tuple[Sequence[DocumentEvent], bool]:
    """Return a page of a document's events, newest first, and whether there are more.

    Args:
        session: a transaction's session.
        document_id: the document, which may be deleted.
        before: id of the last event of the page before, or None for the first page.
        limit: events at most.
    """
    statement = select(DocumentEvent).where(DocumentEvent.document_id == document_id)
    if before is not None:
        statement = statement.where(DocumentEvent.id < before)
    rows = session.scalars(statement.order_by(DocumentEvent.id.desc()).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


_RECORD: Final = text("""
    INSERT INTO document_events (document_id, kind, revision, task_id, request_id, details)
    SELECT CAST(e.item ->> 'document_id' AS uuid), e.item ->> 'kind',
        CAST(e.item ->> 'revision' AS int8), :task_id, e.item ->> 'request_id',
        CAST(e.item -> 'details' AS jsonb)
    FROM json_array_elements(CAST(:records AS json)) WITH ORDINALITY AS e(item, place)
    ORDER BY e.place
""")
