"""Keyset pages: `limit` and `cursor` in, `next_cursor` and a `Link` header out."""

from typing import Final

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from api.schemas.cursor import CursorIn
from shared.store.page import Cursor

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 250


class PageQuery(BaseModel):
    """The parameters of every list. Subclass it to add filters."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="rows of a page at most")
    cursor: CursorIn | None = Field(None, description="`next_cursor` of the page before")

    @property
    def after(self) -> Cursor | None:
        """The place after which the page starts."""
        return None if self.cursor is None else Cursor.decode(self.cursor)


def link_header(request: Request, next_cursor: str | None) -> dict[str, str]:
    """Return the `Link` header that leads to the next page, if there is one."""
    if next_cursor is None:
        return {}
    url = request.url.include_query_params(cursor=next_cursor)
    return {"Link": f'<{url.path}?{url.query}>; rel="next"'}
