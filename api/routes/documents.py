"""Documents: accept, read, change, delete."""

from http import HTTPStatus
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api import audit, body, conditional, meters, responses
from api.auth import Reader, Writer
from api.batch import Batch, read_batch
from api.deps import Services, ServicesDep
from api.errors import Invalid
from api.idempotency import idempotency_key
from api.intake import Receipt, keyed_id, stamped
from api.openapi import problems, ref, request_body, request_headers
from api.prefer import MAX_WAIT_SECONDS, Preference, preference
from api.responses import json_response
from api.schemas.document import (
    AcceptedOut,
    BatchOut,
    DocumentIn,
    DocumentOut,
    DocumentPatchIn,
    PartialBatchOut,
)
from api.schemas.problem import FieldError
from api.settings import MAX_BATCH
from api.validation import refuse_parameters, required, validated
from shared import decide
from shared.access import Caller
from shared.db import Session
from shared.decide import UNSET, Outcome
from shared.errors import (
    DatabaseUnavailable,
    DocumentNotFound,
    PreconditionFailed,
)
from shared.messages import Document
from shared.models import Document as Row
from shared.store import documents as store
from shared.store.audit import ObjectKind
from shared.store.documents import MetadataTooLarge

router = APIRouter(prefix=responses.DOCUMENTS, tags=["documents"])

_CONDITIONAL_WAIT_SECONDS: Final = 5
"""How long a conditional write waits for its outcome, if the client does not say."""

MERGE_PATCH: Final = "application/merge-patch+json"

_DOCUMENT: Final = request_body({body.JSON: ref(DocumentIn)})
_PATCH: Final = request_body({MERGE_PATCH: ref(DocumentPatchIn), body.JSON: ref(DocumentPatchIn)})
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
_LOCATION: Final = {"Location": {"schema": {"type": "string"}, "description": "the document"}}
_APPLIED: Final = {
    "Preference-Applied": {"schema": {"type": "string"}, "description": "what was heeded"}
}
_ETAG: Final = {"ETag": {"schema": {"type": "string"}, "description": "the revision"}}
_Responses = dict[int | str, dict[str, Any]]
_ACCEPTED: Final[_Responses] = {
    200: {
        "model": DocumentOut,
        "description": "Waited: the document as it is stored.",
        "headers": _ETAG | _APPLIED,
    },
    201: {
        "model": DocumentOut,
        "description": "Waited: the document is stored, and was not there before.",
        "headers": _LOCATION | _ETAG | _APPLIED,
    },
    202: {
        "model": AcceptedOut,
        "description": "Accepted: the document is safe, and will be stored.",
        "headers": _LOCATION | _APPLIED,
    },
}
_BATCH_ACCEPTED: Final[_Responses] = {
    200: {"model": BatchOut, "description": "Waited: all documents are stored."},
    202: {"model": BatchOut, "description": "All documents are accepted."},
    207: {
        "model": PartialBatchOut,
        "description": "One entry each: with `atomic=false`, or if some could not be stored.",
    },
}
_CHANGED: Final[_Responses] = {200: {"headers": _ETAG}}
_FOUND: Final[_Responses] = {
    200: {"headers": _ETAG},
    304: {"description": "The client has that revision.", "headers": _ETAG},
}


class BatchQuery(BaseModel):
    """How to take a batch."""

    model_config = ConfigDict(extra="forbid")

    atomic: bool = Field(True, description="refuse the whole batch if one document is wrong")


class DocumentQuery(BaseModel):
    """How to read a document."""

    model_config = ConfigDict(extra="forbid")

    wait: float = Field(
        0,
        ge=0,
        le=MAX_WAIT_SECONDS,
        description="seconds to wait for a document that is not there yet or, with "
        "`If-None-Match`, for another revision",
    )


@router.post(
    "",
    operation_id=responses.CREATE_DOCUMENT,
    status_code=HTTPStatus.ACCEPTED,
    response_model=None,
    openapi_extra=_DOCUMENT | request_headers("Prefer", "Idempotency-Key"),
    responses=_ACCEPTED | problems(400, 404, 413, 415, 422, 503),
)
async def create_document(request: Request, services: ServicesDep, caller: Writer) -> Response:
    """Accept a document. Once answered, it is kept whatever fails.

    With an `Idempotency-Key` a document that has neither `id` nor `external_id` is made once,
    however often it is sent.
    """
    # The plainest requests are answered by `api.shortcut`, and come here if they are wrong.
    conditional.refuse(request)
    key = idempotency_key(request)
    document, size = await _read_document(request, services)
    keyed = None if key is None else keyed_id(caller.name, key, 0)
    message = stamped(document, services.clock, request.state.request_id, keyed)
    wanted = preference(request)
    return await _accept(request, services, caller, message, size=size, wanted=wanted)


@router.post(
    "/batch",
    operation_id="createDocuments",
    status_code=HTTPStatus.ACCEPTED,
    response_model=None,
    openapi_extra=_BATCH | request_headers("Prefer", "Idempotency-Key"),
    responses=_BATCH_ACCEPTED | problems(400, 413, 415, 422, 503),
)
async def create_documents(
    request: Request,
    services: ServicesDep,
    caller: Writer,
    query: Annotated[BatchQuery, Query()],
) -> Response:
    """Accept up to 1,000 documents as one message: all of them or, by default, none."""
    conditional.refuse(request)
    key, wanted = idempotency_key(request), preference(request)
    items, size = await read_batch(request)
    request.state.documents = len(items)  # refused, if this fails
    batch = Batch(items, services, request.state.request_id, caller.name, key)
    if batch.errors and query.atomic:
        raise Invalid(
            "Nothing was accepted: documents of the batch are wrong.", errors=batch.errors
        )
    task_id, letters = None, None
    if batch.accepted:
        receipt = await services.intake.accept_batch(batch.accepted, size)
        services.journal.count(caller, audit.action(request), len(batch.accepted))
        request.state.documents = 0  # whatever else fails
        task_id = receipt.envelope.task_id
        if wanted.seconds is not None:
            letters = await services.outcomes.of_message(receipt, wanted.seconds)
    whole = query.atomic and not {Outcome.FAILED, Outcome.DEAD} & set(letters or "")
    if not whole:
        partial = batch.partial_out(task_id, letters)
        meters.rejected("invalid", partial["refused"])
        return json_response(HTTPStatus.MULTI_STATUS, partial, wanted.headers)
    status = HTTPStatus.ACCEPTED if letters is None else HTTPStatus.OK
    return json_response(status, batch.accepted_out(task_id, letters), wanted.headers)


@router.put(
    "/{document_id}",
    operation_id="replaceDocument",
    status_code=HTTPStatus.ACCEPTED,
    response_model=None,
    openapi_extra=_DOCUMENT | request_headers("Prefer", "If-Match", "If-None-Match"),
    responses=_ACCEPTED | problems(400, 404, 412, 413, 415, 422, 503),
)
async def replace_document(
    request: Request, services: ServicesDep, caller: Writer, document_id: UUID
) -> Response:
    """Accept a document under an id of yours, in place of what is stored there.

    A precondition is decided when the document is stored, so the answer waits for that: five
    seconds, or as long as `Prefer` says. If that is not enough the answer is 202; the document then
    tells by its `task_id` whether the write was done.
    """
    precondition = conditional.of_write(request, services.clock)
    document, size = await _read_document(request, services)
    if document.id not in {None, document_id}:
        error = FieldError.of(["id"], "must be the id in the path, or be left out")
        raise Invalid("The document has wrong fields.", errors=[error])
    document.id = document_id
    message = stamped(document, services.clock, request.state.request_id)
    precondition.put_on(message, services.clock)
    wanted = preference(request, _CONDITIONAL_WAIT_SECONDS if precondition else None)
    return await _accept(request, services, caller, message, size=size, wanted=wanted)


@router.get(
    "/{document_id}",
    operation_id="getDocument",
    response_model=DocumentOut,
    openapi_extra=request_headers("If-None-Match"),
    responses=_FOUND | problems(404, 422, 503),
)
async def get_document(
    request: Request,
    services: ServicesDep,
    _: Reader,
    document_id: UUID,
    query: Annotated[DocumentQuery, Query()],
) -> Response:
    """Return a stored document."""
    known = conditional.known(request, services.clock)
    row = await _row(services, document_id)
    if query.wait and (row is None or row.revision in known):
        await services.outcomes.stored(document_id, known, query.wait)
        row = await _row(services, document_id)
    if row is None:
        raise DocumentNotFound
    services.clock.observe(row.revision)
    if conditional.not_modified(request, row.revision, services.clock):
        headers = {"ETag": conditional.etag(row.revision)}
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return _stored(HTTPStatus.OK, row)


@router.patch(
    "/{document_id}",
    operation_id="updateDocument",
    response_model=DocumentOut,
    openapi_extra=_PATCH | request_headers("If-Match"),
    responses=_CHANGED | problems(400, 404, 412, 413, 415, 422, 503),
)
async def update_document(
    request: Request, services: ServicesDep, caller: Writer, document_id: UUID
) -> Response:
    """Change the metadata of a stored document by a merge-patch (RFC 7396), and its label."""
    if_match = conditional.of_change(request, services.clock)
    body.media_type(request, (MERGE_PATCH, body.JSON))
    patch = required(DocumentPatchIn, body.parse(await body.read(request)))
    label = patch.label if "label" in patch.model_fields_set else UNSET
    operation = decide.Patch(patch.metadata, label)
    now, request_id = services.clock.stamp(), request.state.request_id

    def change(session: Session) -> Row | None:
        row = store.patch(session, document_id, operation, now, if_match, request_id=request_id)
        if row is not None:
            details = {"fields": sorted(patch.model_fields_set)}
            audit.record(
                session, request, caller, ObjectKind.DOCUMENT, document_id, details=details
            )
        return row

    try:
        row = await services.database.run(change)
    except MetadataTooLarge as error:
        detail = f"would be longer than {decide.MAX_METADATA_BYTES} bytes of JSON"
        raise Invalid(
            "The patch has wrong fields.", errors=[FieldError.of(["metadata"], detail)]
        ) from error
    if row is None:
        raise DocumentNotFound
    services.clock.observe(row.revision)
    return _stored(HTTPStatus.OK, row)


@router.delete(
    "/{document_id}",
    operation_id="deleteDocument",
    status_code=HTTPStatus.NO_CONTENT,
    openapi_extra=request_headers("If-Match"),
    responses=problems(412, 422, 503),
)
async def delete_document(
    request: Request, services: ServicesDep, caller: Writer, document_id: UUID
) -> Response:
    """Delete a document, stored or still on its way. Doing it again changes nothing."""
    if_match = conditional.of_change(request, services.clock)
    now, request_id = services.clock.stamp(), request.state.request_id

    def delete(session: Session) -> int:
        revision = store.delete(session, document_id, now, if_match, request_id=request_id)
        audit.record(session, request, caller, ObjectKind.DOCUMENT, document_id)
        return revision

    revision = await services.database.run(delete)
    services.clock.observe(revision)
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def _read_document(request: Request, services: Services) -> tuple[DocumentIn, int]:
    """Return the document of a request, and the size of its body in bytes."""
    refuse_parameters(request)
    body.media_type(request, (body.JSON,))
    raw = await body.read(request)
    document = validated(body.parse(raw), services.settings.max_content_bytes)
    if isinstance(document, DocumentIn):
        return document, len(raw)
    raise Invalid("The document has wrong fields.", errors=document)


async def _accept(
    request: Request,
    services: Services,
    caller: Caller,
    message: Document,
    *,
    size: int,
    wanted: Preference,
) -> Response:
    """Have a document published; answer at once or, if that is wanted, with what became of it."""
    receipt = await services.intake.accept(message, size)
    services.journal.count(caller, audit.action(request), 1)
    request.state.documents = 0  # none is refused, whatever else fails
    accepted, path = responses.accepted(
        message, receipt.envelope.task_id, request.scope.get("root_path", "")
    )
    headers = {"Location": path} | wanted.headers
    if wanted.seconds is not None:
        waited = await _outcome(services, message, receipt, wanted.seconds)
        if waited is not None:
            outcome, row = waited
            status = HTTPStatus.CREATED if outcome is Outcome.CREATED else HTTPStatus.OK
            return _stored(status, row, headers)
    return json_response(HTTPStatus.ACCEPTED, accepted, headers)


async def _outcome(
    services: Services, message: Document, receipt: Receipt, seconds: float
) -> tuple[Outcome, Row] | None:
    """Return what became of a document, and how it is stored; None where that is not known yet.

    Raises:
        PreconditionFailed: nothing, as it was not as it should have been.
        DocumentNotFound: it was deleted meanwhile.
        Invalid: its `Idempotency-Key` had come with another document before.
    """
    outcome = await services.outcomes.of_document(receipt, seconds)
    if outcome is None or outcome is Outcome.DEAD:
        return None
    if outcome is Outcome.PRECONDITION_FAILED:
        raise PreconditionFailed
    try:
        row = await _row(services, UUID(message["id"]))
    except DatabaseUnavailable:  # it is stored all the same, and to be found later
        return None
    if row is None:
        raise DocumentNotFound
    services.clock.observe(row.revision)
    if message.get("create_only") and not _same_request(message, row):
        detail = "came with another document before; nothing was changed"
        error = FieldError.of(["header", "Idempotency-Key"], detail)
        raise Invalid("The key was used before.", errors=[error])
    return outcome, row


def _same_request(message: Document, row: Row) -> bool:
    """Say whether a row may be what a document made; certain where nothing was written since."""
    if row.accepted_at >= row.created_at:
        return True
    return row.content == message["content"] and row.source == message.get("source")


async def _row(services: Services, document_id: UUID) -> Row | None:
    return await services.database.run(lambda session: store.get(session, document_id))


def _stored(status: HTTPStatus, row: Row, headers: dict[str, str] | None = None) -> Response:
    tag = {"ETag": conditional.etag(row.revision)}
    return json_response(status, DocumentOut.of(row).model_dump(), (headers or {}) | tag)
