"""What lists of documents are asked for, and how they answer."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from api.schemas.document import (
    MAX_KEY_LENGTH,
    MAX_METADATA_DEPTH,
    DocumentOut,
    Key,
    Status,
    no_nul,
)
from api.schemas.time import Time
from shared.store.listings import Facets, Filter, Listing, Sort, steps

MAX_METADATA_FILTERS: Final = 10

_PREFIX: Final = "metadata."


def _metadata_key(name: str) -> str:
    """Return where in metadata to look; any other parameter is one that we do not know."""
    if not name.startswith(_PREFIX):
        raise PydanticCustomError("extra_forbidden", "is not a known field")
    key = no_nul(name.removeprefix(_PREFIX))
    if len(key) > MAX_KEY_LENGTH:
        raise ValueError(f"must not be longer than {MAX_KEY_LENGTH} characters")
    if len(steps(key)) > MAX_METADATA_DEPTH:
        raise ValueError(f"must not lead deeper than {MAX_METADATA_DEPTH} levels")
    return key


_MetadataKey = Annotated[str, AfterValidator(_metadata_key)]
_MetadataValue = Annotated[
    str, StringConstraints(max_length=MAX_KEY_LENGTH), AfterValidator(no_nul)
]


class FilterQuery(BaseModel):
    """Which documents: those for which all of it is true.

    `metadata.KEY=value` may come for several keys; a dot leads into an object.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[_MetadataKey, _MetadataValue]

    category: Key | None = Field(None, description="the effective category", examples=["sci.space"])
    source: Key | None = Field(None, examples=["forum"])
    external_id: Key | None = Field(None, examples=["post-4711"])
    status: Status | None = None
    label: Key | None = Field(None, description="the label that a person gave")
    category_source: Literal["model", "human"] | None = Field(
        None, description="`human`: with a label; `model`: without"
    )
    model_version: Key | None = Field(None, description="the model that classified them last")
    confidence_below: float | None = Field(
        None, ge=0, le=1, description="sorted by a model that was less sure than this"
    )
    created_after: Time | None = Field(
        None, description="stored then or later", examples=["2026-11-21T00:00:00Z"]
    )
    created_before: Time | None = Field(
        None, description="stored earlier than then", examples=["2026-11-22T00:00:00Z"]
    )

    @model_validator(mode="after")
    def _few(self) -> Self:
        if len(self.__pydantic_extra__) > MAX_METADATA_FILTERS:
            raise ValueError(f"has more than {MAX_METADATA_FILTERS} filters of metadata")
        return self

    def where(self) -> Filter:
        """Return the filter for the store."""
        values = {name: getattr(self, name) for name in FilterQuery.model_fields}
        return Filter(**values, metadata=tuple(sorted(self.__pydantic_extra__.items())))


class SortedQuery(FilterQuery):
    """Which documents, in which order."""

    sort: Sort = Field(
        Sort.NEWEST,
        description="`-` is descending; by `confidence` only those that a model has sorted",
    )

    def listing(self) -> Listing:
        """Return the list for the store."""
        return Listing(self.where(), self.sort)


METADATA_PARAMETER: Final[dict[str, Any]] = {
    "name": "metadata",
    "in": "query",
    "required": False,
    "description": "any number of `metadata.KEY=value`: text, a number, `true`, `false` or `null`;"
    " a dot in KEY leads into an object, `\\.` is a dot. A list has each value that is in it.",
    "style": "form",
    "explode": True,
    "schema": {
        "type": "object",
        "propertyNames": {"pattern": r"^metadata\.", "maxLength": MAX_KEY_LENGTH},
        "additionalProperties": {"type": "string", "maxLength": MAX_KEY_LENGTH},
        "maxProperties": MAX_METADATA_FILTERS,
        "examples": [{"metadata.author": "mira"}],
    },
}
"""How OpenAPI says it, for which our own name of the parameter does not count."""


class DocumentPageOut(BaseModel):
    """A page of documents."""

    data: Sequence[DocumentOut]
    next_cursor: str | None = Field(description="pass it as `cursor` to get the next page")
    has_more: bool


class ValueOut(BaseModel):
    """How many documents have a value."""

    value: str = Field(examples=["sci.space"])
    documents: int = Field(examples=[593])


class FacetOut(BaseModel):
    """How many documents have each value of a field; those without a value are not counted."""

    field: str = Field(examples=["category"])
    values: Sequence[ValueOut] = Field(description="the most frequent first")
    has_more: bool = Field(description="whether there are more values than `limit`")


class FacetsOut(BaseModel):
    """How many documents there are, and how many with each value."""

    documents: int = Field(examples=[593])
    exact: bool = Field(
        description="false: so many documents fit that only the newest were counted;"
        " each number is at least that"
    )
    facets: Sequence[FacetOut]

    @classmethod
    def of(cls, found: Facets, limit: int) -> Self:
        """Return what the store found, `limit` values of each field at most."""
        facets = [_facet(name, values, limit) for name, values in found.values.items()]
        return cls(documents=found.documents, exact=found.exact, facets=facets)


def _facet(field: str, values: dict[str, int], limit: int) -> FacetOut:
    most = [ValueOut(value=each, documents=n) for each, n in list(values.items())[:limit]]
    return FacetOut(field=field, values=most, has_more=len(values) > limit)
