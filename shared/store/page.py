"""Keyset pages: a cursor is the place of the last row of the page before, made opaque."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self
from uuid import UUID

from shared.revision import EPOCH

_MICROSECOND: Final = timedelta(microseconds=1)


class BadCursor(ValueError):
    """A cursor that no page of ours has given."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place in a list that is sorted by time of creation, then id, both newest first."""

    created_at: datetime
    id: UUID

    def encode(self) -> str:
        """Return the cursor as text for a URL."""
        microseconds = (self.created_at - EPOCH) // _MICROSECOND
        place = microseconds.to_bytes(8, "big") + self.id.bytes
        return urlsafe_b64encode(place).decode()

    @classmethod
    def decode(cls, value: str) -> Self:
        """Return the cursor that `encode` made into `value`.

        Raises:
            BadCursor: it made no such thing.
        """
        try:
            place = urlsafe_b64decode(value.encode("ascii"))
            created_at = EPOCH + int.from_bytes(place[:8], "big") * _MICROSECOND
            return cls(created_at, UUID(bytes=place[8:]))
        except (ValueError, OverflowError) as error:
            raise BadCursor("is not a cursor of this list") from error
