"""From a JSON value to what a request means, or to what is wrong with it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from api.schemas.document import DocumentIn
from api.schemas.problem import FieldError

ModelT = TypeVar("ModelT", bound=BaseModel)

_MAX_FIELDS: Final = 20
"""Fields of an object that are looked at: no model has so many."""


def validated(
    value: object, max_content_bytes: int, place: Sequence[str | int] = (), line: str = ""
) -> DocumentIn | list[FieldError]:
    """Return the document that a JSON value is, or what is wrong with it."""
    return parsed(DocumentIn, value, place, line, {"max_content_bytes": max_content_bytes})


def parsed(
    model: type[ModelT],
    value: object,
    place: Sequence[str | int] = (),
    line: str = "",
    context: Mapping[str, Any] | None = None,
) -> ModelT | list[FieldError]:
    """Return the model that a JSON value is, or what is wrong with it.

    Args:
        model: the model.
        value: from JSON.
        place: where the value is in the body.
        line: what each error starts with.
        context: for the model's validators.
    """
    if isinstance(value, dict) and len(value) > _MAX_FIELDS:
        # pydantic would name each of them, and a body has room for half a million.
        detail = f"{line}must not have more than {_MAX_FIELDS} fields"
        return [FieldError.of(place, detail)]
    try:
        return model.model_validate(value, context=dict(context or {}))
    except ValidationError as error:
        return [
            FieldError.found(each, place, line)
            for each in error.errors(include_input=False, include_url=False)
        ]
