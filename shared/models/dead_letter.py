"""What could not be processed: whole messages, single documents, and what happened on the way."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Index, Integer, LargeBinary, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base


class DeadLetter(Base):
    """A message that could not be processed, or the one document of it that could not.

    Attributes:
        reason: class of the reason, see `shared.dead.Reason`.
        fingerprint: the same for letters that died alike.
        producer_id, seq: identity of the message; None where its headers did not say.
        position: place of the single document in its message; None for a whole message.
        documents: how many it carries, as far as is known.
        attempts: deliveries that came to nothing.
        payload: the body as the broker had it.
    """

    __tablename__ = "dead_letters"
    __table_args__ = (
        Index(
            "ix_dead_letters_message",
            "producer_id",
            "seq",
            text("coalesce(position, -1)"),
            unique=True,
        ),
        Index("ix_dead_letters_fingerprint", "fingerprint", text("id DESC")),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    reason: Mapped[str] = mapped_column(Text)
    error: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(Text)
    task: Mapped[str | None] = mapped_column(Text)
    producer_id: Mapped[UUID | None] = mapped_column(Uuid)
    seq: Mapped[int | None] = mapped_column(BigInteger)
    position: Mapped[int | None] = mapped_column(Integer)
    documents: Mapped[int] = mapped_column(Integer)
    attempts: Mapped[int] = mapped_column(Integer)
    first_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    last_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    headers: Mapped[dict[str, Any]] = mapped_column(JSONB)
    content_type: Mapped[str | None] = mapped_column(Text)
    content_encoding: Mapped[str | None] = mapped_column(Text)
    payload: Mapped[bytes] = mapped_column(LargeBinary)


class MessageFault(Base):
    """Something that went wrong with a message which then came back: a child that died of it.

    Attributes:
        task_id: the message's identity as text.
        kind: see `shared.dead.FaultKind`.
        position: the document that was being worked on, where documents are taken one at a time.
    """

    __tablename__ = "message_faults"
    __table_args__ = (Index("ix_message_faults_task_id", "task_id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    task_id: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    position: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
