"""Lists of documents, page by page, and counts of what they hold."""

from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field

from api.deps import ServicesDep
from api.openapi import problems
from api.pagination import ONCE, PageQuery, link_header, place
from api.responses import json_response
from api.schemas.document import DocumentOut
from api.schemas.listing import (
    METADATA_PARAMETER,
    DocumentPageOut,
    FacetsOut,
    FilterQuery,
    SortedQuery,
)
from shared.store import listings as store

router = APIRouter(prefix="/v1/documents", tags=["documents"])

_PAGE_BYTES: Final = 8 << 20
_FIELD: Final = "(category|source|status)"


class DocumentQuery(PageQuery, SortedQuery):
    """Which documents to list."""

    model_config = ConfigDict(extra="allow")


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
    response_model=DocumentPageOut,
    openapi_extra={"parameters": [METADATA_PARAMETER]},
    responses=problems(422, 503),
)
async def list_documents(
    request: Request, services: ServicesDep, query: Annotated[DocumentQuery, Query()]
) -> Response:
    """List stored documents, newest first unless `sort` says otherwise.

    A page of very large ones is shorter than `limit`.
    """
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


@router.get(
    "/facets",
    operation_id="countDocuments",
    dependencies=[ONCE],
    openapi_extra={"parameters": [METADATA_PARAMETER]},
    responses=problems(422, 503),
)
async def count_documents(
    services: ServicesDep, query: Annotated[FacetQuery, Query()]
) -> FacetsOut:
    """Count stored documents by their values: exactly without a filter, or if few enough fit."""
    where, fields = query.where(), query.by.split(",")
    found = await services.database.run(lambda session: store.facets(session, where, fields))
    return FacetsOut.of(found, query.limit)
