"""The hot path: stamps documents, collects the waiting ones into messages, publishes them.

A document that comes while nothing is being published leaves at once. What comes meanwhile is
collected until the broker has confirmed that, or until it makes a full message. And when documents
come faster than messages should, so that one took several, the next one leaves a little later than
it could. So messages are small when it is quiet and large when it is not.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID, uuid5

import orjson
from uuid_utils.compat import uuid7

from api import meters
from api.backlog import Backlog
from api.schemas.document import DocumentIn
from shared.account import Account
from shared.errors import BrokerUnavailable
from shared.messages import (
    IMPORT,
    INGEST,
    RECLASSIFY,
    REPLAY,
    Classified,
    Document,
    Envelope,
    Message,
    describe,
)
from shared.queue import PUBLISHER_THREADS, Publisher
from shared.revision import Clock

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from shared.tracing import Tracing

NAMESPACE: Final = UUID("7d0c4f0e-5b0a-5f52-9d0b-0f7a3c1e6a11")
"""Namespace of the ids made from `external_id`. Never to change: the same key, the same id."""

KEY_NAMESPACE: Final = UUID("7d0c4f0e-5b0a-5f52-9d0b-0f7a3c1e6a12")
"""Namespace of the ids made from an `Idempotency-Key`. Never to change, either."""

MESSAGE_DOCUMENTS: Final = 100
MESSAGE_BYTES: Final = 200_000
"""What a message has at most, or one document."""

_IMPORT_THREADS: Final = 2
"""Messages of imports under way at once: the other threads are for those who wait."""

_WAITING_BYTES: Final = 64 << 20
_CONFIRM_SECONDS: Final = 1.8

_GAP_SECONDS: Final = 0.01
"""From a message of several documents until the next one.

A message costs broker, worker and database as much as a dozen documents, and a worker that is
behind has nothing that would make them larger: decision 8.
"""


def keyed_id(caller: str, key: str, index: int) -> UUID:
    """Return the id of a document that has none but came with an `Idempotency-Key`.

    Args:
        caller: whose key it is, "" while nobody is authenticated.
        key: the key.
        index: the document's place in the request.
    """
    return uuid5(KEY_NAMESPACE, orjson.dumps([caller, key, index]).decode())


def stamped(
    document: DocumentIn, clock: Clock, request_id: str, keyed: UUID | None = None
) -> Document:
    """Return an accepted document as it travels: with its id and its stamp.

    Args:
        document: as it was sent.
        clock: stamps it.
        request_id: of the request that brought it.
        keyed: its id if it has none of its own; it is then written only where there is no row.
    """
    own = document.id is not None or document.external_id is not None
    message: Document = {
        "id": str(document.id or (keyed if keyed and not own else _made_id(document))),
        "stamp": clock.stamp(),
        "accepted_at": datetime.now(UTC).isoformat(),
        "content": document.content,
        "request_id": request_id,
    }
    if own:
        message["may_exist"] = True
    elif keyed:
        message["create_only"] = True
    if document.metadata:
        message["metadata"] = document.metadata
    if document.source is not None:
        message["source"] = document.source
    if document.external_id is not None:
        message["external_id"] = document.external_id
    if "label" in document.model_fields_set:
        message["label"] = document.label
    return message


def _made_id(document: DocumentIn) -> UUID:
    if document.external_id is None:
        return uuid7()
    return uuid5(NAMESPACE, orjson.dumps([document.source, document.external_id]).decode())


class Receipt(NamedTuple):
    """What was confirmed: the message, and the place in it of the first of one's documents."""

    envelope: Envelope
    place: int


def _give_up(confirmed: asyncio.Future[Receipt]) -> None:
    if not confirmed.done():
        confirmed.set_exception(BrokerUnavailable("no confirm in time"))


@dataclass(slots=True)
class _Waiting:
    """Documents that one caller waits for. A batch is a message of its own.

    `origin` is where the caller's trace was, if there are traces.
    """

    documents: Sequence[Document]
    size: int
    batch: bool
    confirmed: asyncio.Future[Receipt]
    origin: "SpanContext | None"


class Intake:
    """Publishes what is handed to it; for use on one event loop."""

    def __init__(
        self,
        publisher: Publisher,
        backlog: Backlog,
        gap_seconds: float = _GAP_SECONDS,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._publisher = publisher
        self._backlog = backlog
        self._tracing = tracing
        self._imports = asyncio.Semaphore(_IMPORT_THREADS)
        self._threads = ThreadPoolExecutor(PUBLISHER_THREADS, "publisher")
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._busy = 0
        self._gap_seconds = gap_seconds
        self._next_at = 0.0  # of the event loop's clock; until then only full messages leave
        self._timer: asyncio.TimerHandle | None = None

    async def accept(self, document: Document, size: int) -> Receipt:
        """Publish one document, together with others that wait; return once it is confirmed.

        Args:
            document: stamped.
            size: its size in bytes, roughly.

        Raises:
            BrokerUnavailable: the broker did not confirm in time. Nothing was promised.
            BacklogFull: too much waits to be processed. Nothing was promised.
        """
        return await self._confirmed([document], size, batch=False)

    async def accept_batch(self, documents: Sequence[Document], size: int) -> Receipt:
        """Publish documents as one message of their own; see `accept`."""
        return await self._confirmed(documents, size, batch=True)

    async def replay(
        self, letter_id: UUID, documents: Sequence[Document], *, counted: bool
    ) -> Envelope:
        """Publish the documents of a dead letter once more; return once that is confirmed.

        Args:
            letter_id: the letter, which goes when they are stored.
            documents: as they were accepted.
            counted: whether the account has them already, as dead.

        Raises:
            BrokerUnavailable: the broker did not confirm in time. Nothing has changed.
        """
        publish = partial(
            self._publisher.publish,
            REPLAY,
            {"documents": documents},
            documents=0 if counted else len(documents),
            summary=describe(documents),
            replays=letter_id,
        )
        return await self._in_thread(REPLAY, publish, "replay", len(documents))

    async def accept_import(self, documents: Sequence[Document], account: Account) -> Envelope:
        """Publish documents of an import as one message; return once that is confirmed.

        Args:
            documents: stamped.
            account: of the upload, which numbers its messages.

        Raises:
            BrokerUnavailable: the broker did not confirm in time.
        """
        publish = partial(
            self._publisher.publish,
            IMPORT,
            {"documents": documents},
            documents=len(documents),
            summary=describe(documents),
            account=account,
        )
        async with self._imports:
            return await self._in_thread(IMPORT, publish, "import", len(documents))

    async def reclassify(self, items: Sequence[Classified]) -> Envelope:
        """Publish documents to classify anew; return once that is confirmed.

        Raises:
            BrokerUnavailable: the broker did not confirm in time.
            BacklogFull: too much waits to be processed.
        """
        self._backlog.check()
        publish = partial(
            self._publisher.publish,
            RECLASSIFY,
            {"items": items},
            documents=0,
            summary=describe(items),
        )
        return await self._in_thread(RECLASSIFY, publish, "reclassify", len(items))

    async def _in_thread(
        self, message: Message, publish: Callable[..., Envelope], way: meters.Way, documents: int
    ) -> Envelope:
        loop = asyncio.get_running_loop()
        origins = [self._tracing.here() if self._tracing else None]
        call = partial(self._publish, message, publish, way, documents, origins)
        try:
            async with asyncio.timeout(_CONFIRM_SECONDS):
                return await loop.run_in_executor(self._threads, call)
        except TimeoutError as error:
            raise BrokerUnavailable("no confirm in time") from error

    def close(self) -> None:
        """Let the threads end, once they have published what they hold."""
        self._threads.shutdown()

    async def _confirmed(self, documents: Sequence[Document], size: int, *, batch: bool) -> Receipt:
        self._backlog.check()
        if self._waiting_bytes + size > _WAITING_BYTES:
            raise BrokerUnavailable("too much waits to be published")
        loop = asyncio.get_running_loop()
        confirmed: asyncio.Future[Receipt] = loop.create_future()
        origin = self._tracing.here() if self._tracing else None
        self._waiting.append(_Waiting(documents, size, batch, confirmed, origin))
        self._waiting_bytes += size
        self._publish_waiting()
        # Cheaper than `asyncio.timeout`, which cancels the task and has to tell why it did.
        patience = loop.call_later(_CONFIRM_SECONDS, _give_up, confirmed)
        try:
            receipt = await confirmed
        finally:
            patience.cancel()
        if self._tracing:
            self._tracing.name_message(receipt.envelope.task_id)
        return receipt

    def _publish_waiting(self) -> None:
        """Hand messages to the free threads; come again when the gap is over."""
        loop = asyncio.get_running_loop()
        while self._due(loop.time()) and (group := self._take()):
            self._busy += 1
            if len(group) > 1:
                self._next_at = loop.time() + self._gap_seconds
            documents = [each for one in group for each in one.documents]
            publish = partial(
                self._publisher.publish,
                INGEST,
                {"documents": documents},
                documents=len(documents),
                summary=describe(documents),
            )
            origins = [one.origin for one in group]
            call = partial(self._publish, INGEST, publish, "upload", len(documents), origins)
            task = loop.run_in_executor(self._threads, call)
            task.add_done_callback(partial(self._resolve, group))
        if self._waiting and not self._busy and self._timer is None:
            self._timer = loop.call_at(self._next_at, self._end_gap)

    def _end_gap(self) -> None:
        self._timer = None
        self._publish_waiting()

    def _due(self, now: float) -> bool:
        """Whether a message shall leave now, rather than after the one that is on its way."""
        if not self._waiting or self._busy == PUBLISHER_THREADS:
            return False
        return (
            (not self._busy and now >= self._next_at)
            or self._waiting[0].batch
            or self._waiting_bytes >= MESSAGE_BYTES
            or len(self._waiting) >= MESSAGE_DOCUMENTS
        )

    def _take(self) -> list[_Waiting]:
        """Take the next message's callers off the queue, leaving out those who have given up."""
        group: list[_Waiting] = []
        size = 0
        while self._waiting:
            first = self._waiting[0]
            if not first.confirmed.done():
                if group and (first.batch or size + first.size > MESSAGE_BYTES):
                    break
                group.append(first)
                size += first.size
            self._waiting.popleft()
            self._waiting_bytes -= first.size
            if group and (group[-1].batch or len(group) == MESSAGE_DOCUMENTS):
                break
        return group

    def _publish(
        self,
        message: Message,
        publish: Callable[..., Envelope],
        way: meters.Way,
        documents: int,
        origins: "Sequence[SpanContext | None]",
    ) -> Envelope:
        with meters.publishing(way, documents):
            if self._tracing is None:
                return publish()
            with self._tracing.publishing(message, origins) as headers:
                envelope = publish(headers=headers)
                self._tracing.name_message(envelope.task_id)
            return envelope

    def _resolve(self, group: list[_Waiting], done: asyncio.Future[Envelope]) -> None:
        """Tell the callers, and publish what has collected meanwhile."""
        self._busy -= 1
        error = done.exception()
        place = 0
        for each in group:
            if not each.confirmed.done():
                if error is None:
                    each.confirmed.set_result(Receipt(done.result(), place))
                else:
                    # One error, raised by many callers, would collect all their tracebacks.
                    each.confirmed.set_exception(copy(error))
            place += len(each.documents)
        self._publish_waiting()
