"""Records of a CSV body: rows, which may have newlines between quotes."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import Final

from api.imports.records import KEPT_BYTES, MAX_RECORD_BYTES, TOO_LONG, Record

_UNCLOSED: Final = "has a quote that is not closed"
_WRONG_QUOTE: Final = "has a quote that is closed in another row, if at all"

_SPARE_BYTES: Final = 16 << 20
"""How much more than the body itself may be read anew, so that nobody can keep us busy."""

csv.field_size_limit(MAX_RECORD_BYTES)  # the module's own limit is below the longest content


@dataclass(frozen=True, slots=True)
class Dialect:
    """How rows are written: each a single ASCII character, `quote` "" for none."""

    delimiter: str = ","
    quote: str = '"'

    def fields(self, row: bytes, *, strict: bool = False) -> list[str]:
        """Return the fields of a row.

        Args:
            row: with its newline or without.
            strict: whether a quote that closes must end its field.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
            csv.Error: it is no row.
        """
        reader = csv.reader(
            StringIO(row.decode(), newline=""),
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            strict=strict,
        )
        return next(reader, [])


class Rows:
    """Cuts a CSV body into rows, the header first.

    A quote that opens by mistake would swallow the rows up to the next one. That shows: the next
    one opens a field, too, so that text follows it. Of such a row, if it has another number of
    fields than the header, only the first line is refused, and the others are read anew.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._row = _pattern(dialect, rb"\n")
        self._last_row = _pattern(dialect, rb"\Z")
        self._columns: int | None = None
        self._bytes = bytearray()  # from the start of the row that is being read
        self._line = 1
        self._end = 0  # of what was given out
        self._enough = 0  # bytes with which it is worth looking for a row's end again
        self._long: bytes | None = None  # the start of a line whose rest is skipped
        self._spare = _SPARE_BYTES

    def feed(self, piece: bytes) -> Iterator[Record]:
        """Yield the rows that end in `piece`."""
        self._spare += len(piece)
        self._bytes += piece
        if len(self._bytes) >= self._enough:
            yield from self._rows()
            # Each look starts with the row: looking at every piece would take quadratic time.
            self._enough = min(2 * len(self._bytes), MAX_RECORD_BYTES)

    def finish(self) -> Iterator[Record]:
        """Yield what is left at the end of the body."""
        yield from self._rows()
        if self._long is not None:
            yield self._skipped()
        while self._bytes:
            if (stop := _stop(self._last_row, self._bytes)) is not None:
                yield from self._whole(stop)
            else:
                yield from self._give_up(_UNCLOSED, len(self._bytes))
            yield from self._rows()

    def _rows(self) -> Iterator[Record]:
        """Yield the rows whose ends are there."""
        while self._long is None or self._bytes:
            if self._long is not None:
                yield from self._skip()
            elif (stop := _stop(self._row, self._bytes)) is not None and stop <= MAX_RECORD_BYTES:
                yield from self._whole(stop)
            elif len(self._bytes) > MAX_RECORD_BYTES:
                yield from self._too_long()
            else:
                return

    def _whole(self, stop: int) -> Iterator[Record]:
        """Yield the row that ends at `stop`, or its first line if it is several by mistake."""
        row = bytes(self._bytes[:stop])
        if b"\n" in row[:-1] and self._is_several(row):
            yield from self._give_up(_WRONG_QUOTE, stop)
            return
        record = self._take(stop)
        if row.strip():
            if self._columns is None:
                self._columns = self._count(row)
            yield record

    def _is_several(self, row: bytes) -> bool:
        if self._columns in {None, self._count(row)}:
            return False
        try:
            self._dialect.fields(row, strict=True)
        except csv.Error:
            return True
        except UnicodeDecodeError:
            pass
        return False

    def _count(self, row: bytes) -> int:
        try:
            return len(self._dialect.fields(row))
        except (UnicodeDecodeError, csv.Error):
            return -1

    def _give_up(self, error: str, stop: int) -> Iterator[Record]:
        """Refuse the first line of what is held, and have the others up to `stop` read anew."""
        first = self._bytes.find(b"\n") + 1 or stop
        self._spare -= stop - first
        yield self._take(first if self._spare >= 0 else stop, error)

    def _too_long(self) -> Iterator[Record]:
        """Refuse the first line of a row that is too long, and skip that line if it is."""
        stop = self._bytes.rfind(b"\n", 0, MAX_RECORD_BYTES) + 1
        if stop:
            yield from self._give_up(TOO_LONG, stop)
        else:
            self._long = bytes(self._bytes[:KEPT_BYTES])

    def _skip(self) -> Iterator[Record]:
        """Skip what is held of a line that is too long; yield its start once its end is there."""
        newline = self._bytes.find(b"\n")
        self._drop(newline + 1 or len(self._bytes))
        if newline >= 0:
            yield self._skipped()

    def _skipped(self) -> Record:
        record = Record(self._line, self._long or b"", self._end, TOO_LONG, truncated=True)
        self._long, self._line = None, self._line + 1
        return record

    def _take(self, stop: int, error: str | None = None) -> Record:
        """Return the first `stop` bytes that are held as a record, and hold them no more."""
        cut = error is not None and stop > KEPT_BYTES
        raw = bytes(self._bytes[: KEPT_BYTES if cut else stop])
        lines = self._bytes.count(b"\n", 0, stop)
        self._drop(stop)
        record = Record(self._line, raw.rstrip(b"\r\n"), self._end, error, truncated=cut)
        self._line += lines
        return record

    def _drop(self, stop: int) -> None:
        del self._bytes[:stop]
        self._end += stop


def _pattern(dialect: Dialect, end: bytes) -> re.Pattern[bytes]:
    """Return the pattern of a row, as `csv` reads it.

    A field is quoted if it starts with a quote; whatever follows the closing one belongs to it.
    """
    delimiter, quote = re.escape(dialect.delimiter.encode()), re.escape(dialect.quote.encode())
    plain = b"[^" + delimiter + rb"\n]*+"
    if not dialect.quote:
        return re.compile(rb"[^\n]*+" + end)
    quoted = quote + b"(?:[^" + quote + b"]++|" + quote * 2 + b")*+" + quote + plain
    field = b"(?:" + quoted + b"|(?!" + quote + b")" + plain + b")"
    return re.compile(b"(?:" + field + delimiter + b")*+" + field + end)


def _stop(pattern: re.Pattern[bytes], data: bytearray) -> int | None:
    found = pattern.match(data)
    return None if found is None else found.end()
