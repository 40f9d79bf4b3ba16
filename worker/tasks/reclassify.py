"""Classify stored documents anew: failed ones, or those of an older model."""

from functools import partial
from typing import Any

import structlog
from celery import Task
from celery.exceptions import Reject

from shared.decide import Reclassify
from shared.messages import RECLASSIFY, Classified, Envelope, Unreadable, describe, read_items
from shared.store import documents as store
from shared.store.ledger import AlreadyAccounted
from worker.app import app, runtime
from worker.careful import record_raised
from worker.classify.halving import classify
from worker.patience import GiveBack

logger = structlog.get_logger(__name__)


@app.task(name=RECLASSIFY.task, bind=True, Request="worker.guard:SafeRequest")
def reclassify(task: Task[Any, None], *, items: Any) -> None:
    """Classify the documents of one message anew; return when that is committed.

    Raises:
        Reject: with requeue, if the message shall be delivered again; without, if it is a dead
            letter.
    """
    task_id = str(task.request.id)
    try:
        envelope = Envelope.read(task.request.headers)
        if envelope.documents:
            raise Unreadable("it counts as documents, which it only classifies anew")  # noqa: TRY301
        found = read_items(items)
        outcomes = runtime.patience(partial(_reclassify, envelope, found))
    except Unreadable as error:
        logger.error("message is dead", task_id=task_id, reason=str(error))
        raise Reject(str(error), requeue=False) from error
    except GiveBack as error:
        logger.warning("message given back", task_id=task_id, reason=str(error))
        raise Reject(str(error), requeue=True) from error
    except AlreadyAccounted:
        logger.info("documents were reclassified before", task_id=task_id)
        return
    except MemoryError:
        raise  # the guard returns the message
    except Exception as error:  # noqa: BLE001  # whatever it is, the letter says it
        logger.error("message is dead", task_id=task_id, reason=type(error).__name__)
        record_raised(runtime, task_id, error)
        raise Reject(type(error).__name__, requeue=False) from None
    logger.info(
        "documents reclassified", task_id=task_id, summary=describe(found), outcomes=outcomes
    )


def _reclassify(envelope: Envelope, items: list[Classified]) -> dict[str, int]:
    """Read, classify and write; return how many documents have each outcome."""
    # Of several of one id, the content that is stored now can be that of the last only.
    revisions = {each["id"]: each["content_revision"] for each in items}
    with runtime.database.transaction() as session:
        contents = store.contents(session, revisions)
    predictions = classify(runtime.model, list(contents.values()))
    operations = {
        key: Reclassify(revisions[key], prediction)
        for key, prediction in zip(contents, predictions, strict=True)
    }
    with runtime.database.transaction() as session:
        return store.reclassify(session, envelope, operations)
