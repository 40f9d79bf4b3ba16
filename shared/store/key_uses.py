"""What limited keys have used, told between API processes."""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.models import KeyUse

Used = tuple[int, int]
"""Requests, and bytes of their bodies."""

_KEPT_MINUTES = 5


def exchange(session: Session, minute: int, more: Mapping[UUID, Used]) -> dict[UUID, Used]:
    """Add what keys have used in a minute; return what all processes have told of these keys."""
    session.execute(delete(KeyUse).where(KeyUse.minute < minute - _KEPT_MINUTES))
    rows = [
        {"key_id": key, "minute": minute, "requests": requests, "bytes": size}
        for key, (requests, size) in sorted(more.items())  # two processes wait, no deadlock
    ]
    added = insert(KeyUse)
    statement = added.on_conflict_do_update(
        index_elements=[KeyUse.key_id, KeyUse.minute],
        set_={
            "requests": KeyUse.requests + added.excluded.requests,
            "bytes": KeyUse.bytes + added.excluded.bytes,
        },
    ).returning(KeyUse.key_id, KeyUse.requests, KeyUse.bytes)
    return {row.key_id: (row.requests, row.bytes) for row in session.execute(statement, rows)}
