"""Documents: accept, read, list, delete."""

from collections.abc import Sequence
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api import body
from api.deps import Services, ServicesDep
from api.errors import Invalid
from api.intake import stamped
from api.openapi import problems, ref, request_body
from api.pagination import PageQuery, link_header
from api.schemas.document import (
    AcceptedOut,
    BatchOut,
    DocumentIn,
    DocumentOut,
    DocumentPageOut,
    Key,
    PartialBatchOut,
    Status,
)
from api.schemas.problem import FieldError
from api.settings import MAX_BATCH
from shared.errors import DocumentNotFound
from shared.messages import Document
from shared.store import documents as store
from shared.store.page import Cursor

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

_MAX_FIELDS: Final = 20
"""Fields of a document that are looked at: there are six."""

_PAGE_BYTES: Final = 8 << 20


class BatchQuery(BaseModel):
    """How to take a batch."""

    model_config = ConfigDict(extra="forbid")

    atomic: bool = Field(True, description="refuse the whole batch if one document is wrong")


class DocumentQuery(PageQuery):
    """Which documents to list."""

    category: Key | None = Field(None, description="the effective category")
    source: Key | None = None
    external_id: Key | None = None
    status: Status | None = None


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
    items, size = await _read_batch(request)
    batch = _Batch(items, services, request.state.request_id)
    if batch.errors and query.atomic:
        raise Invalid(
            "Nothing was accepted: documents of the batch are wrong.", errors=batch.errors
        )
    task_id = None
    if batch.accepted:
        task_id = (await services.intake.accept_batch(batch.accepted, size)).task_id
    if query.atomic:
        return _json(HTTPStatus.ACCEPTED, batch.accepted_out(task_id))
    return _json(HTTPStatus.MULTI_STATUS, batch.partial_out(task_id))


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
    return _json(HTTPStatus.OK, document, {"ETag": f'"{row.revision}"'})


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
    return _json(HTTPStatus.OK, page, link_header(request, next_cursor))


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
    document = _validated(body.parse(raw), services)
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
    return _json(HTTPStatus.ACCEPTED, accepted, {"Location": path})


def _validated(
    value: object, services: Services, place: Sequence[str | int] = (), line: str = ""
) -> DocumentIn | list[FieldError]:
    """Return the document that a JSON value is, or what is wrong with it."""
    if isinstance(value, dict) and len(value) > _MAX_FIELDS:
        # pydantic would name each of them, and a body has room for half a million.
        detail = f"{line}must not have more than {_MAX_FIELDS} fields"
        return [FieldError.of(place, detail)]
    try:
        context = {"max_content_bytes": services.settings.max_content_bytes}
        return DocumentIn.model_validate(value, context=context)
    except ValidationError as error:
        return [
            FieldError.found(each, place, line)
            for each in error.errors(include_input=False, include_url=False)
        ]


_Item = tuple[Any, list[FieldError], str]
"""A document of a batch: its JSON value, what is wrong with that, and "line 3: " or ""."""


async def _read_batch(request: Request) -> tuple[list[_Item], int]:
    kind = body.media_type(request, (body.JSON, body.NDJSON))
    raw = await body.read(request)
    if kind == body.NDJSON:
        lines = list(islice(body.lines(raw), MAX_BATCH + 1))
        _check_count(lines)
        items = [(*body.parse_line(line), f"line {number}: ") for number, line in lines]
    else:
        values = body.parse(raw)
        if not isinstance(values, list):
            error = FieldError.of([], "must be an array of documents")
            raise Invalid("The batch is no array.", errors=[error])
        _check_count(values)
        items = [(value, [], "") for value in values]
    return items, len(raw)


def _check_count(items: Sequence[object]) -> None:
    # Before anything is done with each: a body has room for millions.
    if not 1 <= len(items) <= MAX_BATCH:
        error = FieldError.of([], f"must have 1 to {MAX_BATCH} documents")
        raise Invalid("The batch has too many or too few documents.", errors=[error])


class _Batch:
    """The documents of a batch: those that are fine, stamped, and what is wrong with the others."""

    def __init__(self, items: Sequence[_Item], services: Services, request_id: str) -> None:
        self._entries: list[Document | list[FieldError]] = []
        first: dict[str, int] = {}
        for index, (value, wrong, line) in enumerate(items):
            entry: Document | list[FieldError]
            document = _at(wrong, index, line) or _validated(value, services, [index], line)
            if isinstance(document, DocumentIn):
                entry = stamped(document, services.clock, request_id)
                if (other := first.setdefault(entry["id"], index)) != index:
                    key = "id" if document.id else "external_id"
                    detail = f"{line}must not be the same document as item {other}"
                    entry = [FieldError.of([index, key], detail)]
            else:
                entry = document
            self._entries.append(entry)

    @property
    def accepted(self) -> list[Document]:
        """The documents that are fine."""
        return [entry for entry in self._entries if isinstance(entry, dict)]

    @property
    def errors(self) -> list[FieldError]:
        """What is wrong, item by item."""
        return [error for entry in self._entries if isinstance(entry, list) for error in entry]

    def accepted_out(self, task_id: str | None) -> dict[str, Any]:
        """Return the body of the 202."""
        documents = [{"id": each["id"], "revision": each["stamp"]} for each in self.accepted]
        return {"accepted": len(documents), "task_id": task_id, "documents": documents}

    def partial_out(self, task_id: str | None) -> dict[str, Any]:
        """Return the body of the 207."""
        accepted = len(self.accepted)
        return {
            "accepted": accepted,
            "refused": len(self._entries) - accepted,
            "task_id": task_id,
            "documents": [_entry_out(entry) for entry in self._entries],
        }


def _at(errors: list[FieldError], index: int, line: str) -> list[FieldError]:
    return [
        FieldError(pointer=f"/{index}{each.pointer}", detail=line + each.detail) for each in errors
    ]


def _entry_out(entry: Document | list[FieldError]) -> dict[str, Any]:
    if isinstance(entry, dict):
        return {"status": "accepted", "id": entry["id"], "revision": entry["stamp"]}
    return {"status": "refused", "errors": [error.model_dump() for error in entry]}


def _json(status: HTTPStatus, value: object, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, media_type=body.JSON)
