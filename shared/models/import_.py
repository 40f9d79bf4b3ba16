"""Imports: bodies of any size, how far each has come, and the lines that were refused."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base


class Import(Base):
    """One import, however many uploads it takes.

    Attributes:
        caller: who sent it; "" while nobody has a name.
        key: the `Idempotency-Key`: the same one goes on with the same import.
        format: media type and options, `{"media_type": …}`: the same for all its uploads.
        status: see `shared.store.imports.Status`.
        error: why it stopped, for people.
        producer_id: of the latest upload, which alone may write here.
        position: bytes of the unpacked body up to the end of the last record whose documents the
            broker has, and all before.
        digest: blake2b of those bytes.
        accepted, rejected: records among those bytes.
        header: the first record of a CSV body.
        received: bytes of the latest upload's body as they came.
        length: how many of them there will be, if it said so.
        started_at: when the latest upload began.
        finished_at: when everything was processed, or when it was cancelled.
    """

    __tablename__ = "imports"
    __table_args__ = (
        UniqueConstraint("caller", "key"),
        Index("ix_imports_created_at", text("created_at DESC"), text("id DESC")),
        Index(
            "ix_imports_unfinished",
            "status",
            postgresql_where=text("status IN ('receiving', 'processing')"),
        ),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    caller: Mapped[str] = mapped_column(Text)
    key: Mapped[str] = mapped_column(Text)
    format: Mapped[dict[str, Any]] = mapped_column(JSONB)
    status: Mapped[str] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    producer_id: Mapped[UUID] = mapped_column(Uuid)
    position: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    accepted: Mapped[int] = mapped_column(BigInteger)
    rejected: Mapped[int] = mapped_column(BigInteger)
    header: Mapped[bytes | None] = mapped_column(LargeBinary)
    received: Mapped[int] = mapped_column(BigInteger)
    length: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class ImportProducer(Base):
    """A producer of an import: each upload numbers its messages on its own."""

    __tablename__ = "import_producers"

    import_id: Mapped[UUID] = mapped_column(
        Uuid, ForeignKey("imports.id", ondelete="CASCADE"), primary_key=True
    )
    producer_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)


class ImportReject(Base):
    """A record that became no document.

    Attributes:
        line: where it starts, counted from 1; of a JSON array the element.
        errors: `[{"pointer": …, "detail": …}, …]`.
        original: its bytes, the first 64 KiB.
        truncated: whether there were more.
    """

    __tablename__ = "import_rejects"

    import_id: Mapped[UUID] = mapped_column(
        Uuid, ForeignKey("imports.id", ondelete="CASCADE"), primary_key=True
    )
    line: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    errors: Mapped[list[Any]] = mapped_column(JSONB)
    original: Mapped[bytes] = mapped_column(LargeBinary)
    truncated: Mapped[bool] = mapped_column(Boolean)
