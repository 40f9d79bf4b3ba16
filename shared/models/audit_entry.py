"""The audit log: who changed what."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, Index, Integer, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base


class AuditEntry(Base):
    """One change, or what one caller had accepted within a minute.

    Attributes:
        at: when it was done; of many requests, the first one's time.
        caller: their name; null where nobody is asked who they are, and for commands on the server.
        key_id: the key that they showed.
        action: the operation's id in the API's schema.
        object_kind: see `shared.store.audit.ObjectKind`.
        object_id: what was changed; null where it was many, `details` tell which.
        request_id: null where it was many.
        address: where the request came from.
        outcome: status of the answer; null if there was none yet, or none at all.
        details: small, without contents and secrets.
    """

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_at", text("at DESC"), text("id DESC")),
        Index("ix_audit_caller", "caller", text("at DESC"), text("id DESC")),
        Index("ix_audit_action", "action", text("at DESC"), text("id DESC")),
        Index("ix_audit_object_id", "object_id", text("at DESC"), text("id DESC")),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    caller: Mapped[str | None] = mapped_column(Text)
    key_id: Mapped[UUID | None] = mapped_column(Uuid)
    action: Mapped[str] = mapped_column(Text)
    object_kind: Mapped[str | None] = mapped_column(Text)
    object_id: Mapped[UUID | None] = mapped_column(Uuid)
    request_id: Mapped[str | None] = mapped_column(Text)
    address: Mapped[str | None] = mapped_column(Text)
    outcome: Mapped[int | None] = mapped_column(Integer)
    details: Mapped[dict[str, Any]] = mapped_column(JSONB)
