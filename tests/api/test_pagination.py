"""Cursors and links."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from fastapi import Request
from pydantic import ValidationError

from api.errors import Invalid
from api.pagination import DEFAULT_LIMIT, MAX_LIMIT, PageQuery, link_header
from shared.store.page import BadCursor, Cursor

PLACE = Cursor(datetime(2026, 11, 21, 13, 0, 0, 123456, UTC), UUID(int=4711))


def test_defaults() -> None:
    query = PageQuery.model_validate({})
    assert (query.limit, query.after) == (DEFAULT_LIMIT, None)


@pytest.mark.parametrize("limit", [1, MAX_LIMIT])
def test_limits(limit: int) -> None:
    assert PageQuery.model_validate({"limit": str(limit)}).limit == limit


@pytest.mark.parametrize("wrong", [{"limit": "0"}, {"limit": "251"}, {"limit": ""}, {"page": "2"}])
def test_other_parameters_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        PageQuery.model_validate(wrong)


@pytest.mark.parametrize(
    "place",
    [
        PLACE,
        Cursor(datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0)),
        Cursor(datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1)),
        Cursor(datetime.now(UTC) + timedelta(microseconds=1), uuid4()),
    ],
)
def test_a_cursor_comes_back_exactly(place: Cursor) -> None:
    assert PageQuery.model_validate({"cursor": place.encode()}).after == place
    assert place.encode().replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("cursor", ["", "x", "ä", PLACE.encode()[:-4], PLACE.encode() + "AAAA"])
def test_a_cursor_that_is_none_is_refused(cursor: str) -> None:
    with pytest.raises(ValidationError, match="is not a cursor of this list"):
        PageQuery.model_validate({"cursor": cursor})


def test_a_cursor_of_a_list_with_a_scope_is_refused_by_those_without() -> None:
    numbers = Cursor(0.25, UUID(int=4711), b"12345678")
    assert Cursor.decode(numbers.encode()) == numbers
    for other in (numbers, Cursor(PLACE.key, PLACE.id, b"12345678")):
        with pytest.raises(Invalid):
            _ = PageQuery.model_validate({"cursor": other.encode()}).after
    with pytest.raises(BadCursor):
        Cursor.decode(Cursor(0.25, UUID(int=4711)).encode())


def test_the_link_keeps_the_filters() -> None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/documents",
        "query_string": b"source=a%26b&cursor=old&limit=5",
        "headers": [(b"host", b"post.example")],
    }
    link = link_header(Request(scope), "new")["Link"]
    assert link == '</v1/documents?source=a%26b&limit=5&cursor=new>; rel="next"'


def test_the_last_page_has_no_link() -> None:
    assert link_header(Request({"type": "http"}), None) == {}
