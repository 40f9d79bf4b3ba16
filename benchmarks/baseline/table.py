"""The baseline's table: the columns that a document is listed by, with the indexes of Postroom."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, Index, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_NEWEST_FIRST = (text("created_at DESC"), text("id DESC"))


class Base(DeclarativeBase):
    """Root of the one table."""


class Document(Base):
    """One row a document."""

    __tablename__ = "documents"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    content: Mapped[str] = mapped_column(Text)
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB)
    source: Mapped[str | None] = mapped_column(Text)
    external_id: Mapped[str | None] = mapped_column(Text)
    category: Mapped[str] = mapped_column(Text)
    confidence: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )

    __table_args__ = (
        Index("ix_newest", *_NEWEST_FIRST),
        Index("ix_category", "category", *_NEWEST_FIRST),
        Index("ix_source", "source", *_NEWEST_FIRST, postgresql_where=text("source IS NOT NULL")),
        Index(
            "ix_external_id",
            "external_id",
            *_NEWEST_FIRST,
            postgresql_where=text("external_id IS NOT NULL"),
        ),
    )
