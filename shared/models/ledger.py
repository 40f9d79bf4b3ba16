"""The account: what every producer promised, and what became of it."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, DateTime, Integer, Text, Uuid, func
from sqlalchemy.dialects.postgresql import INT8MULTIRANGE, JSONB, Range
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base


class LedgerEntry(Base):
    """One processed message, written last in the transaction that stored its documents.

    `outcomes` has a letter a document, see `shared.decide.Outcome`; the counts say the same.
    `deltas` is `{kind: {key: n}}`, what the message changed in the counts of live documents.
    `categories` is `{category: {column: n}}`: the counts again, of documents with a category.
    """

    __tablename__ = "ledger"

    producer_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    documents: Mapped[int] = mapped_column(Integer)
    through: Mapped[int] = mapped_column(BigInteger)
    stored: Mapped[int] = mapped_column(Integer)
    unchanged: Mapped[int] = mapped_column(Integer)
    superseded: Mapped[int] = mapped_column(Integer)
    refused: Mapped[int] = mapped_column(Integer)
    failed: Mapped[int] = mapped_column(Integer)
    dead: Mapped[int] = mapped_column(Integer)
    outcomes: Mapped[str] = mapped_column(Text)
    deltas: Mapped[dict[str, Any]] = mapped_column(JSONB)
    categories: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    committed_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )


class LedgerProducer(Base):
    """The ledger's older entries of one producer, folded: which numbers are done, and the sums."""

    __tablename__ = "ledger_producers"

    producer_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    done: Mapped[list[Range[int]]] = mapped_column(INT8MULTIRANGE)
    documents: Mapped[int] = mapped_column(BigInteger)
    through: Mapped[int] = mapped_column(BigInteger)
    stored: Mapped[int] = mapped_column(BigInteger)
    unchanged: Mapped[int] = mapped_column(BigInteger)
    superseded: Mapped[int] = mapped_column(BigInteger)
    refused: Mapped[int] = mapped_column(BigInteger)
    failed: Mapped[int] = mapped_column(BigInteger)
    dead: Mapped[int] = mapped_column(BigInteger)


class Producer(Base):
    """The last mark of a producer: its last number, and the documents given up to it.

    `pending` is `[[number, documents], …]`: what was being published when it was made.
    """

    __tablename__ = "producers"

    producer_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    through: Mapped[int] = mapped_column(BigInteger)
    closed: Mapped[bool] = mapped_column(Boolean)
    pending: Mapped[list[Any]] = mapped_column(JSONB, server_default="[]")
    marked_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class VoidMessage(Base):
    """A message whose publish was refused or never confirmed: its client was told so."""

    __tablename__ = "void_messages"

    producer_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    documents: Mapped[int] = mapped_column(BigInteger)


class Count(Base):
    """Live documents of one kind and key, such as ("category", "sci.space"), as last folded."""

    __tablename__ = "counts"

    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    n: Mapped[int] = mapped_column(BigInteger)


class CountDelta(Base):
    """A change of the counts that came by no message, such as a delete; folded like the ledger."""

    __tablename__ = "count_deltas"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    deltas: Mapped[dict[str, Any]] = mapped_column(JSONB)
