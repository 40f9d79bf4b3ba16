"""Exports: all documents of a list as a stream, a few at a time, from one snapshot each."""

import asyncio
import codecs
import csv
import io
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore, Thread
from typing import Any, Final, Protocol, Self

import orjson
import structlog
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from api.schemas.document import DocumentOut
from shared.db import Database, Session
from shared.errors import DatabaseUnavailable, TooManyExports
from shared.revision import Clock
from shared.store import listings as store
from shared.store.listings import Listing

IDLE_SECONDS: Final = 60.0
"""Time that a client may read nothing."""

_SILENT_SECONDS: Final = 120
"""Time after which PostgreSQL ends an export of which it hears nothing: longer than the other."""

_BEGIN_SECONDS: Final = 4.5
_PART_BYTES: Final = 2 << 20
_GZIP: Final = zlib.MAX_WBITS | 16
_TAKES_GZIP: Final = re.compile(
    r"(?i)(?:^|,)\s*(?:gzip|\*)\s*(?:;\s*q=(?!0(?:\.0*)?\s*(?:,|$))[^,]*)?(?:,|$)"
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")

logger = structlog.get_logger(__name__)

Documents = Iterable[Sequence[dict[str, Any]]]
"""Documents in parts, with the fields of `DocumentOut`."""


class Format(Protocol):
    """How documents become bytes."""

    def parts(self, documents: Documents) -> Iterator[bytes]:
        """Yield the bytes, part by part."""


class Ndjson:
    """A document a line, as `GET /v1/documents/{id}` returns it."""

    def parts(self, documents: Documents) -> Iterator[bytes]:
        """Yield the lines, part by part."""
        for part in documents:
            yield b"".join(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in part)


class Csv:
    """Comma-separated values (RFC 4180) with a header; null is empty, objects are JSON."""

    def __init__(self, *, spreadsheet: bool) -> None:
        """Say whether it is for a spreadsheet, which would compute what begins with `=`.

        For one, such a text gets an apostrophe before it, and the file a byte order mark.
        """
        self._spreadsheet = spreadsheet

    def parts(self, documents: Documents) -> Iterator[bytes]:
        """Yield the header, then the records, part by part."""
        if self._spreadsheet:
            yield codecs.BOM_UTF8
        yield _lines([DocumentOut.model_fields])
        for part in documents:
            yield _lines([self._cell(value) for value in each.values()] for each in part)

    def _cell(self, value: Any) -> Any:
        if isinstance(value, dict):
            value = orjson.dumps(value).decode()
        elif hasattr(value, "isoformat"):
            value = value.isoformat()
        if self._spreadsheet and isinstance(value, str) and value.startswith(_FORMULA):
            return f"'{value}"
        return value


def _lines(records: Iterable[Iterable[Any]]) -> bytes:
    lines = io.StringIO(newline="")
    csv.writer(lines).writerows(records)
    return lines.getvalue().encode()


class Exports:
    """Runs exports, each with a thread and a connection of its own, so that lists never wait.

    An export is a transaction, and as long as it runs, PostgreSQL keeps what others delete: the
    number of exports is limited, and the time that each may take.
    """

    def __init__(self, database_url: str, clock: Clock, *, at_once: int, seconds: float) -> None:
        """Prepare.

        Args:
            database_url: `postgresql+psycopg2://…`.
            clock: observes the revisions.
            at_once: exports that may run at once.
            seconds: time that an export may take.
        """
        self._database = Database(
            database_url,
            pool_size=at_once,
            statement_seconds=seconds,
            application="postroom-export",
        )
        self._clock = clock
        self._free = BoundedSemaphore(at_once)
        self._seconds = seconds

    async def open(self, listing: Listing, form: Format, *, gzip: bool) -> "Export":
        """Begin an export: what it has is what is stored now.

        Raises:
            TooManyExports: as many as may run at once are running.
            DatabaseUnavailable: the database is away, or did not answer in time.
        """
        if not self._free.acquire(blocking=False):
            raise TooManyExports

        def encode(session: Session) -> Iterator[bytes]:
            documents = _documents(store.export(session, listing, _PART_BYTES), self._clock)
            return _packed(form.parts(documents)) if gzip else form.parts(documents)

        export = Export(self._database, encode, self._free.release, self._seconds)
        try:
            await export.begin()
        except BaseException:
            export.close()
            raise
        return export

    def close(self) -> None:
        """Close the connections."""
        self._database.close()


class Export:
    """One export under way: an iterator over its bytes, each part of which is made when asked for.

    Attributes:
        seconds: time that it may take.
    """

    def __init__(
        self,
        database: Database,
        encode: Callable[[Session], Iterator[bytes]],
        release: Callable[[], None],
        seconds: float,
    ) -> None:
        """Prepare.

        Args:
            database: where a connection is free.
            encode: makes the bytes, with a session in which the snapshot is taken.
            release: called once the connection is free again.
            seconds: time that it may take.
        """
        self.seconds = seconds
        self._release = release
        self._thread = ThreadPoolExecutor(1, "export")
        self._parts = self._run(database, encode)
        self._interrupt: Callable[[], None] = _nothing

    async def begin(self) -> None:
        """Take the snapshot."""
        try:
            async with asyncio.timeout(_BEGIN_SECONDS):
                await anext(self)
        except TimeoutError as error:
            raise DatabaseUnavailable("no answer in time") from error

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return some bytes, perhaps none.

        Raises:
            DatabaseUnavailable: the database is gone.
        """
        part = await asyncio.get_running_loop().run_in_executor(
            self._thread, next, self._parts, None
        )
        if part is None:
            raise StopAsyncIteration
        return part

    def close(self) -> None:
        """End it, wherever it is; the caller, which may be cancelled, does not wait."""
        Thread(target=self._finish, name="export-end").start()

    def _finish(self) -> None:
        self._interrupt()
        self._thread.submit(self._parts.close).exception()
        self._thread.shutdown()
        self._release()

    def _run(
        self, database: Database, encode: Callable[[Session], Iterator[bytes]]
    ) -> Generator[bytes]:
        try:
            with database.transaction() as session:
                self._interrupt = store.begin_export(session, _SILENT_SECONDS)
                yield b""  # it has begun, though the first document may be long in coming
                yield from encode(session)
        finally:
            # The connection is another's from here on.
            self._interrupt = _nothing


class ExportResponse(StreamingResponse):
    """An export as the answer; one that cannot be completed is cut off, for the client to see."""

    def __init__(self, export: Export, headers: Mapping[str, str]) -> None:
        super().__init__(export, headers=headers)
        self._export = export

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, as fast as the client reads; end it when the client leaves, or reads nothing."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(IDLE_SECONDS):
                await send(message)

        try:
            async with asyncio.timeout(self._export.seconds):
                await super().__call__(scope, receive, send_in_time)
        except (TimeoutError, DatabaseUnavailable) as error:
            # Returning before the last chunk has the server close the connection without it.
            logger.warning("export cut off", reason=str(error) or "it took too long")
        finally:
            self._export.close()


def takes_gzip(accept_encoding: str) -> bool:
    """Say whether a client that sends this header can read gzip."""
    return bool(_TAKES_GZIP.search(accept_encoding))


def _documents(parts: Iterable[Sequence[Any]], clock: Clock) -> Iterator[list[dict[str, Any]]]:
    for rows in parts:
        clock.observe(max(row.revision for row in rows))
        yield [DocumentOut.of(row).model_dump() for row in rows]


def _packed(parts: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(level=1, wbits=_GZIP)
    for part in parts:
        yield packer.compress(part)
    yield packer.flush()


def _nothing() -> None:
    """Interrupt nothing."""
