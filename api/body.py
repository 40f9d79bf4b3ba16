"""Reading a request's body: its type, its encoding, its size, its JSON.

Every limit is checked while the body comes in, and before anything is unpacked that need not be.
"""

import asyncio
import gc
import json
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import Any, Final

import orjson
from fastapi import Request

from api.errors import (
    ContentTooLarge,
    Crowded,
    Invalid,
    Malformed,
    TooSlow,
    UnsupportedMediaType,
)
from api.schemas.problem import MAX_ERRORS, FieldError
from api.settings import MAX_BODY_BYTES

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"

_MAX_EXPLAINED: Final = 100_000
"""Values that are searched for what is wrong: a body has room for millions."""

_SECONDS: Final = 300.0
"""How long a body may take, however steadily it comes: it is held meanwhile."""

_SMALL: Final = 256 << 10
"""Bytes that any body may have: documents are accepted while large bodies crowd each other out."""

_LARGE_TOGETHER: Final = 128 << 20
"""Bytes that all bodies under way may have together, beyond `_SMALL` of each."""

_GZIP: Final = zlib.MAX_WBITS | 16
_PIECE: Final = 4 << 10  # what follows a member is copied, and members may be tiny


def media_type(request: Request, known: Collection[str]) -> str:
    """Return the body's media type, one of `known`.

    Raises:
        UnsupportedMediaType: it is none of them; the detail names the header to send.
    """
    value = request.headers.get("content-type", "")
    sent = value.partition(";")[0].strip().lower()
    if sent not in known:
        wanted = " or ".join(f"Content-Type: {each}" for each in known)
        shown = f"{value[:100]!r}" if value else "none"
        raise UnsupportedMediaType(f"Send {wanted}; the request had {shown}.")
    return sent


async def read(request: Request) -> bytes:
    """Return the body, unpacked.

    Raises:
        ContentTooLarge: it has more than `MAX_BODY_BYTES`, packed or unpacked.
        Crowded: it is large, and so are many others at the same time.
        Malformed: it says gzip and is none.
        TooSlow: it took too long to arrive.
        UnsupportedMediaType: it is packed in another way.
    """
    _check_length(request)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip"}:
        raise UnsupportedMediaType(
            f"Send Content-Encoding: gzip or none; the request had {encoding[:100]!r}.",
            headers={"Accept-Encoding": "gzip"},
        )
    try:
        async with asyncio.timeout(_SECONDS):
            sent = await _whole(request)
    except TimeoutError as error:
        raise TooSlow(f"The body took longer than {_SECONDS:.0f} seconds to arrive.") from error
    # Not while it comes in: whoever holds the last byte back would have us hold all that is packed
    # in the others.
    return sent if encoding == "identity" else _unzip(sent)


@dataclass(slots=True)
class _Room:
    """What large bodies have together, while they come in."""

    held: int = 0

    def take(self, size: int) -> None:
        if self.held + size > _LARGE_TOGETHER:
            raise Crowded
        self.held += size

    def give_back(self, size: int) -> None:
        self.held -= size


_room: Final = _Room()
"""Of this process, which has one event loop."""


async def _whole(request: Request) -> bytes:
    """Return the body as it is sent, up to as many bytes as it may have."""
    whole = bytearray()
    taken = 0
    try:
        async for chunk in request.stream():
            whole += chunk
            if len(whole) > MAX_BODY_BYTES:
                raise _too_large()
            if (more := len(whole) - _SMALL - taken) > 0:
                _room.take(more)
                taken += more
    finally:
        _room.give_back(taken)
    return bytes(whole)


def _check_length(request: Request) -> None:
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > MAX_BODY_BYTES:
        raise _too_large()


def _too_large() -> ContentTooLarge:
    return ContentTooLarge(f"The body must not have more than {MAX_BODY_BYTES} bytes.")


def _unzip(packed: bytes) -> bytes:
    """Unpack gzip, never more than one byte beyond the limit, whatever was packed."""
    unpacker = zlib.decompressobj(_GZIP)
    parts, left = [], MAX_BODY_BYTES + 1
    for start in range(0, len(packed), _PIECE):
        piece = packed[start : start + _PIECE]
        while piece and left > 0:
            if unpacker.eof:  # a gzip file may be several, one after the other
                unpacker = zlib.decompressobj(_GZIP)
            try:
                parts.append(unpacker.decompress(piece, left))
            except zlib.error as error:
                raise Malformed("The body is not gzip.") from error
            left -= len(parts[-1])
            piece = unpacker.unused_data
    if left <= 0:
        raise _too_large()
    if not unpacker.eof:
        raise Malformed("The body ends before its gzip data does.")
    return b"".join(parts)


def parse(body: bytes) -> Any:
    """Return the JSON value of a whole body.

    Raises:
        Malformed: it is no JSON; the detail says where.
        Invalid: it is JSON as Python reads it, but has a value that is none (NaN, a number out
            of range, half a surrogate pair); `errors` names it.
    """
    try:
        return _loads(body)
    except orjson.JSONDecodeError as error:
        if (place := _not_utf8(body)) is not None:
            raise Malformed(f"The body is not UTF-8: see byte {place}.") from error
        if errors := _explain(body):
            raise Invalid("The body has values that JSON does not.", errors=errors) from error
        raise Malformed(f"The body is no JSON: {error}.") from error


def _loads(body: bytes) -> Any:
    # Millions of small values would have Python look for garbage among them again and again, for
    # seconds, and there is none.
    gc.disable()
    try:
        return orjson.loads(body)
    finally:
        gc.enable()


def parse_line(line: bytes) -> tuple[Any, list[FieldError]]:
    """Return the JSON value of one line, and what is wrong with it."""
    try:
        return orjson.loads(line), []
    except orjson.JSONDecodeError as error:
        if (place := _not_utf8(line)) is not None:
            return None, [FieldError(pointer="", detail=f"is not UTF-8: see byte {place}")]
        return None, _explain(line) or [FieldError(pointer="", detail=f"is no JSON: {error}")]


def lines(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank, with its number, counted from 1."""
    for number, line in enumerate(BytesIO(body), 1):
        if line.strip():
            yield number, line


def _not_utf8(body: bytes) -> int | None:
    """Return the place of the first byte that is not UTF-8, counted from 0."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


def _explain(body: bytes) -> list[FieldError]:
    """Name the values that only a lenient parser takes; nothing if it is no JSON at all."""
    try:
        value = json.loads(body, parse_int=_integer)
    except (ValueError, RecursionError):
        return []
    found = islice(_impossible(value), MAX_ERRORS)
    return [FieldError.of(place, detail) for place, detail in found]


def _integer(digits: str) -> float | int:
    # Python refuses to read thousands of digits, and no double holds them: infinity stands for it.
    return int(digits) if len(digits) < 300 else float("inf")  # noqa: PLR2004


def _impossible(root: Any) -> Iterator[tuple[list[str | int], str]]:
    """Yield place and reason of each value that is not JSON, among the first of a large body."""
    for place, value in islice(_values(root), _MAX_EXPLAINED):
        if isinstance(value, float) and not float("-inf") < value < float("inf"):
            yield place, "must be a number that a 64-bit float can hold"
        elif isinstance(value, str) and not _encodable(value):
            yield place, "must not contain half of a surrogate pair"


def _values(root: Any) -> Iterator[tuple[list[str | int], Any]]:
    """Yield each value with its place, keys as well, in the body's order and without recursion."""
    waiting: list[Iterator[tuple[list[str | int], Any]]] = [iter([([], root)])]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
        else:
            yield found
            waiting.append(_inside(*found))


def _inside(place: list[str | int], value: Any) -> Iterator[tuple[list[str | int], Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield [*place, _shown(key)], key
            yield [*place, _shown(key)], each
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield [*place, index], each


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(key: str) -> str:
    return key.encode(errors="backslashreplace").decode()
