"""Lists of documents, page by page, and counts of what they hold."""

from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field

from api.auth import Reader
from api.deps import Services, ServicesDep
from api.errors import Invalid
from api.openapi import problems
from api.pagination import ONCE, PageQuery, link_header, place
from api.responses import json_response
from api.schemas.cursor import AnyCursorIn
from api.schemas.document import DocumentOut
from api.schemas.listing import (
    METADATA_PARAMETER,
    DocumentPageOut,
    FacetsOut,
    FilterQuery,
    SortedQuery,
)
from api.schemas.problem import FieldError
from api.schemas.search import SearchPageOut, Words
from shared.store import listings as store
from shared.store import search as searches

router = APIRouter(prefix="/v1/documents", tags=["documents"])

_PAGE_BYTES: Final = 8 << 20
_FIELD: Final = "(category|source|status)"


class DocumentQuery(PageQuery, SortedQuery):
    """Which documents to list."""

    model_config = ConfigDict(extra="allow")

    cursor: AnyCursorIn | None = Field(None, description="`next_cursor` of the page before")
    q: Words | None = Field(
        None,
        description='words to search for, `"a phrase"`, `or`, `-without`; the documents that fit'
        " best come first. Texts that were stored only just are found a little later.",
        examples=["shuttle launch -weather"],
    )


class FacetQuery(FilterQuery):
    """Which documents to count, and by what."""

    by: str = Field(
        "category,source,status",
        pattern=f"^{_FIELD}(,{_FIELD}){{0,2}}$",
        description="fields, separated by commas",
    )
    limit: int = Field(100, ge=1, le=1_000, description="values of a field at most")


@router.get(
    "",
    operation_id="listDocuments",
    dependencies=[ONCE],
    response_model=SearchPageOut | DocumentPageOut,
    openapi_extra={"parameters": [METADATA_PARAMETER]},
    responses=problems(422, 503),
)
async def list_documents(
    request: Request, services: ServicesDep, _: Reader, query: Annotated[DocumentQuery, Query()]
) -> Response:
    """List stored documents, newest first unless `sort` says otherwise, or search in them by `q`.

    A page of very large ones is shorter than `limit`.
    """
    if query.q is not None:
        return await _search(request, services, query, query.q)
    listing = query.listing()
    after = place(listing, query.cursor, ["query", "cursor"])
    rows, has_more = await services.database.run(
        lambda session: store.page(session, listing, after, query.limit, _PAGE_BYTES)
    )
    for row in rows:
        services.clock.observe(row.revision)
    next_cursor = listing.cursor(rows[-1]).encode() if has_more else None
    page = {
        "data": [DocumentOut.of(row).model_dump() for row in rows],
        "next_cursor": next_cursor,
        "has_more": has_more,
    }
    return json_response(HTTPStatus.OK, page, link_header(request, next_cursor))


async def _search(request: Request, services: Services, query: DocumentQuery, q: str) -> Response:
    if "sort" in query.model_fields_set:
        raise _wrong("sort", "cannot be combined with `q`: what fits best comes first")
    search = searches.Search(q, query.where())
    after = place(search, query.cursor, ["query", "cursor"])
    try:
        found = await services.database.run(
            lambda session: searches.page(session, search, after, query.limit, _PAGE_BYTES)
        )
    except searches.NothingToSearch as error:
        reason = "must have a word to search for, not only such as `the`, or ones to leave out"
        raise _wrong("q", reason) from error
    for each in found.found:
        services.clock.observe(each.document.revision)
    page = SearchPageOut.of(found)
    headers = link_header(request, page.next_cursor)
    return json_response(HTTPStatus.OK, page.model_dump(), headers)


def _wrong(parameter: str, reason: str) -> Invalid:
    errors = [FieldError.of(["query", parameter], reason)]
    return Invalid("The request has wrong parameters.", errors=errors)


@router.get(
    "/facets",
    operation_id="countDocuments",
    dependencies=[ONCE],
    openapi_extra={"parameters": [METADATA_PARAMETER]},
    responses=problems(422, 503),
)
async def count_documents(
    services: ServicesDep, _: Reader, query: Annotated[FacetQuery, Query()]
) -> FacetsOut:
    """Count stored documents by their values: exactly without a filter, or if few enough fit."""
    where, fields = query.where(), query.by.split(",")
    found = await services.database.run(lambda session: store.facets(session, where, fields))
    return FacetsOut.of(found, query.limit)
