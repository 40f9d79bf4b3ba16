"""Problem details, as the schema describes them."""

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, Field


class FieldError(BaseModel):
    """One wrong field."""

    pointer: str = Field(
        description="JSON pointer into the body; `/query/…`, `/path/…` or `/header/…` otherwise",
        examples=["/content"],
    )
    detail: str = Field(examples=["must not be empty"])

    @classmethod
    def of(cls, location: Sequence[str | int], detail: str) -> Self:
        """Return the error at a location, such as `("metadata", "key")`."""
        steps = (str(step).replace("~", "~0").replace("/", "~1") for step in location)
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
