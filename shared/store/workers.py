"""Which workers there are: each says every few seconds that it is there."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.models import WorkerProcess

SAY_SECONDS: Final = 5.0
SILENT_SECONDS: Final = 3 * SAY_SECONDS
"""Time after which one that has said nothing is taken for dead."""


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker says of itself; see `WorkerProcess`."""

    hostname: str
    children: int
    queues: Sequence[str]
    release: str
    model_version: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Known:
    """A worker as it is known, and the seconds since it was seen."""

    row: WorkerProcess
    silent_seconds: float

    @property
    def alive(self) -> bool:
        """Whether it was seen of late."""
        return self.silent_seconds <= SILENT_SECONDS


def say(session: Session, worker: Worker) -> None:
    """Write down that a worker is there."""
    statement = insert(WorkerProcess).values(asdict(worker))
    told = {name: statement.excluded[name] for name in asdict(worker)}
    seen = told | {"seen_at": func.clock_timestamp()}
    session.execute(statement.on_conflict_do_update(index_elements=["hostname"], set_=seen))


def leave(session: Session, worker: Worker) -> None:
    """Forget a worker that ends, unless another one has taken its name."""
    session.execute(
        delete(WorkerProcess).where(
            WorkerProcess.hostname == worker.hostname,
            WorkerProcess.started_at == worker.started_at,
        )
    )


def known(session: Session) -> list[Known]:
    """Return all workers, by name."""
    silent = func.extract("epoch", func.clock_timestamp() - WorkerProcess.seen_at)
    rows = session.execute(select(WorkerProcess, silent).order_by(WorkerProcess.hostname))
    return [Known(row, max(float(seconds), 0.0)) for row, seconds in rows]


def purge(session: Session) -> None:
    """Forget those that nobody has heard of for a day: containers are named anew at each start."""
    session.execute(text("DELETE FROM workers WHERE seen_at < clock_timestamp() - interval '1 d'"))
