"""From a JSON value to a document, or to what is wrong with it."""

from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from api.schemas.document import DocumentIn
from api.schemas.problem import FieldError

_MAX_FIELDS: Final = 20
"""Fields of a document that are looked at: there are six."""


def validated(
    value: object, max_content_bytes: int, place: Sequence[str | int] = (), line: str = ""
) -> DocumentIn | list[FieldError]:
    """Return the document that a JSON value is, or what is wrong with it."""
    if isinstance(value, dict) and len(value) > _MAX_FIELDS:
        # pydantic would name each of them, and a body has room for half a million.
        detail = f"{line}must not have more than {_MAX_FIELDS} fields"
        return [FieldError.of(place, detail)]
    try:
        context = {"max_content_bytes": max_content_bytes}
        return DocumentIn.model_validate(value, context=context)
    except ValidationError as error:
        return [
            FieldError.found(each, place, line)
            for each in error.errors(include_input=False, include_url=False)
        ]
