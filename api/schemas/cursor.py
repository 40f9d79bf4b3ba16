"""Cursors of pages, as they come in."""

from typing import Annotated

from pydantic import AfterValidator

from shared.store.page import BadCursor, Cursor
from shared.store.search import RankedCursor


def _is_cursor(value: str) -> str:
    try:
        Cursor.decode(value)
    except BadCursor as error:
        raise ValueError(str(error)) from error
    return value


CursorIn = Annotated[str, AfterValidator(_is_cursor)]
"""A cursor that a page of ours has given."""


def _is_cursor_of_any_kind(value: str) -> str:
    try:
        RankedCursor.decode(value)
    except BadCursor:
        return _is_cursor(value)
    return value


AnyCursorIn = Annotated[str, AfterValidator(_is_cursor_of_any_kind)]
"""A cursor that a page of ours has given, be it sorted or ranked."""
