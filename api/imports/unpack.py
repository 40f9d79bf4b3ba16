"""A body as it came, unpacked in pieces of bounded size, without a byte order mark."""

import zlib
from collections.abc import Iterator
from typing import Final

from api.imports.records import NotThisFormat

PIECE_BYTES: Final = 64 << 10
"""Bytes of a piece at most: what is done with one takes a few milliseconds."""

_GZIP: Final = zlib.MAX_WBITS | 16
_MAGIC: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"


class Body:
    """Unpacks a body of gzip, of one member or several, or passes one that is not packed.

    Whatever can be unpacked is, also before a place that is damaged.

    Attributes:
        damage: what is wrong with the packing, once that is known.
        cut: whether something is missing from the end because of that.
    """

    def __init__(self, *, packed: bool) -> None:
        self.damage: str | None = None
        self.cut = False
        self._member = zlib.decompressobj(_GZIP) if packed else None
        self._first: bytes | None = b""  # until it is known whether there is a mark

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what is in the next chunk of the body.

        Raises:
            NotThisFormat: it shall be gzip and is none.
        """
        pieces = _pieces(chunk) if self._member is None else self._unzipped(chunk)
        for piece in pieces:
            if self._first is None:
                yield piece
                continue
            self._first += piece
            if len(self._first) >= len(_BOM):
                yield from self._without_mark()

    def finish(self) -> Iterator[bytes]:
        """Yield what is left; see whether gzip ends where the body does."""
        if self._member is not None and not self._member.eof and self.damage is None:
            self._break("ends before its gzip data does")
        if self._first:
            yield from self._without_mark()

    def _without_mark(self) -> Iterator[bytes]:
        first, self._first = self._first or b"", None
        yield from _pieces(first.removeprefix(_BOM))

    def _unzipped(self, chunk: bytes) -> Iterator[bytes]:
        assert self._member is not None  # noqa: S101  # the caller's condition
        while chunk and self.damage is None:
            if self._member.eof:
                if not chunk.strip(b"\0"):
                    return  # padding
                if not chunk.startswith(_MAGIC[: len(chunk)]):
                    self.damage = "has bytes after the end of its gzip data"
                    return
                self._member = zlib.decompressobj(_GZIP)
            before = self._member.copy()
            try:
                piece = self._member.decompress(chunk, PIECE_BYTES)
            except zlib.error as error:
                yield self._rescued(before, chunk)
                self._break(f"has damaged gzip data ({error})")
                return
            chunk = self._member.unconsumed_tail or self._member.unused_data
            yield piece
            while len(piece) == PIECE_BYTES and not chunk and not self._member.eof:
                piece = self._member.decompress(b"", PIECE_BYTES)
                yield piece

    def _rescued(self, member: "zlib._Decompress", chunk: bytes) -> bytes:
        """Return what comes before the damage, byte by byte."""
        rescued = bytearray()
        try:
            for place in range(len(chunk)):
                rescued += member.decompress(chunk[place : place + 1])
        except zlib.error:
            pass
        return bytes(rescued)

    def _break(self, damage: str) -> None:
        if self._first == b"":
            raise NotThisFormat(f"The body is no gzip, or has nothing in it: it {damage}.")
        self.damage, self.cut = damage, True


def _pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]
