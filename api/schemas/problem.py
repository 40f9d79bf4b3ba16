"""Problem details, as the schema describes them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from pydantic import BaseModel, Field

MAX_ERRORS: Final = 100
"""Errors in one answer at most: a body of megabytes can have millions."""

_MAX_KEY: Final = 100
"""Characters of a key that an error repeats."""

_DETAILS: Final = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "string_too_long": "must not be longer than {max_length} characters",
    "too_short": "must have {min_length} items or more",
    "too_long": "must not have more than {max_length} items",
    "list_type": "must be an array",
    "int_type": "must be an integer",
    "bool_type": "must be true or false",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "uuid_type": "must be a UUID",
    "uuid_parsing": "must be a UUID",
    "value_error": "{error}",
}


class FieldError(BaseModel):
    """One wrong field."""

    pointer: str = Field(
        description="JSON pointer into the body; `/query/…`, `/path/…` or `/header/…` otherwise",
        examples=["/content"],
    )
    detail: str = Field(examples=["must not be empty"])

    @classmethod
    def found(
        cls, error: Mapping[str, Any], place: Sequence[str | int] = (), prefix: str = ""
    ) -> Self:
        """Return one of pydantic's errors in our words.

        Args:
            error: from `ValidationError.errors()`.
            place: where the validated value is in the body.
            prefix: what the detail starts with.
        """
        detail = _DETAILS.get(error["type"])
        shown = error["msg"] if detail is None else detail.format(**error.get("ctx", {}))
        return cls.of([*place, *error["loc"]], prefix + shown)

    @classmethod
    def of(cls, location: Sequence[str | int], detail: str) -> Self:
        """Return the error at a location, such as `("metadata", "key")`."""
        steps = (str(step)[:_MAX_KEY].replace("~", "~0").replace("/", "~1") for step in location)
        return cls(pointer="".join(f"/{step}" for step in steps), detail=detail)


class ProblemOut(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["The document has wrong fields."])
    instance: str = Field(examples=["/v1/documents"])
    request_id: str = Field(examples=["0198f3c27a3b7cc2a1f04d3f0c2f6b11"])
    errors: list[FieldError] | None = None
