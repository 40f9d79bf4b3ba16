"""A document: its text, what its sender and the classifier say of it, and the stamps of both."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    DateTime,
    Double,
    Index,
    LargeBinary,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base

_LIVE = "content IS NOT NULL"
_LABELLED = f"{_LIVE} AND label IS NOT NULL"
_CLASSIFIED = f"{_LIVE} AND model_version IS NOT NULL"
_WITH_METADATA = f"{_LIVE} AND metadata <> '{{}}'::jsonb"
_SCORED = f"{_LIVE} AND label IS NULL AND confidence IS NOT NULL"


def _listed(name: str, *columns: str, where: str) -> Index:
    """Return an index for keyset pages, newest first, of the rows that `where` says."""
    newest_first = (text("created_at DESC"), text("id DESC"))
    return Index(name, *columns, *newest_first, postgresql_where=text(where))


class Document(Base):
    """One row a document. A row without content is a tombstone: the document was deleted.

    There are two registers, each last-write-wins by a stamp of its own in microseconds since the
    epoch: the content with its metadata (`content_revision`) and the human label
    (`label_revision`). `revision` grows with every change and is the ETag.
    """

    __tablename__ = "documents"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    content_revision: Mapped[int] = mapped_column(BigInteger)
    label_revision: Mapped[int] = mapped_column(BigInteger)

    content: Mapped[str | None] = mapped_column(Text)
    content_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB)
    metadata_patches: Mapped[list[Any] | None] = mapped_column(JSONB)
    source: Mapped[str | None] = mapped_column(Text)
    external_id: Mapped[str | None] = mapped_column(Text)

    predicted_category: Mapped[str | None] = mapped_column(Text)
    confidence: Mapped[float | None] = mapped_column(Double)
    model_version: Mapped[str | None] = mapped_column(Text)
    label: Mapped[str | None] = mapped_column(Text)
    category: Mapped[str | None] = mapped_column(
        Text, Computed("coalesce(label, predicted_category)", persisted=True)
    )

    status: Mapped[str] = mapped_column(Text)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    task_id: Mapped[str | None] = mapped_column(Text)
    accepted_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    classified_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    # `updated_at` and `revision` stay without an index: one would make every update move the row.
    __table_args__ = (
        CheckConstraint("status IN ('stored', 'failed')", name="status"),
        _listed("ix_documents_newest", where=_LIVE),
        _listed("ix_documents_category", "category", where=_LIVE),
        _listed("ix_documents_source", "source", where=f"{_LIVE} AND source IS NOT NULL"),
        _listed(
            "ix_documents_external_id", "external_id", where=f"{_LIVE} AND external_id IS NOT NULL"
        ),
        _listed("ix_documents_failed", where=f"{_LIVE} AND status = 'failed'"),
        _listed("ix_documents_model_version", "model_version", where=_CLASSIFIED),
        _listed("ix_documents_label", "label", where=_LABELLED),
        _listed("ix_documents_labelled", where=_LABELLED),
        Index("ix_documents_confidence", "confidence", "id", postgresql_where=text(_SCORED)),
        Index(
            "ix_documents_metadata",
            "metadata",
            postgresql_using="gin",
            postgresql_ops={"metadata": "jsonb_path_ops"},
            postgresql_where=text(_WITH_METADATA),
        ),
        Index("ix_documents_tombstones", "id", postgresql_where=text("content IS NULL")),
    )
