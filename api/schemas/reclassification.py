"""Classifying stored documents anew."""

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.cursor import CursorIn
from api.schemas.document import Key


class ReclassifyIn(BaseModel):
    """Which documents to classify anew."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["stored", "failed"] = "failed"
    category: Key | None = Field(None, description="the effective category")
    source: Key | None = None
    model_version: str | None = Field(None, description="the model that classified them last")
    cursor: CursorIn | None = Field(None, description="`next_cursor` of the call before")


class ReclassifiedOut(BaseModel):
    """A document that is queued to be classified anew."""

    id: UUID
    task_id: str = Field(description="the message, as in the logs and in Flower")
    status: Literal["accepted"]


class ReclassifyOut(BaseModel):
    """What is queued to be classified anew."""

    documents: int
    task_ids: list[str] = Field(description="the messages, as in the logs and in Flower")
    next_cursor: str | None
    has_more: bool = Field(description="call again with `next_cursor` for the others")
