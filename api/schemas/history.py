"""The history of a document."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID

from pydantic import BaseModel, Field

from api.schemas.document import Status
from shared.models import DocumentEvent
from shared.store.events import Kind, LatestWrite

_TIME: Final = "2026-11-21T10:15:00Z"
_TASK: Final = "019e0c5e-7d2a-7b32-9a51-3f6f0c2b9d10.17"


class LatestWriteOut(BaseModel):
    """The write that made the document what it is."""

    task_id: str | None = Field(description="the message that carried it", examples=[_TASK])
    revision: int = Field(
        description="of the content: what the 202 said", examples=[1_795_256_100_000_000]
    )
    status: Status
    model_version: str | None = Field(examples=["20newsgroups-1"])
    accepted_at: datetime = Field(examples=[_TIME])
    created_at: datetime = Field(examples=[_TIME])
    updated_at: datetime = Field(examples=[_TIME])
    classified_at: datetime | None = Field(examples=[_TIME])

    @classmethod
    def of(cls, row: LatestWrite) -> Self:
        """Return what a row that is no tombstone says."""
        values = {name: getattr(row, name) for name in cls.model_fields}
        return cls(**values | {"revision": row.content_revision})


class EventOut(BaseModel):
    """Something that happened to a document besides an ordinary write."""

    at: datetime = Field(examples=[_TIME])
    kind: Kind
    revision: int = Field(description="the document's after it", examples=[1_795_256_100_000_001])
    task_id: str | None = Field(description="the message that brought it", examples=[_TASK])
    request_id: str | None = Field(
        description="the request that asked for it", examples=["0198f3c27a3b7cc2a1f04d3f0c2f6b11"]
    )
    details: dict[str, Any] = Field(
        description="`label`: before, label; `patch`: keys; `failure`: title, model_version;"
        " `replay`: dead_letter; `reclassify`: before, predicted_category, model_version",
        examples=[{"before": None, "label": "sci.space"}],
    )

    @classmethod
    def of(cls, row: DocumentEvent) -> Self:
        """Return the event of a row."""
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class HistoryOut(BaseModel):
    """The latest write of a document, and a page of its rarer events, newest first.

    Ordinary writes leave no events. Those of a deleted document are kept as long as its tombstone.
    """

    id: UUID
    revision: int = Field(examples=[1_795_256_100_000_001])
    deleted: bool
    latest_write: LatestWriteOut | None = Field(description="null once it is deleted")
    data: Sequence[EventOut]
    next_cursor: str | None = Field(description="pass it as `cursor` to get the next page")
    has_more: bool
