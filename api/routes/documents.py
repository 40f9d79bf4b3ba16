"""Documents: accept, read, delete."""

from http import HTTPStatus
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api import body
from api.batch import Batch, read_batch
from api.deps import Services, ServicesDep
from api.errors import Invalid
from api.intake import stamped
from api.openapi import problems, ref, request_body
from api.responses import json_response
from api.schemas.document import (
    AcceptedOut,
    BatchOut,
    DocumentIn,
    DocumentOut,
    PartialBatchOut,
)
from api.schemas.problem import FieldError
from api.settings import MAX_BATCH
from api.validation import validated
from shared.errors import DocumentNotFound
from shared.store import documents as store

router = APIRouter(prefix="/v1/documents", tags=["documents"])

_DOCUMENT: Final = request_body({body.JSON: ref(DocumentIn)})
_BATCH: Final = request_body(
    {
        body.JSON: {
            "type": "array",
            "items": ref(DocumentIn),
            "minItems": 1,
            "maxItems": MAX_BATCH,
        },
        body.NDJSON: {"type": "string", "description": "a document a line"},
    }
)
_ACCEPTED: Final[dict[int | str, dict[str, Any]]] = {
    202: {
        "model": AcceptedOut,
        "description": "Accepted: the document is safe, and will be stored.",
        "headers": {"Location": {"schema": {"type": "string"}, "description": "the document"}},
    }
}

_BATCH_ACCEPTED: Final[dict[int | str, dict[str, Any]]] = {
    202: {"model": BatchOut, "description": "All documents are accepted."},
    207: {"model": PartialBatchOut, "description": "With `atomic=false`: one entry each."},
}
_FOUND: Final[dict[int | str, dict[str, Any]]] = {
    200: {"headers": {"ETag": {"schema": {"type": "string"}, "description": "the revision"}}}
}


class BatchQuery(BaseModel):
    """How to take a batch."""

    model_config = ConfigDict(extra="forbid")

    atomic: bool = Field(True, description="refuse the whole batch if one document is wrong")


@router.post(
    "",
    operation_id="createDocument",
    status_code=HTTPStatus.ACCEPTED,
    response_model=None,
    openapi_extra=_DOCUMENT,
    responses=_ACCEPTED | problems(400, 413, 415, 422, 503),
)
async def create_document(request: Request, services: ServicesDep) -> Response:
    """Accept a document. Once answered, it is kept whatever fails."""
    document, size = await _read_document(request, services)
    return await _accept(request, services, document, size)


@router.post(
    "/batch",
    operation_id="createDocuments",
    status_code=HTTPStatus.ACCEPTED,
    response_model=None,
    openapi_extra=_BATCH,
    responses=_BATCH_ACCEPTED | problems(400, 413, 415, 422, 503),
)
async def create_documents(
    request: Request, services: ServicesDep, query: Annotated[BatchQuery, Query()]
) -> Response:
    """Accept up to 1,000 documents as one message: all of them or, by default, none."""
    items, size = await read_batch(request)
    batch = Batch(items, services, request.state.request_id)
    if batch.errors and query.atomic:
        raise Invalid(
            "Nothing was accepted: documents of the batch are wrong.", errors=batch.errors
        )
    task_id = None
    if batch.accepted:
        task_id = (await services.intake.accept_batch(batch.accepted, size)).task_id
    if query.atomic:
        return json_response(HTTPStatus.ACCEPTED, batch.accepted_out(task_id))
    return json_response(HTTPStatus.MULTI_STATUS, batch.partial_out(task_id))


@router.put(
    "/{document_id}",
    operation_id="replaceDocument",
    status_code=HTTPStatus.ACCEPTED,
    response_model=None,
    openapi_extra=_DOCUMENT,
    responses=_ACCEPTED | problems(400, 413, 415, 422, 503),
)
async def replace_document(request: Request, services: ServicesDep, document_id: UUID) -> Response:
    """Accept a document under an id of yours, in place of what is stored there."""
    document, size = await _read_document(request, services)
    if document.id not in {None, document_id}:
        error = FieldError.of(["id"], "must be the id in the path, or be left out")
        raise Invalid("The document has wrong fields.", errors=[error])
    document.id = document_id
    return await _accept(request, services, document, size)


@router.get(
    "/{document_id}",
    operation_id="getDocument",
    response_model=DocumentOut,
    responses=_FOUND | problems(404, 422, 503),
)
async def get_document(services: ServicesDep, document_id: UUID) -> Response:
    """Return a stored document."""
    row = await services.database.run(lambda session: store.get(session, document_id))
    if row is None:
        raise DocumentNotFound
    services.clock.observe(row.revision)
    document = DocumentOut.of(row).model_dump()
    return json_response(HTTPStatus.OK, document, {"ETag": f'"{row.revision}"'})


@router.delete(
    "/{document_id}",
    operation_id="deleteDocument",
    status_code=HTTPStatus.NO_CONTENT,
    responses=problems(422, 503),
)
async def delete_document(services: ServicesDep, document_id: UUID) -> Response:
    """Delete a document, stored or still on its way. Doing it again changes nothing."""
    now = services.clock.stamp()
    revision = await services.database.run(lambda session: store.delete(session, document_id, now))
    services.clock.observe(revision)
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def _read_document(request: Request, services: Services) -> tuple[DocumentIn, int]:
    """Return the document of a request, and the size of its body in bytes."""
    if request.query_params:
        errors = [FieldError.of(["query", key], "is not known") for key in request.query_params]
        raise Invalid("The request has wrong parameters.", errors=errors)
    body.media_type(request, (body.JSON,))
    raw = await body.read(request)
    document = validated(body.parse(raw), services.settings.max_content_bytes)
    if isinstance(document, DocumentIn):
        return document, len(raw)
    raise Invalid("The document has wrong fields.", errors=document)


async def _accept(
    request: Request, services: Services, document: DocumentIn, size: int
) -> Response:
    message = stamped(document, services.clock, request.state.request_id)
    envelope = await services.intake.accept(message, size)
    accepted = {
        "id": message["id"],
        "revision": message["stamp"],
        "task_id": envelope.task_id,
        "status": "accepted",
        "accepted_at": message["accepted_at"],
    }
    path = f"{request.scope.get('root_path', '')}{router.prefix}/{message['id']}"
    return json_response(HTTPStatus.ACCEPTED, accepted, {"Location": path})
