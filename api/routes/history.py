"""The history of a document: its latest write, and the rarer events."""

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from api.auth import Reader
from api.deps import ServicesDep
from api.errors import NotFound
from api.openapi import problems
from api.pagination import PageQuery, link_header
from api.schemas.history import EventOut, HistoryOut, LatestWriteOut
from shared.db import Session
from shared.revision import EPOCH
from shared.store import events, ledger
from shared.store.page import Cursor

router = APIRouter(prefix="/v1/documents", tags=["documents"])

_UNKNOWN: Final = "No document of this id was ever stored or deleted, or that is long ago."
_LARGEST: Final = (1 << 63) - 1


@router.get(
    "/{document_id}/history",
    operation_id="getDocumentHistory",
    responses=problems(404, 422, 503),
)
async def get_document_history(
    request: Request,
    response: Response,
    services: ServicesDep,
    _: Reader,
    document_id: UUID,
    query: Annotated[PageQuery, Query()],
) -> HistoryOut:
    """Return the latest write of a document, stored or deleted, and a page of its rarer events."""
    # The ids alone sort events; a cursor of another list may be any number.
    before = min(query.after.id.int, _LARGEST) if query.after else None

    def read(session: Session) -> HistoryOut | None:
        ledger.one_snapshot(session)
        write = events.latest_write(session, document_id)
        if write is None:
            return None
        rows, has_more = events.page(session, document_id, before, query.limit)
        return HistoryOut(
            id=document_id,
            revision=write.revision,
            deleted=write.deleted,
            latest_write=None if write.deleted else LatestWriteOut.of(write),
            data=[EventOut.of(row) for row in rows],
            next_cursor=Cursor(EPOCH, UUID(int=rows[-1].id)).encode() if has_more else None,
            has_more=has_more,
        )

    history = await services.database.run(read)
    if history is None:
        raise NotFound(_UNKNOWN)
    services.clock.observe(history.revision)
    response.headers.update(link_header(request, history.next_cursor))
    return history
