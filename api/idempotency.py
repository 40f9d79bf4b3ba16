"""The `Idempotency-Key` header: the same request twice is done once."""

from typing import Final

from fastapi import Request

from api.errors import Invalid
from api.schemas.problem import FieldError

HEADER: Final = "Idempotency-Key"
_MAX_LENGTH: Final = 255


def idempotency_key(request: Request) -> str | None:
    """Return the request's key, None without one.

    Quotes around it, as a draft of the standard has them, are not part of it.

    Raises:
        Invalid: it is empty, too long, there are two, or it has odd characters.
    """
    values = request.headers.getlist(HEADER)
    if not values:
        return None
    key = values[0].strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(values) == 1 and 0 < len(key) <= _MAX_LENGTH and key.isascii() and key.isprintable():
        return key
    detail = f"must come once and be 1 to {_MAX_LENGTH} printable ASCII characters"
    error = FieldError.of(["header", HEADER], detail)
    raise Invalid("A header of the request is wrong.", errors=[error])
