"""Cursors of pages, as they come in."""

from typing import Annotated

from pydantic import AfterValidator

from shared.store.page import BadCursor, Cursor


def _is_cursor(value: str) -> str:
    try:
        Cursor.decode(value)
    except BadCursor as error:
        raise ValueError(str(error)) from error
    return value


CursorIn = Annotated[str, AfterValidator(_is_cursor)]
"""A cursor that a page of ours has given."""
