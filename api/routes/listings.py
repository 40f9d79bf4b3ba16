"""Lists of documents."""

from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.deps import ServicesDep
from api.openapi import problems
from api.pagination import PageQuery, link_header
from api.responses import json_response
from api.schemas.document import DocumentOut, DocumentPageOut, Key, Status
from shared.store import listings as store
from shared.store.page import Cursor

router = APIRouter(prefix="/v1/documents", tags=["documents"])

_PAGE_BYTES: Final = 8 << 20


class DocumentQuery(PageQuery):
    """Which documents to list."""

    category: Key | None = Field(None, description="the effective category")
    source: Key | None = None
    external_id: Key | None = None
    status: Status | None = None


@router.get(
    "",
    operation_id="listDocuments",
    response_model=DocumentPageOut,
    responses=problems(422, 503),
)
async def list_documents(
    request: Request, services: ServicesDep, query: Annotated[DocumentQuery, Query()]
) -> Response:
    """List stored documents, newest first. A page of very large ones is shorter than `limit`."""
    where = store.Filter(query.category, query.source, query.external_id, query.status)
    rows, has_more = await services.database.run(
        lambda session: store.page(session, where, query.after, query.limit, _PAGE_BYTES)
    )
    for row in rows:
        services.clock.observe(row.revision)
    next_cursor = Cursor(rows[-1].created_at, rows[-1].id).encode() if has_more else None
    page = {
        "data": [DocumentOut.of(row).model_dump() for row in rows],
        "next_cursor": next_cursor,
        "has_more": has_more,
    }
    return json_response(HTTPStatus.OK, page, link_header(request, next_cursor))
