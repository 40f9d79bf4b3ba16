"""What limited keys have used, minute by minute."""

from uuid import UUID

from sqlalchemy import BigInteger, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base


class KeyUse(Base):
    """What one key has used in one minute, as API processes tell each other.

    The table is unlogged: after a crash of the database the minute begins anew.

    Attributes:
        minute: since the epoch.
        requests: that were admitted.
        bytes: of their bodies.
    """

    __tablename__ = "key_uses"
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)

    key_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    minute: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
