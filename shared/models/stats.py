"""What became of documents over time, counted."""

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Text
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base


class Stat(Base):
    """Documents of one category that met with one outcome in one minute, hour or day.

    Attributes:
        span: "minute", "hour" or "day"; each is complete by itself, as far back as it is kept.
        at: its start, UTC.
        category: the document's after the write; "" for all together, those without included.
        outcome: a column of the ledger, such as "stored".
        n: documents; of outcome "dead" fewer than none where more were replayed than died.
    """

    __tablename__ = "stats"

    span: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    category: Mapped[str] = mapped_column(Text, primary_key=True)
    outcome: Mapped[str] = mapped_column(Text, primary_key=True)
    n: Mapped[int] = mapped_column(BigInteger)
