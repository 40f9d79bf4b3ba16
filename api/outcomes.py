"""What became of documents that somebody waits for.

Whoever waits costs no thread and no connection: while there is anybody, one poll asks the ledger
and the documents for all of them at once, on the connection of one short transaction.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from copy import copy
from time import monotonic
from typing import Final, Generic, TypeVar
from uuid import UUID

from api.intake import Receipt
from shared.db import Session
from shared.decide import Outcome
from shared.errors import DatabaseUnavailable
from shared.store import documents, ledger

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")
Found = tuple[dict[int, str], dict[UUID, int]]
Run = Callable[[Callable[[Session], Found]], Awaitable[Found]]

_TICK_SECONDS: Final = 0.02
_MAX_TICK_SECONDS: Final = 1.0
_SHARE: Final = 10
"""Of the time, the part that polling may take is one in so many."""


class _Waiters(Generic[KeyT, ValueT]):
    """Who waits, by what for."""

    def __init__(self) -> None:
        self._futures: dict[KeyT, set[asyncio.Future[ValueT]]] = {}

    def __iter__(self) -> Iterator[KeyT]:
        return iter(self._futures)

    def __len__(self) -> int:
        return len(self._futures)

    @contextmanager
    def waiting(self, key: KeyT) -> Iterator[asyncio.Future[ValueT]]:
        """Give a future of what `key` stands for, for as long as the context lasts."""
        future: asyncio.Future[ValueT] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(key, set()).add(future)
        try:
            yield future
        finally:
            futures = self._futures[key]
            futures.discard(future)
            if not futures:
                del self._futures[key]

    def resolve(self, key: KeyT, value: ValueT) -> None:
        """Tell all who wait for `key`."""
        for future in self._futures.get(key, ()):
            if not future.done():
                future.set_result(value)

    def fail(self, error: Exception) -> None:
        """Tell everybody that it is not to be had."""
        for future in self._undone():
            # One error, raised by many callers, would collect all their tracebacks.
            future.set_exception(copy(error))

    def cancel(self) -> None:
        """Have nobody wait any more."""
        for future in self._undone():
            future.cancel()

    def _undone(self) -> list[asyncio.Future[ValueT]]:
        return [each for futures in self._futures.values() for each in futures if not each.done()]


class Outcomes:
    """Asks the database for those who wait; for use on one event loop.

    `run` runs an action in a transaction of its own, and raises `DatabaseUnavailable`.
    """

    def __init__(self, run: Run, producer_id: UUID) -> None:
        self._run = run
        self._producer_id = producer_id
        self._messages: _Waiters[int, str] = _Waiters()
        self._revisions: _Waiters[tuple[UUID, frozenset[int]], int] = _Waiters()
        self._polling: asyncio.Task[None] | None = None
        self._stopped = False

    async def of_message(self, receipt: Receipt, seconds: float) -> str | None:
        """Return the letters of a message's documents, or None if it takes longer than that.

        A database that is away is waited for like the rest.
        """
        with self._messages.waiting(receipt.envelope.seq) as letters:
            return await self._wait(letters, seconds)

    async def of_document(self, receipt: Receipt, seconds: float) -> Outcome | None:
        """Return what became of one document, or None if that takes longer."""
        letters = await self.of_message(receipt, seconds)
        return None if letters is None else Outcome(letters[receipt.place])

    async def stored(self, document_id: UUID, known: Collection[int], seconds: float) -> None:
        """Wait until a document is stored, in a revision that is not among `known`.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        with self._revisions.waiting((document_id, frozenset(known))) as revision:
            await self._wait(revision, seconds)

    def stop(self) -> None:
        """Have nobody wait any more, from now on."""
        self._stopped = True
        self._messages.cancel()
        self._revisions.cancel()

    async def _wait(self, future: asyncio.Future[ValueT], seconds: float) -> ValueT | None:
        if self._stopped:
            return None
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        await asyncio.wait([future], timeout=seconds)
        return future.result() if future.done() and not future.cancelled() else None

    async def _poll(self) -> None:
        while self._messages or self._revisions:
            start = monotonic()
            try:
                self._tell(await self._run(self._ask()))
            except DatabaseUnavailable as error:
                self._revisions.fail(error)
            pause = max(_TICK_SECONDS, (_SHARE - 1) * (monotonic() - start))
            await asyncio.sleep(min(pause, _MAX_TICK_SECONDS))

    def _ask(self) -> Callable[[Session], Found]:
        seqs = list(self._messages)
        ids = {document_id for document_id, _ in self._revisions}

        def ask(session: Session) -> Found:
            return (
                ledger.outcomes(session, self._producer_id, seqs) if seqs else {},
                documents.revisions(session, ids) if ids else {},
            )

        return ask

    def _tell(self, found: Found) -> None:
        letters, revisions = found
        for seq, each in letters.items():
            self._messages.resolve(seq, each)
        for key in list(self._revisions):
            document_id, known = key
            revision = revisions.get(document_id)
            if revision is not None and revision not in known:
                self._revisions.resolve(key, revision)
