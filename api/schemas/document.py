"""Documents as clients send them and as they get them back."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from api.schemas.problem import FieldError
from shared.decide import MAX_METADATA_BYTES, Outcome
from shared.models import Document

MAX_METADATA_DEPTH: Final = 100
MAX_KEY_LENGTH: Final = 512

_TOO_DEEP: Final = f"must not be nested deeper than {MAX_METADATA_DEPTH} levels"
_ESCAPED_NUL: Final = b"\\u0000"


def _content(value: str, info: ValidationInfo) -> str:
    limit: int = (info.context or {})["max_content_bytes"]
    # A character has at most four bytes: only the texts in doubt are encoded to be measured.
    if len(value) * 4 > limit and len(value.encode()) > limit:
        raise ValueError(f"must not be longer than {limit} bytes of UTF-8")
    return no_nul(value)


def no_nul(value: str) -> str:
    """Return a text that PostgreSQL can hold.

    Raises:
        ValueError: it cannot.
    """
    if "\0" in value:
        raise ValueError("must not contain NUL characters")
    return value


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    try:
        encoded = orjson.dumps(value)
    except orjson.JSONEncodeError as error:  # far deeper than we allow
        raise ValueError(_TOO_DEEP) from error
    if len(encoded) > MAX_METADATA_BYTES:
        raise ValueError(f"must not be longer than {MAX_METADATA_BYTES} bytes of JSON")
    if _depth(value) > MAX_METADATA_DEPTH:
        raise ValueError(_TOO_DEEP)
    if _ESCAPED_NUL in encoded and (place := _find_nul(value)) is not None:
        raise ValueError(f"must not contain NUL characters, as {place} does")
    return value


def _depth(value: object) -> int:
    """Return how deep a JSON value is nested, level by level rather than by recursion."""
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [
            inner for each in level for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return depth


def _find_nul(value: object, place: str = "") -> str | None:
    """Return where in a JSON value a NUL is, as a JSON pointer, or None."""
    if isinstance(value, str):
        return (place or "/") if "\0" in value else None
    if isinstance(value, dict):
        inner = [*value.items()]
    elif isinstance(value, list):
        inner = [*enumerate(value)]
    else:
        return None
    for key, each in inner:
        shown = str(key).replace("\0", "\\u0000")
        if "\0" in str(key):
            return f"the key {place}/{shown}"
        if (found := _find_nul(each, f"{place}/{shown}")) is not None:
            return found
    return None


Status = Literal["stored", "failed"]
Content = Annotated[str, Field(min_length=1), AfterValidator(_content)]
Key = Annotated[str, Field(min_length=1, max_length=MAX_KEY_LENGTH), AfterValidator(no_nul)]
Metadata = Annotated[dict[str, Any], AfterValidator(_metadata)]


class DocumentIn(BaseModel):
    """A document to accept."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "content": "The shuttle launch was delayed by weather again.",
                "source": "forum",
                "external_id": "post-4711",
                "metadata": {"author": "mira"},
            }
        },
    )

    content: Content = Field(description="the text, 1 character to 1 MiB of UTF-8")
    id: UUID | None = Field(
        None, description="set it to write the same document again; made here if left out"
    )
    external_id: Key | None = Field(None, description="your own key of the document")
    source: Key | None = Field(None, description="where the document came from")
    metadata: Metadata | None = Field(None, description="any JSON object, at most 16 KiB")
    label: Key | None = Field(
        None,
        description="the category as a person sees it, which wins; null clears it",
    )


class DocumentPatchIn(BaseModel):
    """What to change of a stored document: a merge-patch (RFC 7396)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"metadata": {"author": None, "seen": True}, "label": "sci.space"}
        },
    )

    metadata: Metadata = Field(
        default_factory=dict, description="a merge-patch: null removes a key, objects are merged"
    )
    label: Key | None = Field(
        None, description="the category as a person sees it, which wins; null clears it"
    )


class AcceptedOut(BaseModel):
    """A document was accepted: it is safe, and will be stored."""

    id: UUID
    revision: int = Field(description="the stamp of this write, microseconds since the epoch")
    task_id: str = Field(description="the message that carries it: see it in Flower and the logs")
    status: Literal["accepted"]
    accepted_at: datetime


OutcomeName = Literal["created", "replaced", "unchanged", "superseded", "failed", "dead"]
OUTCOMES: Final[dict[Outcome, OutcomeName]] = {
    Outcome.CREATED: "created",
    Outcome.REPLACED: "replaced",
    Outcome.UNCHANGED: "unchanged",
    Outcome.SUPERSEDED: "superseded",
    Outcome.FAILED: "failed",
    Outcome.DEAD: "dead",
}
"""What can become of a document that came without a precondition."""


class BatchItemOut(BaseModel):
    """One accepted document of a batch."""

    id: UUID
    revision: int
    outcome: OutcomeName | None = Field(None, description="with `Prefer: wait=N`")


class BatchOut(BaseModel):
    """A batch was accepted as one message."""

    accepted: int
    task_id: str
    documents: list[BatchItemOut]


class BatchEntryOut(BaseModel):
    """What became of one document of a batch that is not atomic."""

    status: Literal["accepted", "refused"]
    id: UUID | None = None
    revision: int | None = None
    outcome: OutcomeName | None = Field(None, description="with `Prefer: wait=N`")
    errors: list[FieldError] | None = None


class PartialBatchOut(BaseModel):
    """What became of each document of a batch that is not atomic, in its order."""

    accepted: int
    refused: int
    task_id: str | None
    documents: list[BatchEntryOut]


class DocumentOut(BaseModel):
    """A stored document."""

    id: UUID
    external_id: str | None
    source: str | None
    content: str
    metadata: dict[str, Any]
    revision: int = Field(description="grows with every change; the ETag")
    task_id: str | None = Field(description="the message that carried the latest write")
    status: Status
    error: dict[str, Any] | None = Field(description="why it could not be classified")
    category: str | None = Field(description="the label if there is one, else the prediction")
    category_source: Literal["human", "model"]
    confidence: float | None = Field(description="the classifier's, 0 to 1")
    predicted_category: str | None
    model_version: str | None
    label: str | None
    accepted_at: datetime
    created_at: datetime
    updated_at: datetime
    classified_at: datetime | None

    @classmethod
    def of(cls, row: Document) -> Self:
        """Return the document of a row that is no tombstone."""
        assert row.content is not None  # noqa: S101  # the store lists no tombstones
        values = {name: getattr(row, name) for name in _SAME_NAMES}
        source = "model" if row.label is None else "human"
        return cls(**values, metadata=row.metadata_, category_source=source)


_SAME_NAMES: Final = tuple(DocumentOut.model_fields.keys() - {"metadata", "category_source"})
