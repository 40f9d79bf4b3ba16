"""Classifying stored documents anew: failed ones, or those of an older model."""

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Final
from uuid import UUID

from fastapi import APIRouter, Request

from api import audit, body
from api.auth import Writer
from api.deps import ServicesDep
from api.openapi import problems, ref, request_body
from api.pagination import place
from api.schemas.reclassification import ReclassifiedOut, ReclassifyIn, ReclassifyOut
from api.validation import required
from shared.errors import BacklogFull, BrokerUnavailable, DocumentNotFound
from shared.messages import Classified
from shared.store import documents as store
from shared.store.audit import ObjectKind
from shared.store.listings import Filter, Listing, Reclassified, to_reclassify

router = APIRouter(prefix="/v1/documents", tags=["documents"])

_BODY: Final = request_body({body.JSON: ref(ReclassifyIn)})

_CALL_DOCUMENTS: Final = 2_000
_MESSAGE_DOCUMENTS: Final = 100
_MESSAGE_BYTES: Final = 4 << 20
"""What one call queues at most, and what a worker takes into its memory at once, roughly."""


@router.post(
    "/reclassify",
    operation_id="reclassifyDocuments",
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=_BODY,
    responses=problems(400, 413, 415, 422, 503),
)
async def reclassify_documents(
    request: Request, services: ServicesDep, caller: Writer
) -> ReclassifyOut:
    """Queue documents to be classified anew, newest first: some in each call, see `has_more`.

    A document whose content is replaced meanwhile is left alone.
    """
    asked = await _read(request)
    where = Filter(
        category=asked.category,
        source=asked.source,
        status=asked.status,
        model_version=asked.model_version,
    )
    listing = Listing(where)
    after = place(listing, asked.cursor, ["cursor"])
    found, has_more = await services.database.run(
        lambda session: to_reclassify(session, listing, after, _CALL_DOCUMENTS)
    )
    queued: list[Reclassified] = []
    task_ids: list[str] = []
    for message in _messages(found):
        try:
            envelope = await services.intake.reclassify([_item(each) for each in message])
        except (BrokerUnavailable, BacklogFull):
            if not queued:
                raise
            has_more = True
            break
        task_ids.append(envelope.task_id)
        queued += message
    if queued:
        filters = asked.model_dump(mode="json", exclude={"cursor"})
        details = filters | {"documents": len(queued)}
        made = audit.entry(request, caller, ObjectKind.DOCUMENT, details=details)
        await services.journal.write(made)
    next_cursor = listing.cursor(queued[-1]).encode() if has_more else None
    return ReclassifyOut(
        documents=len(queued), task_ids=task_ids, next_cursor=next_cursor, has_more=has_more
    )


@router.post(
    "/{document_id}/reclassify",
    operation_id="reclassifyDocument",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems(404, 422, 503),
)
async def reclassify_document(
    request: Request, services: ServicesDep, caller: Writer, document_id: UUID
) -> ReclassifiedOut:
    """Queue a stored document to be classified anew."""
    revision = await services.database.run(
        lambda session: store.content_revision(session, document_id)
    )
    if revision is None:
        raise DocumentNotFound
    item: Classified = {"id": str(document_id), "content_revision": revision}
    envelope = await services.intake.reclassify([item])
    details = {"task_id": envelope.task_id}
    made = audit.entry(request, caller, ObjectKind.DOCUMENT, document_id, details=details)
    await services.journal.write(made)
    return ReclassifiedOut(id=document_id, task_id=envelope.task_id, status="accepted")


async def _read(request: Request) -> ReclassifyIn:
    body.media_type(request, (body.JSON,))
    return required(ReclassifyIn, body.parse(await body.read(request)))


def _messages(found: Sequence[Reclassified]) -> Iterator[list[Reclassified]]:
    """Yield the documents in parts that a worker can take."""
    part: list[Reclassified] = []
    size = 0
    for each in found:
        if part and (len(part) == _MESSAGE_DOCUMENTS or size + each.size > _MESSAGE_BYTES):
            yield part
            part, size = [], 0
        part.append(each)
        size += each.size
    if part:
        yield part


def _item(document: Reclassified) -> Classified:
    return {"id": str(document.id), "content_revision": document.content_revision}
