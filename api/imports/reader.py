"""From a body's bytes to stamped documents, rejects, and the place that was reached.

Pure: no I/O, no event loop. What it yields at a time takes a few milliseconds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final
from uuid import UUID, uuid5

import orjson

from api.imports.form import Form
from api.imports.records import KEPT_BYTES, Record
from api.imports.unpack import Body
from api.intake import stamped
from api.schemas.document import DocumentIn
from api.schemas.problem import FieldError
from api.validation import validated
from shared.messages import Document
from shared.revision import Clock
from shared.store.imports import Point, Reject

NAMESPACE: Final = UUID("3f0c5c0a-6f0e-5c1b-8a57-6a4f7f1d9b52")
"""Namespace of the ids made from an import's key, which single writes have not: a line is no place
in a batch. Never to change: the same line, the same id."""


class AnotherBody(Exception):
    """The body does not start as that of the upload before; the text says how it differs."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What a piece of a body brought.

    Attributes:
        documents: those that are fine, each with its size in bytes.
        rejects: records that are none.
        point: the place up to which the body is read with this slice; None if it is not known
            before a later one.
    """

    documents: list[tuple[Document, int]]
    rejects: list[Reject]
    point: Point | None


class _Digest:
    """The digest of a stream, at any place in its latest piece."""

    def __init__(self) -> None:
        self.position = 0
        self._hash = blake2b(digest_size=32)
        self._rest = memoryview(b"")

    def take(self, piece: bytes) -> None:
        """Go to the end of the piece before; go on with this one."""
        self.at(self.end)
        self._rest = memoryview(piece)

    @property
    def end(self) -> int:
        """Bytes so far."""
        return self.position + len(self._rest)

    def at(self, position: int) -> bytes:
        """Return the digest of the first `position` bytes; never one further back again."""
        cut = position - self.position
        self._hash.update(self._rest[:cut])
        self.position, self._rest = position, self._rest[cut:]
        return self._hash.digest()


class Reader:
    """Reads the body of one upload."""

    def __init__(
        self,
        form: Form,
        *,
        packed: bool,
        caller: str,
        key: str,
        clock: Clock,
        request_id: str,
        max_content_bytes: int,
        start: Point,
    ) -> None:
        """Prepare to read.

        Args:
            form: of the body.
            packed: whether it is gzip.
            caller: whose import it is.
            key: the import's, from which ids are made.
            clock: stamps the documents.
            request_id: goes with each document.
            max_content_bytes: of a document.
            start: up to there the uploads before were taken; it is read again, and left out.
        """
        self._body = Body(packed=packed)
        self._records = form.records()
        self._meaning = form.meaning()
        self._caller = caller
        self._key = key
        self._clock = clock
        self._request_id = request_id
        self._max_content_bytes = max_content_bytes
        self._start = start
        self._verified = start.position == 0
        self._digest = _Digest()
        self._line = 0
        self._accepted = start.accepted
        self._rejected = start.rejected

    @property
    def header(self) -> bytes | None:
        """The first row of CSV, once it was read."""
        return self._meaning.header

    @property
    def position(self) -> int:
        """Bytes of the unpacked body that were read so far."""
        return self._digest.end

    def feed(self, chunk: bytes) -> Iterator[Slice]:
        """Yield what the next chunk of the body brings.

        Raises:
            NotThisFormat: it is no body of its form.
            AnotherBody: it is not the one that `start` is a place in.
        """
        for piece in self._body.feed(chunk):
            self._take(piece)
            yield self._slice(self._records.feed(piece))

    def finish(self) -> Iterator[Slice]:
        """Yield what is left at the end of the body; see `feed`."""
        for piece in self._body.finish():
            self._take(piece)
            yield self._slice(self._records.feed(piece))
        if not self._verified:
            raise AnotherBody("It is shorter.")
        last = self._records.finish()
        yield self._slice(self._without_end(last) if self._body.cut else last)
        if self._body.damage and not self._body.cut:
            yield self._slice([Record(self._line + 1, b"", self._digest.end, self._body.damage)])

    def _take(self, piece: bytes) -> None:
        """Go on with a piece; compare it with the upload before, before anything is accepted."""
        self._digest.take(piece)
        if not self._verified and self._digest.end >= self._start.position:
            if self._digest.at(self._start.position) != self._start.digest:
                raise AnotherBody("It begins otherwise.")
            self._verified = True

    def _without_end(self, records: Iterator[Record]) -> Iterator[Record]:
        """Refuse the last record, which is not whole."""
        record = None
        for each in records:
            if record is not None:
                yield record
            record = each
        if record is None:
            record = Record(self._line + 1, b"", self._digest.end)
        yield Record(record.line, record.raw, record.end, self._body.damage, record.truncated)

    def _slice(self, records: Iterable[Record]) -> Slice:
        slice_ = Slice([], [], None)
        end = 0
        for record in records:
            end, self._line = record.end, record.line
            if self._meaning.is_header(record) or end <= self._start.position:
                continue
            entry = self._entry(record)
            if isinstance(entry, Reject):
                slice_.rejects.append(entry)
            else:
                slice_.documents.append((entry, len(record.raw)))
        self._accepted += len(slice_.documents)
        self._rejected += len(slice_.rejects)
        if end < self._digest.position or end <= self._start.position:
            return slice_
        point = Point(end, self._digest.at(end), self._accepted, self._rejected)
        return Slice(slice_.documents, slice_.rejects, point)

    def _entry(self, record: Record) -> Document | Reject:
        """Return the document that a record is, or why it is none."""
        if record.error is not None:
            return _reject(record, [FieldError.of([], record.error)])
        value, errors = self._meaning.value(record.raw)
        document = errors or validated(value, self._max_content_bytes)
        if not isinstance(document, DocumentIn):
            return _reject(record, document)
        keyed = None
        if document.id is None and document.external_id is None:
            keyed = uuid5(NAMESPACE, orjson.dumps([self._caller, self._key, record.line]).decode())
        return stamped(document, self._clock, self._request_id, keyed)


def _reject(record: Record, errors: list[FieldError]) -> Reject:
    return Reject(
        record.line,
        [each.model_dump() for each in errors],
        record.raw[:KEPT_BYTES],
        record.truncated or len(record.raw) > KEPT_BYTES,
    )
