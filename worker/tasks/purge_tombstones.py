"""Purge what is too old to matter: tombstones, faults of messages, statistics, audit, imports."""

from collections.abc import Callable, Iterator
from typing import Final

import structlog

from shared.db import Session
from shared.messages import PURGE_TOMBSTONES
from shared.store import audit, documents, imports, message_faults, stats, workers
from worker.app import app, runtime

_BATCH: Final = 5_000

logger = structlog.get_logger(__name__)


@app.task(name=PURGE_TOMBSTONES.task)
def purge_tombstones() -> None:
    """Purge in batches, a transaction each, until none is left."""
    settings = runtime.settings
    with runtime.upkeep():
        with runtime.database.transaction() as session:
            message_faults.purge(session, settings.tombstone_days)
            stats.purge(session)
            workers.purge(session)
        _all("tombstones purged", documents.purge_tombstones, settings.tombstone_days)
        _all("audit entries purged", audit.purge, settings.audit_days)
        _all("imports purged", imports.purge, settings.import_days)


def _all(event: str, purge: Callable[[Session, int, int], int], days: int) -> None:
    """Purge batch after batch; say how much it was, unless it was nothing."""
    total = sum(_batches(purge, days))
    if total:
        logger.info(event, rows=total)


def _batches(purge: Callable[[Session, int, int], int], days: int) -> Iterator[int]:
    """Purge batch after batch, and yield how many rows each had."""
    batch = _BATCH
    while batch == _BATCH:
        with runtime.database.transaction() as session:
            batch = purge(session, days, _BATCH)
        yield batch
