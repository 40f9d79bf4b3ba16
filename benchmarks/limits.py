"""What each stage allows when nothing else is done: the limits that the pipe is measured against.

Each is measured by as many processes at once as the pipe has, on the same cores and servers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from statistics import mean
from typing import Final
from uuid import uuid4

import orjson
from kombu.serialization import loads
from uuid_utils.compat import uuid7

from api.schemas.document import DocumentIn
from api.settings import MAX_BODY_BYTES
from api.validation import validated
from shared.account import Account
from shared.db import Database
from shared.decide import UNSET, Prediction, Put
from shared.messages import Document, Envelope, read_documents
from shared.queue import celery_app
from shared.store import documents as store
from shared.store.documents import Write
from worker.classify.artefact import DEFAULT, read
from worker.classify.halving import classify

MESSAGE: Final = 100
"""Documents of a message."""

_SECONDS: Final = 2.0
_READY_SECONDS: Final = 60.0
"""If one of them fails, the others must not wait for ever."""


@dataclass(frozen=True)
class Stage:
    """Documents a second, and milliseconds of processor time per document."""

    rate: float
    cpu_ms: float


def predict(contents: Sequence[str], processes: int) -> Stage:
    """Return what so many processes classify, in messages."""
    return _together(_predict, processes, list(contents))


def store_new(contents: Sequence[str], processes: int, database_url: str) -> Stage:
    """Return what so many processes write of new documents, a transaction a message."""
    return _together(_store, processes, list(contents), database_url)


def decode(contents: Sequence[str], processes: int) -> Stage:
    """Return what so many processes read from messages' bytes."""
    return _together(_decode, processes, list(contents))


def parse(contents: Sequence[str], batch: int) -> Stage:
    """Return what one process parses and validates, in batches."""
    return _together(_parse, 1, list(contents), batch)


def _together(work: Callable[..., Iterator[int]], processes: int, *args: object) -> Stage:
    """Return what each process does in a second, summed, while all of them do it."""
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context, _meet, (context.Barrier(processes),)) as pool:
        working = [pool.submit(_alone, work, args) for _ in range(processes)]
        stages = [each.result() for each in working]
    return Stage(sum(each.rate for each in stages), mean(each.cpu_ms for each in stages))


_all_ready: Barrier
"""Of each of these processes."""


def _meet(barrier: Barrier) -> None:
    global _all_ready  # noqa: PLW0603  # a barrier can be inherited only, not sent
    _all_ready = barrier


def _alone(work: Callable[..., Iterator[int]], args: tuple[object, ...]) -> Stage:
    steps = work(*args)
    next(steps)  # once, before time counts
    _all_ready.wait(_READY_SECONDS)
    done, begin, cpu = 0, time.perf_counter(), time.process_time()
    while (seconds := time.perf_counter() - begin) < _SECONDS:
        done += next(steps)
    return Stage(done / seconds, 1000 * (time.process_time() - cpu) / done)


def _messages(contents: Sequence[str]) -> Iterator[list[str]]:
    """Yield messages without end, of all texts, as the pipe gets them."""
    texts = cycle(contents)
    while True:
        yield list(islice(texts, MESSAGE))


def _predict(contents: Sequence[str]) -> Iterator[int]:
    model = read(DEFAULT)
    for texts in _messages(contents):
        model.classify(texts)
        yield len(texts)


def _decode(contents: Sequence[str]) -> Iterator[int]:
    celery_app("memory://")  # registers how messages are written and read
    bodies = [
        orjson.dumps([[], {"documents": _documents(texts)}, {}])
        for texts in islice(_messages(contents), len(contents) // MESSAGE)
    ]
    for body in cycle(bodies):
        _, arguments, _ = loads(body, "application/json", "utf-8", force=True)
        yield len(read_documents(arguments["documents"]))


def _store(contents: Sequence[str], database_url: str) -> Iterator[int]:
    database = Database(
        database_url.replace("postgresql:", "postgresql+psycopg2:"),
        pool_size=1,
        statement_seconds=60,
        application="limit",
        pre_ping=False,
    )
    account = Account(uuid4())
    predictions = dict(zip(contents, classify(read(DEFAULT), contents), strict=True))
    for texts in _messages(contents):
        documents = _documents(texts)
        envelope: Envelope = account.number(len(documents))
        writes = [_write(each, predictions[each["content"]]) for each in documents]
        with database.transaction() as session:
            store.write(session, envelope, writes, ())
        yield len(documents)


def _parse(contents: Sequence[str], batch: int) -> Iterator[int]:
    texts = cycle(contents)
    bodies = [orjson.dumps([{"content": each} for each in islice(texts, batch)]) for _ in range(4)]
    for body in cycle(bodies):
        documents = [validated(each, MAX_BODY_BYTES) for each in orjson.loads(body)]
        assert all(isinstance(each, DocumentIn) for each in documents)
        yield len(documents)


def _documents(texts: Sequence[str]) -> list[Document]:
    now = datetime.now(UTC).isoformat()
    return [
        {"id": str(uuid7()), "stamp": time.time_ns() // 1000, "accepted_at": now, "content": each}
        for each in texts
    ]


def _write(document: Document, prediction: Prediction) -> Write:
    content = document["content"]
    digest = store.hash_content(content)
    put = Put(document["stamp"], digest, {}, None, None, UNSET, prediction)
    return Write(document["id"], put, content, document["accepted_at"])
