"""What an accepted operation makes of a document: the one place that knows about order.

*A document is what all its accepted operations give when applied in the order of their stamps,
whatever order they arrive in, however often.* The functions here are pure. SQL locks the row, calls
one of them with what it read, and writes what the decision says.

A row has two registers, each last-write-wins by its own stamp: content (with metadata, source,
external id and prediction) and the human label. A merge-patch of metadata that is newer than the
content stays in the row and is replayed over an older full write that arrives late, so that a PATCH
never swallows a PUT accepted before it. A delete writes "nothing" to both registers: a tombstone is
no special case, and "no row" is a tombstone at stamp 0.

Stamps and revisions are microseconds since the epoch, greater than 0. The row's `revision` is the
strong ETag: it grows with every change, whatever changed, and is no register's stamp.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

JsonObject: TypeAlias = dict[str, Any]
Status: TypeAlias = Literal["stored", "failed"]

MAX_METADATA_BYTES: Final = 16 << 10
"""Bytes of JSON that a document's metadata may have."""

MAX_PATCHES = 100
"""Metadata patches that a row keeps at most; one more folds them into what they have led to."""


class Outcome(StrEnum):
    """What became of a document, as the letter that the ledger keeps."""

    CREATED = "c"
    REPLACED = "s"
    UNCHANGED = "u"
    SUPERSEDED = "x"
    PRECONDITION_FAILED = "p"
    FAILED = "f"
    DEAD = "d"


class Change(IntEnum):
    """How much of the row a decision writes; each level includes the ones before it."""

    NONE = 0
    STAMPS = 1  # revision, content_revision and task_id
    ROW = 2  # everything but the text
    CONTENT = 3  # the text too; an insert where there was no row


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
"""The request had no key `label`; `None` means that it clears the label."""

Label: TypeAlias = str | Unset | None


class NeedsClassification(Exception):
    """The write was not classified because its content looked known, but the locked row differs."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the classifier said of a content, or the problem object of why it could not."""

    category: str | None
    confidence: float | None
    model_version: str | None
    error: "Mapping[str, Any] | None" = None


class MetadataPatch(NamedTuple):
    """One entry of `Stored.metadata_patches`, in the database `[stamp, value, exact]`.

    `value` is a merge-patch (RFC 7396), or, where `exact` is set, the whole metadata.
    """

    stamp: int
    value: JsonObject
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """One row of documents as far as a decision depends on it: without its text.

    `metadata_patches` are the patches not older than `content_revision`, oldest first;
    `metadata` has them applied. `content_hash` is None in a tombstone.
    """

    revision: int
    content_revision: int
    label_revision: int
    content_hash: bytes | None
    metadata: JsonObject = field(default_factory=dict)
    metadata_patches: tuple[MetadataPatch, ...] = ()
    source: str | None = None
    external_id: str | None = None
    status: Status = "stored"
    predicted_category: str | None = None
    label: str | None = None

    @property
    def deleted(self) -> bool:
        """Whether the row is a tombstone."""
        return self.content_hash is None

    @property
    def category(self) -> str | None:
        """The effective category: a person's label wins over the model."""
        return self.predicted_category if self.label is None else self.label


NO_ROW: Final = Stored(revision=0, content_revision=0, label_revision=0, content_hash=None)


Revision: TypeAlias = int | Literal["*"]
"""What If-Match may ask for: a revision, or any."""


@dataclass(frozen=True, slots=True)
class Put:
    """A full write. `prediction` is None where a hint said that the content is unchanged.

    Attributes:
        if_match: the revision that a document must have for the write to be done.
        if_none_match: there must be no document for the write to be done.
        create_only: nothing is done where there is a row, be it a tombstone: the write may be a
            late copy of the one that made it.
    """

    stamp: int
    content_hash: bytes
    metadata: JsonObject
    source: str | None
    external_id: str | None
    label: Label
    prediction: Prediction | None
    if_match: Revision | None = None
    if_none_match: bool = False
    create_only: bool = False


@dataclass(frozen=True, slots=True)
class Patch:
    """A merge-patch (RFC 7396) of the metadata, `{}` for none, and a label."""

    patch: JsonObject
    label: Label = UNSET


@dataclass(frozen=True, slots=True)
class Reclassify:
    """A new classification of the content that was stored at `content_revision`."""

    content_revision: int
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Decision:
    """The row as it shall be, and what the caller must write to get there.

    `classified` says that the operation's prediction is now the row's: write confidence, model
    version, error and time of it. The outcome of a PATCH or DELETE is `Outcome.REPLACED` where the
    visible document changed, else `Outcome.UNCHANGED`; no ledger row records it.
    """

    row: Stored | None
    outcome: Outcome
    change: Change
    classified: bool = False


def put(stored: Stored | None, op: Put) -> Decision:
    """Decide a full write.

    Raises:
        NeedsClassification: it would change the content, but carries no prediction.
    """
    if op.create_only and stored is not None:
        return Decision(stored, Outcome.UNCHANGED, Change.NONE)
    if not holds(stored, op.if_match, if_none_match=op.if_none_match):
        return Decision(stored, Outcome.PRECONDITION_FAILED, Change.NONE)
    old = stored or NO_ROW
    row, classified = old, False
    if op.stamp > old.content_revision:
        row, classified = _write_content(old, op)
    if op.label is not UNSET and op.stamp > old.label_revision:
        row = _write_label(row, op.label, op.stamp, _revision(old, op.stamp))
    if row is old:
        return Decision(stored, Outcome.SUPERSEDED, Change.NONE)
    return _changed(stored, row, classified=classified)


def patch(stored: Stored | None, op: Patch, now: int) -> Decision | None:
    """Decide a PATCH; None where there is no document to patch.

    `now` is the next stamp of the API process. Feed the new row's revision back into its clock.
    """
    if stored is None or stored.deleted:
        return None
    stamp = max(now, stored.revision + 1)
    row = stored
    if op.patch:
        row = _append(row, MetadataPatch(stamp, op.patch), _revision(stored, stamp))
    if op.label is not UNSET:
        row = _write_label(row, op.label, stamp, _revision(stored, stamp))
    if row is stored:
        return Decision(stored, Outcome.UNCHANGED, Change.NONE)
    return _changed(stored, row)


def holds(stored: Stored | None, if_match: Revision | None, *, if_none_match: bool = False) -> bool:
    """Say whether the precondition of a write holds; a tombstone is no document.

    It is decided when the write is, against what is stored then: of many writes with one revision
    exactly one is done.
    """
    exists = stored is not None and not stored.deleted
    if if_none_match and exists:
        return False
    if if_match is None:
        return True
    return stored is not None and exists and if_match in {"*", stored.revision}


def delete(stored: Stored | None, now: int) -> Decision:
    """Decide a DELETE, also of an id without a row: its write may still be queued.

    `now` is the next stamp of the API process. Feed the new row's revision back into its clock.
    """
    old = stored or NO_ROW
    stamp = max(now, old.revision + 1)
    return _changed(stored, Stored(_revision(old, stamp), stamp, stamp, content_hash=None))


def reclassify(stored: Stored | None, op: Reclassify) -> Decision:
    """Decide a new classification of what is stored: no operation of a client, so it has no stamp.

    It is superseded if the content was written anew meanwhile. Where it fails, a document that
    was classified before stays as it is.
    """
    if stored is None or stored.deleted or stored.content_revision != op.content_revision:
        return Decision(stored, Outcome.SUPERSEDED, Change.NONE)
    fails = op.prediction.error is not None
    if fails and stored.status == "stored":
        return Decision(stored, Outcome.FAILED, Change.NONE)
    row = replace(
        stored,
        revision=stored.revision + 1,
        status="failed" if fails else "stored",
        predicted_category=op.prediction.category,
    )
    return _changed(stored, row, classified=True)


def deltas(changes: "Iterable[tuple[Stored | None, Stored | None]]") -> dict[str, dict[str, int]]:
    """Return how (before, after) pairs of rows change the counts of live documents.

    The shape is `{"category": {"sci.space": 1, "rec.autos": -1}, "source": {}, "status": {}}`,
    without zeros. A document without category or without source is not counted under it.
    """
    totals: Counter[tuple[str, str]] = Counter()
    for before, after in changes:
        for counted in _counted(before):
            totals[counted] -= 1
        for counted in _counted(after):
            totals[counted] += 1
    nested: dict[str, dict[str, int]] = {"category": {}, "source": {}, "status": {}}
    for (dimension, value), count in totals.items():
        if count:
            nested[dimension][value] = count
    return nested


def merge_patch(target: object, patch: JsonObject) -> JsonObject:
    """Return `target` with an object merge-patch applied (RFC 7396, section 2)."""
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = merge_patch(merged.get(key), value)
        else:
            merged[key] = value
    return merged


def same_json(left: object, right: object) -> bool:
    """Compare JSON values: numbers by value, whatever their notation, and true is not 1.

    PostgreSQL's jsonb gives 1e29 back as an integer: bytes would differ where the value does not.
    """
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(
            same_json(value, right[key]) for key, value in left.items()
        )
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, float) and isinstance(right, int):
        return _same_number(left, right)
    if isinstance(left, int) and isinstance(right, float):
        return _same_number(right, left)
    return left == right


def _same_number(left: float, right: int) -> bool:
    try:
        return left == float(right)
    except OverflowError:  # more than 308 digits
        return False


def _write_content(old: Stored, op: Put) -> tuple[Stored, bool]:
    status, category, classified = _classification(old, op)
    patches = _not_older(old.metadata_patches, op.stamp)
    row = Stored(
        revision=_revision(old, op.stamp),
        content_revision=op.stamp,
        label_revision=old.label_revision,
        content_hash=op.content_hash,
        metadata=_replay(op.metadata, patches),
        metadata_patches=patches,
        source=op.source,
        external_id=op.external_id,
        status=status,
        predicted_category=category,
        label=old.label,
    )
    return row, classified


def _classification(old: Stored, op: Put) -> tuple[Status, str | None, bool]:
    if op.content_hash == old.content_hash and old.status == "stored":
        return old.status, old.predicted_category, False
    if op.prediction is None:
        raise NeedsClassification
    status: Status = "stored" if op.prediction.error is None else "failed"
    return status, op.prediction.category, True


def _write_label(row: Stored, label: str | None, stamp: int, revision: int) -> Stored:
    return replace(row, label=label, label_revision=stamp, revision=revision)


def _not_older(patches: tuple[MetadataPatch, ...], stamp: int) -> tuple[MetadataPatch, ...]:
    # A PATCH may share its stamp with a PUT of another process that it has not seen; it then comes
    # after it, as it would have, had the PUT been stored in time.
    return tuple(patch for patch in patches if patch.stamp >= stamp)


def _replay(metadata: JsonObject, patches: tuple[MetadataPatch, ...]) -> JsonObject:
    for patch in patches:
        metadata = patch.value if patch.exact else merge_patch(metadata, patch.value)
    return metadata


def _append(row: Stored, patch: MetadataPatch, revision: int) -> Stored:
    # Patches cannot be composed into one (null, then an object under the same key), so a full list
    # becomes the metadata it has led to: a PUT from before it that is still queued then brings its
    # content but no longer its metadata.
    metadata = merge_patch(row.metadata, patch.value)
    patches = (*row.metadata_patches, patch)
    if len(patches) > MAX_PATCHES:
        patches = (MetadataPatch(patch.stamp, metadata, exact=True),)
    return replace(row, metadata=metadata, metadata_patches=patches, revision=revision)


def _changed(stored: Stored | None, row: Stored, *, classified: bool = False) -> Decision:
    old = stored or NO_ROW
    same = _looks_same(old, row)
    outcome = _outcome(old, row, same, classified)
    return Decision(row, outcome, _change(stored, row, same, classified), classified)


def _revision(old: Stored, stamp: int) -> int:
    return max(old.revision + 1, stamp)


def _outcome(old: Stored, row: Stored, same: bool, classified: bool) -> Outcome:
    if classified and row.status == "failed":
        return Outcome.FAILED
    if same:
        return Outcome.UNCHANGED
    return Outcome.CREATED if old.deleted else Outcome.REPLACED


def _change(stored: Stored | None, row: Stored, same: bool, classified: bool) -> Change:
    if stored is None or stored.content_hash != row.content_hash:
        return Change.CONTENT
    label_kept = stored.label_revision == row.label_revision
    patches_kept = stored.metadata_patches == row.metadata_patches
    if same and label_kept and patches_kept and not classified:
        return Change.STAMPS
    return Change.ROW


def _looks_same(old: Stored, row: Stored) -> bool:
    # Digests first: where they differ, as nearly always, there is nothing else to compare.
    return (
        old.content_hash == row.content_hash
        and _facts(old) == _facts(row)
        and same_json(old.metadata, row.metadata)
    )


def _facts(row: Stored) -> tuple[object, ...]:
    return (
        row.source,
        row.external_id,
        row.status,
        row.predicted_category,
        row.label,
    )


def _counted(row: Stored | None) -> list[tuple[str, str]]:
    if row is None or row.deleted:
        return []
    counted = [("status", str(row.status))]
    if row.category is not None:
        counted.append(("category", row.category))
    if row.source is not None:
        counted.append(("source", row.source))
    return counted
