"""Imports of this process: begun, received, and ended in good order when the process stops."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import structlog
from starlette.requests import ClientDisconnect
from uuid_utils.compat import uuid7

from api.backlog import Backlog
from api.errors import Conflict, Interrupted, Invalid
from api.imports.form import Form
from api.imports.reader import AnotherBody, Reader
from api.imports.records import NotThisFormat
from api.imports.upload import Displaced, Stuck, Transactions, Upload, start_of
from api.intake import Intake
from shared.account import Account
from shared.db import Session
from shared.models import Import
from shared.revision import Clock
from shared.store import audit
from shared.store import imports as store
from shared.store.imports import Status

_CLOSE_SECONDS: Final = 8.0

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What a request says before its body.

    Attributes:
        form: of the body.
        packed: whether it is gzip.
        caller: who sent it.
        key: the `Idempotency-Key`.
        length: bytes of the body, if it says so.
        request_id: goes with each document.
        entry: for the audit log, without the import's id.
    """

    form: Form
    packed: bool
    caller: str
    key: str
    length: int | None
    request_id: str
    entry: audit.Entry


class Importer:
    """Receives imports; for use on one event loop."""

    def __init__(
        self,
        intake: Intake,
        backlog: Backlog,
        database: Transactions,
        clock: Clock,
        *,
        max_content_bytes: int,
    ) -> None:
        self._intake = intake
        self._backlog = backlog
        self._database = database
        self._clock = clock
        self._max_content_bytes = max_content_bytes
        # One: two would not be faster, but would keep the event loop waiting for twice as long.
        self._threads = ThreadPoolExecutor(1, "imports")
        self._running: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def receive(self, request: Request, chunks: AsyncIterator[bytes]) -> UUID:
        """Begin an import, or go on with the one of the same key; return its id.

        By then its whole body is safe. Nothing is read if the import had all of it before.

        Raises:
            Conflict: another upload of that key is under way, or the import was cancelled.
            Invalid: the body is not what the request says, or another one than before.
            Interrupted: a part was accepted, and the rest can be sent later.
            DatabaseUnavailable: nothing was accepted.
            ClientDisconnect: the body ended early.
        """
        if self._stopped:
            raise Interrupted("The API stops. Try again.", headers={"Retry-After": "2"})
        account = Account(uuid7())
        row = await self._begin(request, account)
        if row.producer_id != account.producer_id:
            return row.id
        upload = self._upload(row, request, account)
        task = asyncio.create_task(self._run(upload, row, chunks))
        self._running.add(task)
        task.add_done_callback(self._ended)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise
        return row.id

    def stop(self) -> None:
        """End what is under way: whoever sends it is told how to go on."""
        self._stopped = True
        for each in self._running:
            each.cancel()

    async def settle(self) -> None:
        """Note which imports are done, and which uploads have died without a word."""
        await self._database.run(store.settle)

    async def close(self) -> None:
        """End what is under way, so that it can go on elsewhere."""
        self.stop()
        if self._running:
            await asyncio.wait(self._running, timeout=_CLOSE_SECONDS)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # said to whoever waits; that may be nobody any more

    async def _begin(self, request: Request, account: Account) -> Import:
        """Return the import. It takes the upload if it has the producer of `account` then."""
        form = request.form.described()
        upload = store.Upload(
            uuid7(), request.caller, request.key, form, account.producer_id, request.length
        )

        def begin(session: Session) -> Import:
            row = store.begin(session, upload)
            if row.producer_id == account.producer_id:
                audit.record(session, replace(request.entry, object_id=row.id))
            return row

        row = await self._database.run(begin)
        if row.producer_id == account.producer_id:
            return row
        if row.format != form:
            raise Invalid(
                f"The import {row.id} of this Idempotency-Key began with another format,"
                f" {row.format}. Send it as then, or use another key."
            )
        if row.status == Status.RECEIVING:
            raise Conflict(
                f"Another upload with this Idempotency-Key is under way, of the import {row.id}."
                " If it has been cut off, try again in a moment.",
                headers={"Retry-After": "5"},
            )
        if row.status == Status.CANCELLED:
            raise Conflict(f"The import {row.id} of this Idempotency-Key was cancelled.")
        return row

    def _upload(self, row: Import, request: Request, account: Account) -> Upload:
        reader = Reader(
            request.form,
            packed=request.packed,
            caller=row.caller,
            key=row.key,
            clock=self._clock,
            request_id=request.request_id,
            max_content_bytes=self._max_content_bytes,
            start=start_of(row),
        )
        return Upload(
            row,
            reader,
            account,
            intake=self._intake,
            backlog=self._backlog,
            database=self._database,
            threads=self._threads,
        )

    async def _run(self, upload: Upload, row: Import, chunks: AsyncIterator[bytes]) -> None:
        log = logger.bind(import_id=str(row.id))
        log.info("upload begins", position=row.position)
        try:
            await upload.run(chunks)
        except (NotThisFormat, AnotherBody) as error:
            if not row.position:
                await upload.stop(Status.FAILED, str(error))
                raise Invalid(f"{error} Nothing was accepted.") from error
            await upload.stop(Status.INTERRUPTED, "Another body was sent to go on with.")
            raise Invalid(
                f"This is not the body that the import {row.id} of this Idempotency-Key began with."
                f" {error} Nothing of it was accepted. Send the same, or use another key."
            ) from error
        except Displaced as error:
            await upload.stop(Status.INTERRUPTED, "Another upload goes on with it.")
            what = "was cancelled" if error.row.status == Status.CANCELLED else "goes on elsewhere"
            raise Conflict(f"The import {row.id} {what}; what was accepted stays.") from error
        except Stuck as error:
            await upload.stop(Status.INTERRUPTED, f"{error}.")
            raise _interrupted(row, str(error), 10) from error
        except ClientDisconnect:
            await upload.stop(Status.INTERRUPTED, "The connection ended before the body did.")
            raise
        except asyncio.CancelledError as error:
            await upload.stop(Status.INTERRUPTED, "The API was stopped.")
            raise _interrupted(row, "the API stops", 2) from error
        except BaseException:
            await upload.stop(Status.INTERRUPTED, "Postroom failed. Its log says why.")
            raise
        finally:
            log.info("upload ends", position=upload.point.position, received=upload.received)


def _interrupted(row: Import, reason: str, seconds: int) -> Interrupted:
    return Interrupted(
        f"The import {row.id} was interrupted: {reason}. What was accepted is safe. To go on,"
        f" send the same body from its start, with the Idempotency-Key {row.key}.",
        headers={"Retry-After": str(seconds)},
    )
