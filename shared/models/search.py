"""Full-text search: what is indexed of each document, and which documents wait for it."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Identity, Index, Uuid, func, text
from sqlalchemy.dialects.postgresql import ARRAY, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base


class IndexedText(Base):
    """The words of one document's text, as of `content_revision`; written behind the ingestion."""

    __tablename__ = "document_search"
    __table_args__ = (
        Index(
            "ix_document_search_tsv",
            "tsv",
            postgresql_using="gin",
            postgresql_with={"fastupdate": "on"},
        ),
        Index("ix_document_search_newest", text("created_at DESC"), text("id DESC")),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    content_revision: Mapped[int] = mapped_column(BigInteger)
    tsv: Mapped[str] = mapped_column(TSVECTOR)


class IndexRequest(Base):
    """Documents whose text one transaction has changed or removed."""

    __tablename__ = "index_queue"

    n: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
