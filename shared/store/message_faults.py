"""What went wrong with messages on their way, until they are accounted for."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from shared.dead import Fault, FaultKind


def of(session: Session, task_id: str) -> list[Fault]:
    """Return what was recorded of a message, the oldest first."""
    rows = session.execute(_OF, {"task_id": task_id})
    return [Fault(FaultKind(row.kind), row.position, row.error, row.at) for row in rows]


def add(session: Session, task_id: str, kind: FaultKind, error: str) -> None:
    """Record a fault; it takes the mark along, if there is one, as its position."""
    session.execute(_ADD, {"task_id": task_id, "kind": kind, "error": error})


def mark(session: Session, task_id: str, position: int) -> None:
    """Say which document of a message is worked on now: in place of the mark before."""
    session.execute(_MARK, {"task_id": task_id, "position": position})


def unmark(session: Session, task_id: str) -> None:
    """Say that no document is worked on."""
    session.execute(_UNMARK, {"task_id": task_id})


def forget(session: Session, task_id: str) -> None:
    """Forget all of a message that is accounted for."""
    session.execute(_FORGET, {"task_id": task_id})


def purge(session: Session, days: int) -> int:
    """Forget what is older than any message may be; return how much that was."""
    return len(session.execute(_PURGE, {"days": days}).all())


_OF: Final = text("""
    SELECT kind, position, error, at FROM message_faults WHERE task_id = :task_id ORDER BY id
""")

_ADD: Final = text("""
    WITH mark AS (
        DELETE FROM message_faults WHERE task_id = :task_id AND kind = 'working'
        RETURNING position)
    INSERT INTO message_faults (task_id, kind, position, error)
    SELECT :task_id, :kind, (SELECT max(position) FROM mark), :error
""")

_MARK: Final = text("""
    WITH mark AS (DELETE FROM message_faults WHERE task_id = :task_id AND kind = 'working')
    INSERT INTO message_faults (task_id, kind, position, error)
    VALUES (:task_id, 'working', :position, '')
""")

_UNMARK: Final = text("DELETE FROM message_faults WHERE task_id = :task_id AND kind = 'working'")

_FORGET: Final = text("DELETE FROM message_faults WHERE task_id = :task_id")

_PURGE: Final = text("""
    DELETE FROM message_faults WHERE at < now() - make_interval(days => :days + 1) RETURNING id
""")
