"""The audit log as the API shows it."""

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, Field

from api.schemas.cursor import CursorIn
from shared.models import AuditEntry
from shared.store.audit import ObjectKind


class AuditOut(BaseModel):
    """One change, or what one caller had accepted by one operation within a minute."""

    id: UUID
    at: datetime = Field(description="of many requests, the first one's time")
    caller: str | None = Field(
        description="null where nobody is asked who they are, and for commands on the server",
        examples=["crawler"],
    )
    key_id: UUID | None = Field(description="the key that they have shown")
    action: str = Field(description="the operation's id in this schema", examples=["revokeKey"])
    object_kind: ObjectKind | None
    object_id: UUID | None = Field(description="null where it was many; `details` tell which")
    request_id: str | None = Field(
        description="null where it was many", examples=["0198f3c27a3b7cc2a1f04d3f0c2f6b11"]
    )
    address: str | None = Field(
        description="where the request came from; null where it was many", examples=["192.0.2.7"]
    )
    outcome: int | None = Field(
        description="status of the answer; null if there was none yet, or none at all",
        examples=[200],
    )
    details: dict[str, Any] = Field(
        description="such as filters and counts; never contents or secrets",
        examples=[{"letters": 3, "reason": "failed"}],
    )

    @classmethod
    def of(cls, row: AuditEntry) -> Self:
        """Return the entry of a row."""
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class AuditPageOut(BaseModel):
    """A page of the audit log, newest first."""

    data: list[AuditOut]
    next_cursor: CursorIn | None
    has_more: bool
