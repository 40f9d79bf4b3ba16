"""Dead letters as the API shows them, and what to do with them."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field

from api.schemas.cursor import CursorIn
from api.schemas.document import Key
from api.schemas.time import Time
from shared.dead import Reason

MAX_PAYLOAD: Final = 1 << 20
"""Bytes of a letter's payload that are shown."""

MAX_RATE: Final = 100_000.0


class LetterOut(BaseModel):
    """A message that could not be processed, or the one document of it that could not."""

    id: UUID
    reason: Reason
    error: str = Field(examples=["documents: 0.stamp: Field required"])
    fingerprint: str = Field(description="the same for letters that died alike")
    task: str | None = Field(description="what the message asked for, if that can be read")
    task_id: str | None = Field(description="the message; null if it is outside the account")
    producer_id: UUID | None
    position: int | None = Field(
        description="place of the single document in its message, whose others are stored"
    )
    documents: int = Field(description="how many it carries, as far as is known")
    attempts: int = Field(description="deliveries that came to nothing")
    first_at: datetime
    last_at: datetime
    content_type: str | None
    content_encoding: str | None
    size: int = Field(description="bytes of the payload")

    @classmethod
    def of(cls, row: Mapping[str, Any], **more: Any) -> Self:
        """Return the letter of a row of the store."""
        task_id = None if row["producer_id"] is None else f"{row['producer_id']}.{row['seq']}"
        return cls(**{**row, "task_id": task_id, **more})


class LetterDetailOut(LetterOut):
    """A dead letter with all that came with it."""

    headers: dict[str, Any]
    payload: Any = Field(description="the payload, if it is JSON of at most 1 MiB; else null")
    payload_base64: str | None = Field(description="the payload's first MiB, if it is no such JSON")
    truncated: bool = Field(description="whether there is more than that")

    @classmethod
    def whole(cls, row: Mapping[str, Any]) -> Self:
        """Return the letter of a row that has headers and payload."""
        payload = bytes(row["payload"])
        truncated = row["size"] > len(payload)
        try:
            shown, encoded = None if truncated else orjson.loads(payload), None
        except orjson.JSONDecodeError:
            shown, encoded = None, b64encode(payload).decode()
        if truncated:
            encoded = b64encode(payload).decode()
        return cls.of(row, payload=shown, payload_base64=encoded, truncated=truncated)


class LetterPageOut(BaseModel):
    """A page of dead letters, newest first."""

    data: Sequence[LetterOut]
    next_cursor: str | None = Field(description="pass it as `cursor` to get the next page")
    has_more: bool


class LetterGroupOut(BaseModel):
    """Letters that died alike."""

    fingerprint: str
    reason: Reason
    task: str | None
    error: str = Field(
        description="the latest one's", examples=["documents: 0.stamp: Field required"]
    )
    letters: int
    documents: int
    first_at: datetime
    last_at: datetime
    example: UUID = Field(description="the latest one")


class LetterGroupsOut(BaseModel):
    """Groups of dead letters, the largest first."""

    data: Sequence[LetterGroupOut]


class ReplayIn(BaseModel):
    """Which dead letters to replay, and how fast. Without a filter: all of them."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason | None = None
    fingerprint: Key | None = None
    task: Key | None = None
    producer_id: UUID | None = None
    since: Time | None = Field(None, description="died, the last time, then or later")
    restamp: bool = Field(
        False,
        strict=True,
        description="accept the documents as of now: they win over all that came since",
    )
    rate: float | None = Field(
        None,
        gt=0,
        le=MAX_RATE,
        strict=True,
        description="documents a second; `Retry-After` says when to go on",
    )
    cursor: CursorIn | None = Field(None, description="`next_cursor` of the call before")


class ReplayedOut(BaseModel):
    """A dead letter was queued again; it is listed until its documents are stored."""

    task_id: str = Field(description="the new message")
    documents: int


class RefusedOut(BaseModel):
    """A dead letter that would only be dead again."""

    id: UUID
    reason: Reason
    detail: str


class ReplayOut(BaseModel):
    """What one call has queued again, the oldest letters first."""

    letters: int
    documents: int
    refused: Sequence[RefusedOut] = Field(description="those that would only be dead again")
    has_more: bool = Field(description="whether to call again, with `cursor`")
    next_cursor: str | None


class DeletedOut(BaseModel):
    """How many dead letters one call has deleted."""

    deleted: int
    has_more: bool = Field(description="whether to call again")
