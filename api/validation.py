"""From a JSON value to what a request means, or to what is wrong with it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from api.errors import Invalid
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


def required(
    model: type[ModelT], value: object, context: Mapping[str, Any] | None = None
) -> ModelT:
    """Return the model that a whole body is; `context` is for the model's validators.

    Raises:
        Invalid: it is none; `errors` names each wrong field.
    """
    found = parsed(model, value, context=context)
    if isinstance(found, list):
        raise Invalid("The request has wrong fields.", errors=found)
    return found


def refuse_parameters(request: Request) -> None:
    """Refuse parameters where a route has none.

    Raises:
        Invalid: there are some; `errors` names each.
    """
    if request.query_params:
        errors = [FieldError.of(["query", key], "is not known") for key in request.query_params]
        raise Invalid("The request has wrong parameters.", errors=errors)


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
