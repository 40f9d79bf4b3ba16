"""Purge what is too old to matter: tombstones, and faults of messages that never came back."""

from typing import Final

import structlog

from shared.messages import PURGE_TOMBSTONES
from shared.store import documents, message_faults
from worker.app import app, runtime

_BATCH: Final = 5_000

logger = structlog.get_logger(__name__)


@app.task(name=PURGE_TOMBSTONES.task)
def purge_tombstones() -> None:
    """Purge in batches, a transaction each, until none is left."""
    batch = _BATCH
    total = 0
    with runtime.database.transaction() as session:
        message_faults.purge(session, runtime.settings.tombstone_days)
    while batch == _BATCH:
        with runtime.database.transaction() as session:
            batch = documents.purge_tombstones(session, runtime.settings.tombstone_days, _BATCH)
        total += batch
    if total:
        logger.info("tombstones purged", documents=total)
