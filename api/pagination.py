"""Keyset pages: `limit` and `cursor` in, `next_cursor` and a `Link` header out."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from api.errors import Invalid
from api.schemas.cursor import CursorIn
from api.schemas.problem import FieldError
from shared.store.page import NO_SCOPE, BadCursor, Cursor

PlaceT_co = TypeVar("PlaceT_co", covariant=True)

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 250


class PageQuery(BaseModel):
    """The parameters of every list. Subclass it to add filters."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="rows of a page at most")
    cursor: CursorIn | None = Field(None, description="`next_cursor` of the page before")

    @property
    def after(self) -> Cursor | None:
        """The place after which the page starts, in a list without a scope.

        Raises:
            Invalid: the cursor is of a list with one.
        """
        return place(_WithoutScope(), self.cursor, ["query", "cursor"])


class Paged(Protocol[PlaceT_co]):
    """A list with cursors of its own."""

    def after(self, cursor: str | None) -> PlaceT_co | None:
        """Return the place that a cursor of this list means; raises `BadCursor`."""


class _WithoutScope:
    """A list whose cursors fit whatever its filter is."""

    def after(self, cursor: str | None) -> Cursor | None:
        if cursor is None:
            return None
        found = Cursor.decode(cursor)
        found.check(NO_SCOPE)
        return found


def place(
    listing: Paged[PlaceT_co], cursor: str | None, location: Sequence[str]
) -> PlaceT_co | None:
    """Return the place in a list that a cursor means.

    Args:
        listing: which list.
        cursor: as the client sent it.
        location: where the client sent it, such as `["query", "cursor"]`.

    Raises:
        Invalid: the cursor is of another list.
    """
    try:
        return listing.after(cursor)
    except BadCursor as error:
        errors = [FieldError.of(location, str(error))]
        raise Invalid("The request has a wrong cursor.", errors=errors) from error


async def _once(request: Request) -> None:
    given = Counter(name for name, _ in request.query_params.multi_items())
    repeated = [name for name, times in given.items() if times > 1]
    if repeated:
        errors = [FieldError.of(["query", name], "is given more than once") for name in repeated]
        raise Invalid("The request has wrong parameters.", errors=errors)


ONCE: Final = Depends(_once)
"""Has a route refuse parameters that are repeated; all but the last would go unheard."""


def link_header(request: Request, next_cursor: str | None) -> dict[str, str]:
    """Return the `Link` header that leads to the next page, if there is one."""
    if next_cursor is None:
        return {}
    url = request.url.include_query_params(cursor=next_cursor)
    return {"Link": f'<{url.path}?{url.query}>; rel="next"'}
