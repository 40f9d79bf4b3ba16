"""Fold old entries of the ledger, each second."""

from shared.messages import FOLD_LEDGER
from shared.store import ledger
from worker.app import app, runtime


@app.task(name=FOLD_LEDGER.task)
def fold_ledger() -> None:
    """Fold once; the next tick takes what is left."""
    with runtime.upkeep(), runtime.database.transaction() as session:
        ledger.fold(session)
