"""The audit log: who changed what. It can be read; nothing here changes it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.auth import Admin
from api.deps import ServicesDep
from api.openapi import problems
from api.pagination import ONCE, PageQuery, link_header
from api.schemas.audit import AuditOut, AuditPageOut
from api.schemas.document import Key
from api.schemas.time import Time
from shared.store import audit as store
from shared.store.page import Cursor

router = APIRouter(prefix="/v1/audit", tags=["audit"])


class AuditQuery(PageQuery):
    """Which entries to list."""

    caller: Key | None = None
    action: Key | None = Field(None, description="an operation's id", examples=["revokeKey"])
    object_id: UUID | None = None
    start: Time | None = Field(None, alias="from")
    end: Time | None = Field(None, alias="to", description="not included")


@router.get("", operation_id="listAudit", dependencies=[ONCE], responses=problems(422, 503))
async def list_audit(
    request: Request,
    response: Response,
    services: ServicesDep,
    _: Admin,
    query: Annotated[AuditQuery, Query()],
) -> AuditPageOut:
    """List changes, the newest first: who made them, when, and of what.

    Documents that were accepted are counted: an entry for each caller, operation and minute.
    """
    where = store.Filter(query.caller, query.action, query.object_id, query.start, query.end)
    after = query.after
    rows, has_more = await services.database.run(
        lambda session: store.page(session, where, after, query.limit)
    )
    last = rows[-1] if has_more else None
    next_cursor = None if last is None else Cursor(last.at, last.id).encode()
    response.headers.update(link_header(request, next_cursor))
    data = [AuditOut.of(row) for row in rows]
    return AuditPageOut(data=data, next_cursor=next_cursor, has_more=has_more)
