"""Where records end: lines, or elements of a JSON array, cut from a body as it comes in.

What is held of a body is bounded: of a record that is too long only the start is kept. A record
that is wrong leaves those around it as they are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

MAX_RECORD_BYTES: Final = 8 << 20
"""Bytes of a record at most: room for the longest content with every character escaped."""

KEPT_BYTES: Final = 64 << 10
"""Bytes that are kept of a record which is refused."""

TOO_LONG: Final = f"must not be longer than {MAX_RECORD_BYTES} bytes"


@dataclass(frozen=True, slots=True)
class Record:
    """A piece of a body that may be a document.

    Attributes:
        line: where it starts, counted from 1; of a JSON array which element it is.
        raw: its bytes; only the first ones if `truncated`.
        end: bytes of the body up to and including it and what ends it.
        error: what is wrong with it already.
        truncated: whether it was longer than a record may be.
    """

    line: int
    raw: bytes
    end: int
    error: str | None = None
    truncated: bool = False


class NotThisFormat(Exception):
    """The body is of another format altogether: nothing of it was taken."""


class Records(Protocol):
    """Cuts a body into records that are not blank, whatever pieces it comes in."""

    def feed(self, piece: bytes) -> Iterator[Record]:
        """Yield the records that end in the next piece of the body; raises NotThisFormat."""
        ...

    def finish(self) -> Iterator[Record]:
        """Yield what is left at the end of the body; raises NotThisFormat."""
        ...


class _Held:
    """The record that is being read: all of its bytes, or the first ones if they are too many."""

    def __init__(self) -> None:
        self._size = 0
        self._bytes = bytearray()

    def add(self, part: bytes) -> None:
        """Hold some more."""
        self._size += len(part)
        if self._size <= MAX_RECORD_BYTES:
            self._bytes += part
        elif len(self._bytes) < KEPT_BYTES:
            self._bytes += part[:KEPT_BYTES]

    def take(self, line: int, end: int) -> Iterator[Record]:
        """Yield the record unless it is blank, and hold nothing any more."""
        long = self._size > MAX_RECORD_BYTES
        raw = bytes(self._bytes[:KEPT_BYTES] if long else self._bytes)
        self._size, self._bytes = 0, bytearray()
        if long or raw.strip():
            yield Record(line, raw, end, TOO_LONG if long else None, truncated=long)


class Lines:
    """Cuts a body into lines."""

    def __init__(self) -> None:
        self._held = _Held()
        self._line = 1
        self._end = 0

    def feed(self, piece: bytes) -> Iterator[Record]:
        """Yield the lines that end in `piece`, each without its newline."""
        *ended, rest = piece.split(b"\n")
        for part in ended:
            self._held.add(part)
            self._end += len(part) + 1
            yield from self._held.take(self._line, self._end)
            self._line += 1
        self._held.add(rest)
        self._end += len(rest)

    def finish(self) -> Iterator[Record]:
        """Yield the last line, if the body does not end with a newline."""
        return self._held.take(self._line, self._end)


_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_NEXT: Final = re.compile(rb'["{}\[\],]')
_IN_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


class JsonArray:
    """Cuts a JSON array into its elements, each as it was sent.

    Only strings and brackets are looked at: what is wrong inside an element is found by whoever
    parses it.
    """

    def __init__(self) -> None:
        self._held = _Held()
        self._element = 1
        self._end = 0
        self._depth = 0  # 1 between the elements
        self._opened = False
        self._in_string = False
        self._escaped = False

    def feed(self, piece: bytes) -> Iterator[Record]:
        """Yield the elements that end in `piece`.

        Raises:
            NotThisFormat: the body starts with something else.
        """
        at = start = self._open(piece)
        while self._depth and (at := self._next(piece, at)) <= len(piece):
            if self._ends(piece[at - 1]):
                self._held.add(piece[start : at - 1])
                yield from self._held.take(self._element, self._end + at)
                self._element += 1
                start = at
        self._held.add(piece[start:])
        self._end += len(piece)

    def finish(self) -> Iterator[Record]:
        """Yield what is left: the start of an element, or what follows the array.

        Raises:
            NotThisFormat: there was no array.
        """
        if not self._opened:
            raise NotThisFormat("The body is empty: it must be a JSON array.")
        if self._depth:
            error = "ends early: the array is not closed"
        else:
            error = "comes after the end of the array"
        left = [*self._held.take(self._element, self._end)]
        if self._depth and not left:
            left = [Record(self._element, b"", self._end)]
        for each in left:
            yield Record(each.line, each.raw, each.end, each.error or error, each.truncated)

    def _open(self, piece: bytes) -> int:
        """Return where elements start in the piece; at its end if they do not yet."""
        if self._opened:
            return 0
        space = _SPACE.match(piece)
        at = space.end() if space else 0
        if at < len(piece):
            if piece[at] != ord("["):
                raise NotThisFormat("The body is no JSON array: it starts with something else.")
            self._opened, self._depth = True, 1
        return at + 1

    def _next(self, piece: bytes, at: int) -> int:
        """Return the place after the next byte that means something; behind the end if none."""
        while at < len(piece):
            if self._in_string:
                at = self._leave_string(piece, at)
            elif (found := _NEXT.search(piece, at)) is None:
                break
            elif piece[found.start()] != ord('"'):
                return found.end()
            else:
                self._in_string, at = True, found.end()
        return len(piece) + 1

    def _leave_string(self, piece: bytes, at: int) -> int:
        """Return the place after the end of the string, or of the piece."""
        at += self._escaped
        inside = _IN_STRING.match(piece, at)
        at = inside.end() if inside else at
        self._in_string = at == len(piece) or piece[at] != ord('"')
        self._escaped = at < len(piece) and self._in_string
        return at + 1

    def _ends(self, byte: int) -> bool:
        """Take a bracket or a comma into account; return whether an element ends with it."""
        if byte in b"{[":
            self._depth += 1
        elif byte == ord("]") or (byte == ord("}") and self._depth > 1):
            self._depth -= 1
            return not self._depth
        return byte == ord(",") and self._depth == 1
