"""Keyset pages: a cursor is the place of the last row of the page before, made opaque."""

import math
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self
from uuid import UUID

from shared.revision import EPOCH

_MICROSECOND: Final = timedelta(microseconds=1)
_SCOPE_BYTES: Final = 8
_TIME: Final = struct.Struct(f">c{_SCOPE_BYTES}sQ16s")
_NUMBER: Final = struct.Struct(f">c{_SCOPE_BYTES}sd16s")

NO_SCOPE: Final = bytes(_SCOPE_BYTES)
"""The scope of cursors that fit whatever the filter is. They are of lists sorted by time."""


class BadCursor(ValueError):
    """A cursor that no page of ours has given, or one of another list."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a sorted list.

    Attributes:
        key: what the list is sorted by first: a time, or a number.
        id: what it is sorted by where those are equal.
        scope: which list it is, 8 bytes: a cursor means nothing in any other.
    """

    key: datetime | float
    id: UUID
    scope: bytes = NO_SCOPE

    def encode(self) -> str:
        """Return the cursor as text for a URL."""
        if isinstance(self.key, datetime):
            microseconds = (self.key - EPOCH) // _MICROSECOND
            place = _TIME.pack(b"t", self.scope, microseconds, self.id.bytes)
        else:
            place = _NUMBER.pack(b"n", self.scope, self.key, self.id.bytes)
        return urlsafe_b64encode(place).decode()

    @classmethod
    def decode(cls, value: str) -> Self:
        """Return the cursor that `encode` made into `value`.

        Raises:
            BadCursor: it made no such thing.
        """
        try:
            place = urlsafe_b64decode(value.encode("ascii"))
            key: datetime | float
            if place.startswith(b"t"):
                _, scope, microseconds, row = _TIME.unpack(place)
                key = EPOCH + microseconds * _MICROSECOND
            else:
                _, scope, key, row = _NUMBER.unpack(place)
        except (ValueError, OverflowError, struct.error) as error:
            raise BadCursor("is not a cursor of this list") from error
        if isinstance(key, float) and not (
            place.startswith(b"n") and math.isfinite(key) and scope != NO_SCOPE
        ):
            raise BadCursor("is not a cursor of this list")
        return cls(key, UUID(bytes=row), scope)

    def check(self, scope: bytes) -> None:
        """See that the cursor is one of that list.

        Raises:
            BadCursor: it is not.
        """
        if self.scope != scope:
            raise BadCursor("belongs to a list with other filters, or sorted otherwise")
