"""Take one message of documents: classify them all at once, store them, account for them."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from time import perf_counter
from typing import Any

import structlog
from celery import Task

from shared.decide import UNSET, NeedsClassification, Prediction, Put
from shared.messages import (
    INGEST,
    Document,
    Envelope,
    check_documents,
    describe,
    origin,
    read_documents,
)
from shared.store import dead_letters, ledger
from shared.store import documents as store
from shared.store.documents import Vanished, Write
from worker.app import app, runtime
from worker.careful import Past
from worker.classify.halving import classify
from worker.verdicts import verdict

Hashes = Mapping[str, bytes | None]

logger = structlog.get_logger(__name__)


@app.task(name=INGEST.task, bind=True, Request="worker.guard:SafeRequest")
def ingest(task: Task[Any, None], *, documents: Any) -> None:
    """Ingest the documents of one message; return when they are committed.

    Raises:
        Reject: with requeue, if the message shall be delivered again; without, if it is a dead
            letter.
    """
    start = perf_counter()
    request = task.request
    with verdict(runtime, str(request.id)):
        envelope = Envelope.read(request.headers)
        message = _Message(envelope, read_documents(documents))
        delivery = request.delivery_info or {}
        if delivery.get("redelivered"):
            message.look_back(request.headers)
        with runtime.metrics.stage("message"):
            outcomes = message.ingest()
        runtime.metrics.ingested(outcomes)
        if not envelope.replays:  # it was accepted long ago
            runtime.metrics.stored(message.documents, str(delivery.get("routing_key")))
        logger.info(
            "message ingested",
            producer_id=str(envelope.producer_id),
            seq=envelope.seq,
            summary=describe(message.documents),
            **origin(message.documents),
            outcomes=Counter(outcomes),
            milliseconds=round((perf_counter() - start) * 1000, 1),
        )


class _Message:
    """The documents of one message, and the steps that they go through.

    A step that is done again, because the database was away or a hint was wrong, classifies
    nothing twice.
    """

    def __init__(self, envelope: Envelope, documents: list[Document]) -> None:
        """Take the documents.

        Raises:
            Unreadable: the message says another number of documents than it has, or one of them
                is so old that its tombstone may have been purged.
        """
        check_documents(envelope, documents, runtime.oldest)
        self.documents = documents
        self._envelope = envelope
        self._hashes = [store.hash_content(each["content"]) for each in documents]
        self._predictions: dict[bytes, Prediction] = {}
        self._past: Past | None = None
        # An id that was made here has no row yet, unless the message or its documents came before.
        self._hint = envelope.replays is not None or any(
            each.get("may_exist") for each in documents
        )

    def look_back(self, headers: Mapping[str, Any] | None) -> None:
        """See what became of a message that came before.

        Raises:
            GiveBack: the database stayed away too long, or the worker stops.
        """
        self._hint = True
        self._past = Past(runtime, self._envelope, headers)

    def ingest(self) -> str:
        """Classify and store; return a letter a document.

        Raises:
            AlreadyAccounted: the message was ingested before.
            Dead: each of its documents kills the child that works on it.
            GiveBack: the database stayed away too long, or the worker stops.
        """
        if self._past and self._past.careful:
            for each in self._past.one_at_a_time(self.documents):
                self._classify_one(each)
        while True:
            try:
                return runtime.patience(self._ingest_once)
            except (NeedsClassification, Vanished):
                # Without the hint all is classified, and only a tombstone that is purged between
                # two of our statements can vanish once more.
                self._hint = False
            except dead_letters.Gone:
                return runtime.patience(self._close)  # replayed before, or deleted

    def _ingest_once(self) -> str:
        known = self._look_up() if self._hint else {}
        with runtime.step("classify"):
            self._classify(known)
        with runtime.step("store"):
            return self._store(known)

    def _look_up(self) -> Hashes:
        with runtime.database.transaction() as session:
            return store.known(session, {each["id"] for each in self.documents})

    def _classify(self, known: Hashes) -> None:
        """Classify every content that is new to us, each once."""
        wanted = {
            digest: each["content"]
            for each, digest in self._living()
            if digest not in self._predictions and known.get(each["id"]) != digest
        }
        predictions = classify(runtime.model, list(wanted.values()))
        runtime.metrics.classified(predictions)
        self._predictions.update(zip(wanted, predictions, strict=True))

    def _classify_one(self, document: Document) -> None:
        digest = store.hash_content(document["content"])
        if digest not in self._predictions:
            (prediction,) = classify(runtime.model, [document["content"]])
            runtime.metrics.classified([prediction])
            self._predictions[digest] = prediction

    def _store(self, known: Hashes) -> str:
        writes = [
            _write(each, digest, self._predictions.get(digest)) for each, digest in self._living()
        ]
        with runtime.database.transaction() as session:
            revived = dead_letters.take(session, self._envelope) if self._envelope.replays else 0
            if self._past:
                self._past.settle(session, self.documents)
            return store.write(
                session,
                self._envelope,
                writes,
                known.keys(),
                dead=self._culprits,
                revived=revived,
            )

    def _close(self) -> str:
        with runtime.database.transaction() as session:
            ledger.record(session, self._envelope, "", {})
        return ""

    @property
    def _culprits(self) -> Collection[int]:
        return self._past.culprits if self._past else ()

    def _living(self) -> Iterable[tuple[Document, bytes]]:
        """Yield the documents that are to be stored, each with its digest."""
        pairs = zip(self.documents, self._hashes, strict=True)
        if not self._culprits:
            return pairs
        return (pair for at, pair in enumerate(pairs) if at not in self._culprits)


def _write(document: Document, digest: bytes, prediction: Prediction | None) -> Write:
    put = Put(
        stamp=document["stamp"],
        content_hash=digest,
        metadata=document.get("metadata") or {},
        source=document.get("source"),
        external_id=document.get("external_id"),
        label=document.get("label", UNSET),
        prediction=prediction,
        if_match=document.get("if_match"),
        if_none_match=document.get("if_none_match", False),
        create_only=document.get("create_only", False),
    )
    return Write(
        document["id"],
        put,
        document["content"],
        document["accepted_at"],
        document.get("request_id"),
    )
