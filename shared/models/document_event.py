"""What happened to a document besides ordinary writes."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, ForeignKey, Index, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base


class DocumentEvent(Base):
    """One rarer event in a document's life. It goes when the document's tombstone is purged.

    Attributes:
        id: grows; the events of one document have it in the order of their decisions.
        kind: see `shared.store.events.Kind`.
        revision: the document's after the event.
        task_id: the message that brought it, if one did.
        request_id: the request that asked for it, if that is known.
        details: small, and without contents.
    """

    __tablename__ = "document_events"
    __table_args__ = (Index("ix_document_events_document_id", "document_id", text("id DESC")),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    document_id: Mapped[UUID] = mapped_column(Uuid, ForeignKey("documents.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    kind: Mapped[str] = mapped_column(Text)
    revision: Mapped[int] = mapped_column(BigInteger)
    task_id: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column(JSONB)
