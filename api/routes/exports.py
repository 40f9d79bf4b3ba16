"""Exports of documents: all of a list, as a stream."""

from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.auth import Reader
from api.deps import ServicesDep
from api.exports import Csv, ExportResponse, Ndjson, takes_gzip
from api.openapi import problems
from api.pagination import ONCE
from api.schemas.document import DocumentOut
from api.schemas.listing import METADATA_PARAMETER, SortedQuery

router = APIRouter(prefix="/v1/documents", tags=["documents"])

_TYPES: Final = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8; header=present",
}
_STREAMS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The documents. If the connection ends before the last chunk, some miss.",
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string", "description": "a `DocumentOut` a line"},
            },
            "text/csv": {
                "schema": {"type": "string", "description": "the fields of `DocumentOut`"},
                "example": ",".join(DocumentOut.model_fields),
            },
        },
    }
}


class ExportQuery(SortedQuery):
    """Which documents to export, and how."""

    format: Literal["ndjson", "csv"] = "ndjson"
    spreadsheet: bool = Field(
        False,
        description="of CSV: put an apostrophe before texts that a spreadsheet would compute",
    )


@router.get(
    "/export",
    operation_id="exportDocuments",
    dependencies=[ONCE],
    response_class=Response,
    openapi_extra={"parameters": [METADATA_PARAMETER]},
    responses=_STREAMS | problems(422, 503),
)
async def export_documents(
    request: Request, services: ServicesDep, _: Reader, query: Annotated[ExportQuery, Query()]
) -> Response:
    """Stream all documents of a list as they are now, whatever is written meanwhile.

    Packed with gzip if the client takes it. A few exports run at once; others get 503.
    """
    gzip = takes_gzip(request.headers.get("Accept-Encoding", ""))
    headers = {
        "Content-Type": _TYPES[query.format],
        "Content-Disposition": f'attachment; filename="documents.{query.format}"',
        "Vary": "Accept-Encoding",
        "Cache-Control": "no-store",
    }
    if gzip:
        headers["Content-Encoding"] = "gzip"
    if getattr(request.state, "head", False):
        return Response(status_code=HTTPStatus.OK, headers=headers)
    form = Csv(spreadsheet=query.spreadsheet) if query.format == "csv" else Ndjson()
    export = await services.exports.open(query.listing(), form, gzip=gzip)
    return ExportResponse(export, headers)
