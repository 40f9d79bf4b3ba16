"""API keys: who may call, and what for."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Index, LargeBinary, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base


class ApiKey(Base):
    """One key; the key itself is nowhere.

    Attributes:
        name: of the caller; keys of one name are of one caller.
        prefix: the key's beginning, by which people know it.
        digest: SHA-256 of the key: it has 256 bits of chance, so that nobody finds it by trying.
        expires_at: when it ceases to be valid; never, if that is null.
        revoked_at: when somebody made it invalid.
        last_used_at: to some seconds.
        requests_per_minute: how many it may send; no limit, if that is null.
        bytes_per_minute: of their bodies.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        Index("uq_api_keys_digest", "digest", unique=True),
        Index("ix_api_keys_created_at", text("created_at DESC"), text("id DESC")),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    prefix: Mapped[str] = mapped_column(Text)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    requests_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    bytes_per_minute: Mapped[int | None] = mapped_column(BigInteger)
