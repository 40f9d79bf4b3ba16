"""Index documents for the full-text search, each second, behind the ingestion."""

from time import monotonic
from typing import Final

from shared.messages import INDEX_DOCUMENTS
from shared.store import search
from worker.app import app, runtime

# Others of the worker's tasks wait as long, where it has one process.
_SLICE_SECONDS: Final = 0.5


@app.task(name=INDEX_DOCUMENTS.task)
def index_documents() -> None:
    """Index for half a second; while documents wait to be stored, no more than one batch."""
    end = monotonic() + _SLICE_SECONDS
    with runtime.upkeep():
        while _index_batch() and monotonic() < end:
            pass


def _index_batch() -> bool:
    """Index a batch, a transaction of its own; say whether another one may follow."""
    with runtime.database.transaction() as session:
        return search.index(session) > 0 and not search.under_pressure(session)
