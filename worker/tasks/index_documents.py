"""Index documents for the full-text search, each second, behind the ingestion."""

from time import monotonic
from typing import Final

from shared.messages import INDEX_DOCUMENTS
from shared.store import search
from worker.app import app, runtime

# Where a worker has one process, its other tasks wait as long.
_SLICE_SECONDS: Final = 0.5

# What ingestion loses while it is busy: a tenth of one process's time.
_BUSY_SECONDS: Final = 0.1


@app.task(name=INDEX_DOCUMENTS.task)
def index_documents() -> None:
    """Index batches for a while, a shorter one while documents wait to be stored."""
    start = monotonic()
    with runtime.upkeep():
        while monotonic() < start + _index_batch():
            pass


def _index_batch() -> float:
    """Index a batch, a transaction of its own; return how many seconds the tick may last."""
    with runtime.database.transaction() as session:
        if not search.index(session):
            return 0
        return _BUSY_SECONDS if search.under_pressure(session) else _SLICE_SECONDS
