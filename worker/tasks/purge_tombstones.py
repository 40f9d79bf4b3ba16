"""Purge what is too old to matter: tombstones, faults of messages, and fine statistics."""

from collections.abc import Iterator
from typing import Final

import structlog

from shared.messages import PURGE_TOMBSTONES
from shared.store import documents, message_faults, stats
from worker.app import app, runtime

_BATCH: Final = 5_000

logger = structlog.get_logger(__name__)


@app.task(name=PURGE_TOMBSTONES.task)
def purge_tombstones() -> None:
    """Purge in batches, a transaction each, until none is left."""
    total = 0
    with runtime.upkeep():
        with runtime.database.transaction() as session:
            message_faults.purge(session, runtime.settings.tombstone_days)
            stats.purge(session)
        for purged in _batches():
            total += purged
    if total:
        logger.info("tombstones purged", documents=total)


def _batches() -> Iterator[int]:
    """Purge batch after batch, and yield how many documents each had."""
    batch = _BATCH
    while batch == _BATCH:
        with runtime.database.transaction() as session:
            batch = documents.purge_tombstones(session, runtime.settings.tombstone_days, _BATCH)
        yield batch
