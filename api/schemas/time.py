"""Times, as they come in."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BeforeValidator

# pydantic would take seconds since the epoch as well, and dates; the schema says date-time.
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def _is_date_time(value: object) -> object:
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError("must be a time with its offset, such as 2026-11-21T10:15:00Z")
    return value


def _in_utc(value: datetime) -> datetime:
    """Return the time in UTC: PostgreSQL knows no offset of 16 hours, as RFC 3339 does."""
    try:
        return value.astimezone(UTC)
    except OverflowError:  # the first or the last day that there is
        return value.replace(tzinfo=UTC)


Time = Annotated[AwareDatetime, BeforeValidator(_is_date_time), AfterValidator(_in_utc)]
"""An RFC 3339 date-time with its offset, brought to UTC."""
