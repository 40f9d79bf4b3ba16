"""Classify stored documents anew: failed ones, or those of an older model."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from celery import Task

from shared.decide import Prediction, Reclassify
from shared.messages import (
    RECLASSIFY,
    Classified,
    Envelope,
    Unreadable,
    describe,
    origin,
    read_items,
)
from shared.store import documents as store
from worker.app import app, runtime
from worker.careful import Past
from worker.classify.halving import classify
from worker.verdicts import verdict

logger = structlog.get_logger(__name__)


@app.task(name=RECLASSIFY.task, bind=True, Request="worker.guard:SafeRequest")
def reclassify(task: Task[Any, None], *, items: Any) -> None:
    """Classify the documents of one message anew; return when that is committed.

    Raises:
        Reject: with requeue, if the message shall be delivered again; without, if it is a dead
            letter.
    """
    request = task.request
    with verdict(runtime, str(request.id)):
        envelope = Envelope.read(request.headers)
        if envelope.documents:
            raise Unreadable("it counts as documents, which it only classifies anew")
        found = read_items(items)
        redelivered = (request.delivery_info or {}).get("redelivered")
        past = Past(runtime, envelope, request.headers, RECLASSIFY) if redelivered else None
        outcomes = runtime.patience(partial(_reclassify, envelope, found, past))
        logger.info(
            "documents reclassified",
            producer_id=str(envelope.producer_id),
            seq=envelope.seq,
            summary=describe(found),
            **origin(found),
            outcomes=outcomes,
        )


def _reclassify(
    envelope: Envelope, items: Sequence[Classified], past: Past | None
) -> Mapping[str, int]:
    """Read, classify and write; return how many documents have each outcome."""
    # Of several of one id, the content that is stored now can be that of the last only.
    revisions = {each["id"]: each["content_revision"] for each in items}
    with runtime.database.transaction() as session:
        contents = store.contents(session, revisions)
    with runtime.step("classify"):
        if past and past.careful:
            predictions = _carefully(contents, items, past)
        else:
            predictions = _classify(contents)
    operations = {
        key: Reclassify(revisions[key], prediction) for key, prediction in predictions.items()
    }
    with runtime.step("store"), runtime.database.transaction() as session:
        if past:
            past.settle(session, items)
        return store.reclassify(session, envelope, operations)


def _classify(contents: Mapping[str, str]) -> dict[str, Prediction]:
    with runtime.metrics.stage("classify"):
        predictions = classify(runtime.model, list(contents.values()))
    runtime.metrics.classified(predictions)
    return dict(zip(contents, predictions, strict=True))


def _carefully(
    contents: Mapping[str, str], items: Sequence[Classified], past: Past
) -> dict[str, Prediction]:
    """Classify one at a time; leave out who has killed a child, and what is gone meanwhile."""
    predictions: dict[str, Prediction] = {}
    for each in past.one_at_a_time(items):
        if each["id"] in contents:
            predictions |= _classify({each["id"]: contents[each["id"]]})
    return predictions
