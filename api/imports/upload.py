"""One upload: its body is read as fast as the broker takes it, and its progress written down.

Nothing is held but the piece that is being read and the messages that are being sent: what comes
faster waits in the socket. Everything up to `point` is with the broker, and is never taken again.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Final, Protocol, TypeVar

import structlog

from api import meters
from api.backlog import Backlog
from api.imports.reader import Reader, Slice
from api.intake import MESSAGE_BYTES, MESSAGE_DOCUMENTS, Intake
from shared.account import Account
from shared.db import Session
from shared.errors import BacklogFull, BrokerUnavailable, DatabaseUnavailable
from shared.messages import Document
from shared.models import Import
from shared.store import imports as store
from shared.store.imports import Point, Progress, Reject, Status

ResultT = TypeVar("ResultT")

PATIENCE_SECONDS: Final = 30.0
"""How long an upload waits for the broker, or for the database, to come back."""

_IDLE_SECONDS: Final = 45.0
"""How long it waits for the client's next bytes, which is less than the server does.

So a client that was merely held up is told how to go on.
"""

_EVERY_SECONDS: Final = 1.0
_LAST_SECONDS: Final = 3.0
_HELD_REJECT_BYTES: Final = 4 << 20

logger = structlog.get_logger(__name__)


class Transactions(Protocol):
    """Runs transactions off the event loop; see `api.deps.DatabaseThreads`."""

    async def run(self, action: Callable[[Session], ResultT]) -> ResultT:
        """Return what `action` returns; raises DatabaseUnavailable."""
        ...


class Stuck(Exception):
    """Broker, database or client kept the upload waiting for too long; the text says which."""


class Displaced(Exception):
    """The import takes this upload no more: cancelled, or another one goes on with it."""

    def __init__(self, row: Import) -> None:
        super().__init__(row.status)
        self.row = row


@dataclass(slots=True)
class _Collected:
    """Slices that are not sent yet, or are being sent."""

    documents: list[tuple[Document, int]] = field(default_factory=list)
    size: int = 0
    rejects: list[Reject] = field(default_factory=list)
    point: Point | None = None

    @property
    def full(self) -> bool:
        """Whether they make a message."""
        return len(self.documents) >= MESSAGE_DOCUMENTS or self.size >= MESSAGE_BYTES

    def add(self, piece: Slice) -> None:
        """Collect one more."""
        self.documents += piece.documents
        self.size += sum(size for _, size in piece.documents)
        self.rejects += piece.rejects
        self.point = piece.point or self.point

    def messages(self) -> Iterator[list[Document]]:
        """Yield the documents of each message."""
        message: list[Document] = []
        left = MESSAGE_BYTES
        for document, size in self.documents:
            if message and (len(message) == MESSAGE_DOCUMENTS or size > left):
                yield message
                message, left = [], MESSAGE_BYTES
            message.append(document)
            left -= size
        if message:
            yield message


class Upload:
    """Receives one upload's body; for use on one event loop.

    Attributes:
        received: bytes of the body that came, before they are unpacked.
        point: what is safe.
    """

    def __init__(
        self,
        row: Import,
        reader: Reader,
        account: Account,
        *,
        intake: Intake,
        backlog: Backlog,
        database: Transactions,
        threads: Executor,
    ) -> None:
        self.received = 0
        self.point = start_of(row)
        self._import_id = row.id
        self._reader = reader
        self._account = account
        self._intake = intake
        self._backlog = backlog
        self._database = database
        self._threads = threads
        self._collected = _Collected()
        self._sending: asyncio.Task[None] | None = None
        self._rejects: list[Reject] = []
        self._reject_bytes = 0
        self._lock = asyncio.Lock()

    async def run(self, chunks: AsyncIterator[bytes]) -> None:
        """Receive the whole body; return once all of it is safe, and that is written down.

        Raises:
            NotThisFormat: it is no body of its form; nothing was accepted.
            AnotherBody: it is not the body that the import began with; nothing was accepted.
            Stuck: it had to wait for too long.
            Displaced: the import takes it no more.
            starlette.requests.ClientDisconnect: the body ended early.
        """
        receiving = asyncio.create_task(self._receive(chunks))
        marking = asyncio.create_task(self._keep_marking())
        tasks = (receiving, marking)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in tasks:
                each.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        await _patiently(self._end, "the database does not answer")

    async def stop(self, status: Status, error: str) -> None:
        """Write down where it ended; what is under way is waited for, but not for long."""
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=_LAST_SECONDS)
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await self._mark(status, error, closed=True)
        except Displaced:
            pass  # its producer's end is written, which is all that is left to say
        except (DatabaseUnavailable, TimeoutError) as problem:
            # Another upload may take over after a while all the same.
            logger.warning("the end of an upload is not written down", reason=str(problem))

    async def _receive(self, chunks: AsyncIterator[bytes]) -> None:
        while (chunk := await self._next(chunks)) is not None:
            self.received += len(chunk)
            await self._read(self._reader.feed(chunk))
        await self._read(self._reader.finish())
        await self._sent()
        self._send()
        await self._sent()

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                return await anext(chunks, None)
        except TimeoutError as error:
            raise Stuck(f"nothing came for {_IDLE_SECONDS:.0f} seconds") from error

    async def _read(self, pieces: Iterator[Slice]) -> None:
        """Take what the reader makes of a chunk, in a thread and a few milliseconds at a time."""
        loop = asyncio.get_running_loop()
        while (piece := await loop.run_in_executor(self._threads, next, pieces, None)) is not None:
            self._collected.add(piece)
            if self._sending is not None and self._collected.full:
                await self._sent()
            if self._sending is None or self._sending.done():
                await self._sent()
                self._send()
            if self._reject_bytes > _HELD_REJECT_BYTES:
                await _patiently(self._mark, "the database does not answer")

    def _send(self) -> None:
        """Send what is collected, while more is being read."""
        self._sending = asyncio.create_task(self._publish(self._collected))
        self._collected = _Collected()

    async def _sent(self) -> None:
        """Wait until nothing is being sent."""
        if self._sending is not None:
            sending, self._sending = self._sending, None
            await sending

    async def _publish(self, collected: _Collected) -> None:
        for message in collected.messages():
            await _patiently(partial(self._offer, message), "the broker takes no more")
        self.point = collected.point or self.point
        self._rejects += collected.rejects
        meters.rejected("invalid", len(collected.rejects))
        self._reject_bytes += sum(len(each.original) + 100 for each in collected.rejects)

    async def _offer(self, message: list[Document]) -> None:
        self._backlog.check()
        await self._intake.accept_import(message, self._account)

    async def _keep_marking(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            await _patiently(self._mark, "the database does not answer")

    async def _end(self) -> None:
        await self._mark(Status.PROCESSING, closed=True)

    async def _mark(
        self, status: Status = Status.RECEIVING, error: str | None = None, *, closed: bool = False
    ) -> None:
        """Write down what is safe.

        Raises:
            DatabaseUnavailable: it may be written or not.
            Displaced: the import takes this upload no more.
        """
        async with self._lock:
            mark, rejects = self._account.mark(closed=closed), self._rejects[:]
            progress = Progress(
                self._import_id,
                mark,
                self.point,
                rejects,
                self.received,
                self._reader.header,
                status,
                error,
            )
            try:
                row = await self._database.run(lambda session: store.progress(session, progress))
            except BaseException:
                self._account.unwritten(mark)
                raise
            del self._rejects[: len(rejects)]
            self._reject_bytes = 0
        if row is not None:
            raise Displaced(row)


def start_of(row: Import) -> Point:
    """Return the place where an import's next upload goes on."""
    return Point(row.position, row.digest, row.accepted, row.rejected)


async def _patiently(action: Callable[[], Awaitable[None]], complaint: str) -> None:
    """Do something again until it succeeds.

    Raises:
        Stuck: it did not within `PATIENCE_SECONDS`.
    """
    end, pause = monotonic() + PATIENCE_SECONDS, 0.1
    while True:
        try:
            return await action()
        except (BrokerUnavailable, BacklogFull, DatabaseUnavailable) as error:
            if monotonic() + pause > end:
                raise Stuck(f"{complaint}: {error}") from error
        await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # no secret
        pause = min(2 * pause, 2.0)
