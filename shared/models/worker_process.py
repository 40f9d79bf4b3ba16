"""Workers, as they say of themselves."""

from datetime import datetime

from sqlalchemy import DateTime, Integer, Text, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base


class WorkerProcess(Base):
    """One worker; it goes when the worker ends in order, or was not heard of for a day.

    Attributes:
        hostname: as Flower shows it.
        children: processes that classify and store.
        queues: that it consumes.
        release, model_version: of Postroom, and of the classifier that it has loaded.
        seen_at: when it last said that it is there.
    """

    __tablename__ = "workers"

    hostname: Mapped[str] = mapped_column(Text, primary_key=True)
    children: Mapped[int] = mapped_column(Integer)
    queues: Mapped[list[str]] = mapped_column(ARRAY(Text))
    release: Mapped[str] = mapped_column(Text)
    model_version: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    seen_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
