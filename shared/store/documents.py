"""Documents: the write of a whole message, the delete, and the reads of single ones.

The order of the statements in `write` is what keeps many writers from deadlock: new rows first, in
the order of their ids, then locks on old rows in the order of theirs. A transaction that waits
for a new id holds only smaller new ids; one that waits for an old row holds only smaller old ones.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import (
    RowMapping,
    TextClause,
    select,
    text,
)
from sqlalchemy.orm import Session

from shared import decide
from shared.decide import (
    Change,
    Decision,
    MetadataPatch,
    Patch,
    Prediction,
    Put,
    Reclassify,
    Revision,
    Stored,
)
from shared.errors import PreconditionFailed
from shared.messages import Envelope
from shared.models import Document
from shared.store import events, ledger, search


class MetadataTooLarge(Exception):
    """A document's metadata would be larger than it may be, with the patch applied."""


class Vanished(Exception):
    """A row that a hint knew is gone: purged meanwhile. Write again, without the hint."""


@dataclass(frozen=True, slots=True)
class Write:
    """A full write of one document: what `decide` needs, and what it does not look at.

    Attributes:
        id: UUID as text.
        put: the operation.
        content: the text.
        accepted_at: RFC 3339.
        request_id: the request that it was accepted with, if that is known.
    """

    id: str
    put: Put
    content: str
    accepted_at: str
    request_id: str | None = None


def hash_content(content: str) -> bytes:
    """Return the digest by which identical contents are known: BLAKE2b, 32 bytes."""
    return blake2b(content.encode(), digest_size=32).digest()


def known(session: Session, ids: Collection[str]) -> dict[str, bytes | None]:
    """Return the ids that have a row, each with the digest of its content.

    The digest is None where the content must be classified again whatever it is: in a tombstone,
    or where classifying it failed. It is a hint only: nothing is locked.
    """
    rows = session.execute(_KNOWN, {"ids": list(ids)})
    return {row.id: None if row.content_hash is None else bytes(row.content_hash) for row in rows}


def write(
    session: Session,
    envelope: Envelope,
    writes: Sequence[Write],
    known_ids: Collection[str],
    *,
    dead: Collection[int] = (),
    revived: int = 0,
) -> str:
    """Write the documents of one message and its ledger entry; return a letter a document.

    Args:
        session: a transaction's session. Roll it back if this raises.
        envelope: the message's identity.
        writes: the documents in the message's order; an id may come more than once.
        known_ids: ids that have a row already, as far as `known` said.
        dead: places in the message of documents that are not among the writes: they are dead.
        revived: documents of the message that were counted as dead before.

    Raises:
        ledger.AlreadyAccounted: this message was processed before.
        decide.NeedsClassification: the hint was wrong about an unchanged content.
        Vanished: the hint was wrong about an existing row.
    """
    written = _Written(envelope.task_id, writes)
    new = sorted(written.writes_of.keys() - set(known_ids))
    inserted = _insert(session, written, new)
    _update(session, written, sorted(written.writes_of.keys() - inserted))
    if envelope.replays is not None:
        written.events += events.of_replay(envelope, written.revisions())
    events.record(session, written.events, envelope.task_id)
    outcomes = _with_dead(written.outcomes(), dead)
    search.enqueue(session, written.changed_texts)
    ledger.record(
        session,
        envelope,
        outcomes,
        decide.deltas(written.changes),
        categories=written.categories(),
        revived=revived,
    )
    return outcomes


def content_revision(session: Session, document_id: UUID) -> int | None:
    """Return the stamp of a document's content; None where there is no document."""
    return session.scalar(
        select(Document.content_revision).where(
            Document.id == document_id, Document.content.is_not(None)
        )
    )


def contents(session: Session, revisions: Mapping[str, int]) -> dict[str, str]:
    """Return the contents of documents, of those whose content is still of that revision."""
    values = {"ids": list(revisions), "revisions": list(revisions.values())}
    return {row.id: row.content for row in session.execute(_CONTENTS, values)}


def reclassify(
    session: Session, envelope: Envelope, operations: Mapping[str, Reclassify]
) -> Counter[str]:
    """Write new classifications and the ledger entry of their message; count the outcomes.

    Args:
        session: a transaction's session. Roll it back if this raises.
        envelope: the message's identity. It has no documents of the account.
        operations: by id.

    Raises:
        ledger.AlreadyAccounted: this message was processed before.
    """
    outcomes: Counter[str] = Counter()
    changed: dict[str, _Row] = {}
    found: list[events.Event] = []
    for key, stored in _lock(session, sorted(operations)).items():
        decision = decide.reclassify(stored, operations[key])
        outcomes[decision.outcome.value] += 1
        prediction = operations[key].prediction
        found += events.of_reclassification(stored, decision, prediction, key)
        if decision.row is not None and decision.change is not Change.NONE:
            changed[key] = _Row(stored)
            changed[key].after = decision.row
            changed[key].prediction = prediction
    if changed:
        session.execute(_UPDATE, _records(envelope.task_id, changed))
    events.record(session, found, envelope.task_id)
    changes = [(row.before, row.after) for row in changed.values()]
    ledger.record(session, envelope, "", decide.deltas(changes))
    return outcomes


def patch(
    session: Session,
    document_id: UUID,
    op: Patch,
    now: int,
    if_match: Revision | None = None,
    *,
    request_id: str | None = None,
) -> Document | None:
    """Apply a merge-patch of the metadata and a label; return the document, None if there is none.

    Args:
        session: a transaction's session. Roll it back if this raises.
        document_id: the document.
        op: the operation.
        now: the next stamp of the API process. The row's revision is for its clock to observe.
        if_match: the revision that the document must have.
        request_id: the request that asks for it, for the document's history.

    Raises:
        PreconditionFailed: it has another one.
        MetadataTooLarge: its metadata would become too large.
    """
    key = str(document_id)
    stored = _lock(session, [key]).get(key)
    decision = decide.patch(stored, op, now)
    if decision is None:
        return None
    if not decide.holds(stored, if_match):
        raise PreconditionFailed
    if decision.row is not None and decision.change is not Change.NONE:
        if op.patch and len(orjson.dumps(decision.row.metadata)) > decide.MAX_METADATA_BYTES:
            raise MetadataTooLarge
        row = _Row(stored)
        row.after = decision.row
        session.execute(_UPDATE, _records("", {key: row}))
        ledger.record_deltas(session, decide.deltas([(stored, decision.row)]))
        events.record(session, events.of_patch(key, stored, op, decision.row, request_id))
    return get(session, document_id)


def delete(
    session: Session,
    document_id: UUID,
    now: int,
    if_match: Revision | None = None,
    *,
    request_id: str | None = None,
) -> int:
    """Leave a tombstone, whether the document is stored, still queued, or unknown.

    Args:
        session: a transaction's session. Roll it back if this raises.
        document_id: the document.
        now: the next stamp of the API process.
        if_match: the revision that the document must have.
        request_id: the request that asks for it, for the document's history.

    Returns:
        The tombstone's revision, for that process's clock to observe.

    Raises:
        PreconditionFailed: it has another one, or there is no document.
    """
    key = str(document_id)
    stored = _lock(session, [key]).get(key)
    if not decide.holds(stored, if_match):
        raise PreconditionFailed
    if stored is None:
        row = decide.delete(None, now).row
        if row is not None and session.execute(_BURY, {"id": key, "stamp": row.revision}).first():
            events.record(session, [events.of_delete(key, row.revision, request_id)])
            return row.revision
        stored = _lock(session, [key])[key]  # somebody stored it between the two statements
    decision = decide.delete(stored, now)
    assert decision.row is not None  # noqa: S101  # a delete always leaves a row
    session.execute(_ERASE, {"id": key, "stamp": decision.row.revision})
    search.enqueue(session, [key])
    ledger.record_deltas(session, decide.deltas([(stored, decision.row)]))
    if not stored.deleted:
        events.record(session, [events.of_delete(key, decision.row.revision, request_id)])
    return decision.row.revision


def purge_tombstones(session: Session, days: int, limit: int) -> int:
    """Remove up to `limit` tombstones that are older than `days` and one more; return how many.

    The day more is for messages: one that a worker took because it was just young enough may
    wait for a while before it is stored, and clocks differ.
    """
    rows = session.execute(_PURGE, {"days": days, "limit": limit}).all()
    return len(rows)


def revisions(session: Session, ids: Collection[UUID]) -> dict[UUID, int]:
    """Return the revisions of those of the documents that are stored."""
    found = select(Document.id, Document.revision).where(
        Document.id.in_(ids), Document.content.is_not(None)
    )
    return {row.id: row.revision for row in session.execute(found)}


def get(session: Session, document_id: UUID) -> Document | None:
    """Return a document, or None where there is none, or only its tombstone."""
    return session.scalar(
        select(Document).where(Document.id == document_id, Document.content.is_not(None))
    )


class _Row:
    """What the writes of one id make of its row: the decisions, folded.

    `accepted_at` is None while the writes change no more than the label: then the row's latest
    write is still the one before.
    """

    def __init__(self, before: Stored | None) -> None:
        self.before = before
        self.after = before
        self.change = Change.NONE
        self.content: str | None = None
        self.prediction: Prediction | None = None
        self.accepted_at: str | None = None
        self.events: list[events.Event] = []

    def apply(self, write: Write) -> str:
        """Apply one write; return its letter."""
        decision: Decision = decide.put(self.after, write.put)
        if decision.row and decision.row.content_revision == write.put.stamp:
            self.accepted_at = write.accepted_at
        self.events += events.of_write(
            self.after, decision, write.put.prediction, write.id, write.request_id
        )
        self.after = decision.row
        self.change = max(self.change, decision.change)
        if decision.change is Change.CONTENT:
            self.content = write.content
        if decision.classified:
            self.prediction = write.put.prediction
        return decision.outcome.value

    @property
    def revived(self) -> bool:
        """Whether a tombstone has become a document."""
        return self.before is not None and self.before.deleted and self.content is not None


class _Written:
    """The writes of one message by id, and what became of each."""

    def __init__(self, task_id: str, writes: Sequence[Write]) -> None:
        self.task_id = task_id
        self.writes_of: dict[str, list[tuple[int, Write]]] = {}
        for position, each in enumerate(writes):
            self.writes_of.setdefault(each.id, []).append((position, each))
        self.changes: list[tuple[Stored | None, Stored | None]] = []
        self.changed_texts: list[str] = []
        self.events: list[events.Event] = []
        self._letters = [""] * len(writes)
        self._rows: list[Stored | None] = [None] * len(writes)

    def decide(self, document_id: str, before: Stored | None) -> _Row:
        """Apply all writes of one id to its row."""
        row = _Row(before)
        for position, each in self.writes_of[document_id]:
            self._letters[position] = row.apply(each)
            self._rows[position] = row.after
        return row

    def categories(self) -> Counter[tuple[str | None, str]]:
        """Count the documents by category and letter."""
        categories = (None if row is None else row.category for row in self._rows)
        return Counter(zip(categories, self._letters, strict=True))

    def revisions(self) -> Iterator[tuple[str, str, int]]:
        """Yield id, letter and revision of each document that has a row."""
        for writes in self.writes_of.values():
            for position, each in writes:
                row = self._rows[position]
                if row is not None:
                    yield each.id, self._letters[position], row.revision

    def note(self, row: _Row) -> None:
        """Take down what has become of a row that is written."""
        self.changes.append((row.before, row.after))
        self.events += row.events

    def outcomes(self) -> str:
        """Return the letters, in the message's order."""
        return "".join(self._letters)


def _with_dead(outcomes: str, dead: Collection[int]) -> str:
    """Return the letters with those of the dead documents at their places."""
    if not dead:
        return outcomes
    letters = iter(outcomes)
    count = len(outcomes) + len(dead)
    return "".join(decide.Outcome.DEAD if at in dead else next(letters) for at in range(count))


def _insert(session: Session, written: _Written, ids: Sequence[str]) -> set[str]:
    """Insert the rows of ids that are not known; return those that were indeed new."""
    if not ids:
        return set()
    decided = {each: written.decide(each, None) for each in ids}
    rows = {each: row for each, row in decided.items() if row.after is not None}
    if not rows:  # all of them ask for a document that must be there
        return set()
    inserted = set(session.scalars(_INSERT, _records(written.task_id, rows)))
    for each in inserted:
        written.note(rows[each])
    return inserted


def _update(session: Session, written: _Written, ids: Sequence[str]) -> None:
    """Lock the rows of ids that existed, decide, and update what changed."""
    if not ids:
        return
    stored = _lock(session, ids)
    rows = {each: written.decide(each, stored.get(each)) for each in ids}
    if any(row.before is None and row.after is not None for row in rows.values()):
        raise Vanished
    written.changed_texts += [each for each, row in rows.items() if row.content is not None]
    for row in rows.values():
        written.note(row)
    for statement, changes in ((_STAMP, {Change.STAMPS}), (_UPDATE, {Change.ROW, Change.CONTENT})):
        changed = {each: row for each, row in rows.items() if row.change in changes}
        if changed:
            session.execute(statement, _records(written.task_id, changed))


def _lock(session: Session, ids: Sequence[str]) -> dict[str, Stored]:
    rows = session.execute(_LOCK, {"ids": list(ids)}).mappings()
    return {row["id"]: _stored(row) for row in rows}


def _stored(row: RowMapping) -> Stored:
    values = dict(row)
    del values["id"]
    if values["content_hash"] is not None:
        values["content_hash"] = bytes(values["content_hash"])
    patches = values["metadata_patches"] or ()
    values["metadata_patches"] = tuple(MetadataPatch(*patch) for patch in patches)
    return Stored(**values)


def _records(task_id: str, rows: Mapping[str, _Row]) -> dict[str, str]:
    """Return the parameters of a statement that writes rows: all of them as one JSON array.

    One value, whatever the number of rows, takes PostgreSQL a fifth less time than an array a
    column, whose elements it parses as expressions one by one.
    """
    records = [_record(document_id, row) for document_id, row in rows.items()]
    return {"task_id": task_id, "records": orjson.dumps(records).decode()}


def _record(document_id: str, row: _Row) -> dict[str, Any]:
    after, prediction = row.after, row.prediction
    assert after is not None  # noqa: S101  # a put leaves a row
    record = {
        "id": document_id,
        "revision": after.revision,
        "content_revision": after.content_revision,
        "label_revision": after.label_revision,
        "content": row.content,
        "content_hash": None if after.content_hash is None else after.content_hash.hex(),
        "metadata": after.metadata,
        "metadata_patches": [tuple(patch) for patch in after.metadata_patches] or None,
        "source": after.source,
        "external_id": after.external_id,
        "status": after.status,
        "predicted_category": after.predicted_category,
        "label": after.label,
        "classified": prediction is not None,
        "accepted_at": row.accepted_at,
        "revived": row.revived,
    }
    if prediction is not None:
        record["confidence"] = prediction.confidence
        record["model_version"] = prediction.model_version
        record["error"] = prediction.error
    return record


_RECORDS: Final = """json_to_recordset(CAST(:records AS json)) AS i(
        id uuid, revision int8, content_revision int8, label_revision int8, content text,
        content_hash text, metadata jsonb, metadata_patches jsonb, source text, external_id text,
        status text, predicted_category text, label text, classified bool, confidence float8,
        model_version text, error jsonb, accepted_at timestamptz, revived bool)"""
"""The rows that `_record` makes, as SQL sees them."""


def _statement(sql: str) -> TextClause:
    """Return a statement in which `RECORDS` stands for the rows to write."""
    return text(sql.replace("RECORDS", _RECORDS))


_KNOWN: Final = text("""
    SELECT id::text AS id, CASE WHEN status = 'stored' THEN content_hash END AS content_hash
    FROM documents WHERE id = ANY(CAST(:ids AS uuid[]))
""")

# New rows are queued for the search here, old ones by `search.enqueue`: a statement of its own
# would cost a message of one document a fifth of this step.
_INSERT: Final = _statement("""
    WITH new AS (
    INSERT INTO documents (
        id, revision, content_revision, label_revision, content, content_hash, metadata,
        metadata_patches, source, external_id, status, predicted_category, label, confidence,
        model_version, error, task_id, accepted_at, created_at, updated_at, classified_at)
    SELECT id, revision, content_revision, label_revision, content, decode(content_hash, 'hex'),
        metadata, metadata_patches, source, external_id, status, predicted_category, label,
        confidence, model_version, error, :task_id, accepted_at, now(), now(), now()
    FROM RECORDS
    ON CONFLICT (id) DO NOTHING
    RETURNING id),
    queued AS (INSERT INTO index_queue (ids) SELECT array_agg(id) FROM new HAVING count(*) > 0)
    SELECT id::text AS id FROM new
""")

_CONTENTS: Final = text("""
    SELECT d.id::text AS id, d.content
    FROM unnest(CAST(:ids AS uuid[]), CAST(:revisions AS int8[])) AS i(id, content_revision)
        JOIN documents d USING (id, content_revision)
    WHERE d.content IS NOT NULL
""")

_LOCK: Final = text("""
    SELECT id::text AS id, revision, content_revision, label_revision, content_hash, metadata,
        metadata_patches, source, external_id, status, predicted_category, label
    FROM documents WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY documents.id FOR UPDATE
""")

_STAMP: Final = _statement("""
    UPDATE documents d
    SET revision = i.revision, content_revision = i.content_revision, task_id = :task_id
    FROM RECORDS WHERE d.id = i.id
""")

_UPDATE: Final = _statement("""
    UPDATE documents d SET
        revision = i.revision, content_revision = i.content_revision,
        label_revision = i.label_revision,
        content = coalesce(i.content, d.content), content_hash = decode(i.content_hash, 'hex'),
        metadata = i.metadata, metadata_patches = i.metadata_patches,
        source = i.source, external_id = i.external_id, status = i.status,
        predicted_category = i.predicted_category, label = i.label,
        confidence = CASE WHEN i.classified THEN i.confidence ELSE d.confidence END,
        model_version = CASE WHEN i.classified THEN i.model_version ELSE d.model_version END,
        error = CASE WHEN i.classified THEN i.error ELSE d.error END,
        classified_at = CASE WHEN i.classified THEN now() ELSE d.classified_at END,
        task_id = CASE WHEN i.accepted_at IS NULL THEN d.task_id ELSE :task_id END,
        accepted_at = coalesce(i.accepted_at, d.accepted_at), updated_at = now(),
        created_at = CASE WHEN i.revived THEN now() ELSE d.created_at END
    FROM RECORDS WHERE d.id = i.id
""")

_BURY: Final = text("""
    INSERT INTO documents (id, revision, content_revision, label_revision, metadata, status,
        accepted_at, created_at, updated_at)
    VALUES (CAST(:id AS uuid), :stamp, :stamp, :stamp, '{}', 'stored', now(), now(), now())
    ON CONFLICT (id) DO NOTHING RETURNING id
""")

_ERASE: Final = text("""
    UPDATE documents SET revision = :stamp, content_revision = :stamp, label_revision = :stamp,
        content = NULL, content_hash = NULL, metadata = '{}', metadata_patches = NULL,
        source = NULL, external_id = NULL, status = 'stored', predicted_category = NULL,
        confidence = NULL, model_version = NULL, label = NULL, error = NULL, task_id = NULL,
        classified_at = NULL, updated_at = now()
    WHERE id = CAST(:id AS uuid)
""")

_PURGE: Final = text("""
    DELETE FROM documents WHERE id = ANY(ARRAY(
        SELECT id FROM documents
        WHERE content IS NULL AND updated_at < now() - make_interval(days => :days + 1)
        LIMIT :limit FOR UPDATE SKIP LOCKED))
    AND content IS NULL RETURNING id
""")
