"""API keys: make, list, rotate, revoke."""

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from api import audit, body
from api.auth import Admin
from api.deps import ServicesDep
from api.errors import NotFound
from api.openapi import problems, ref, request_body
from api.pagination import ONCE, PageQuery, link_header
from api.schemas.key import KeyIn, KeyOut, KeyPageOut, NewKeyOut, RotateIn
from api.validation import ModelT, required
from shared.access import Limits, Secret
from shared.db import Session
from shared.store import keys as store
from shared.store.audit import ObjectKind
from shared.store.keys import Wanted
from shared.store.page import Cursor

router = APIRouter(prefix="/v1/keys", tags=["keys"])

_MISSING: Final = "No key has this id, or it is valid no more."
_NOT_FOUND: Final[dict[int | str, dict[str, Any]]] = {
    404: problems(404)[404] | {"description": _MISSING}
}
_TOLD: Final = {"Cache-Control": "no-store"}


@router.post(
    "",
    operation_id="createKey",
    status_code=HTTPStatus.CREATED,
    openapi_extra=request_body({body.JSON: ref(KeyIn)}),
    responses=problems(400, 413, 415, 422, 503),
)
async def create_key(
    request: Request, response: Response, services: ServicesDep, caller: Admin
) -> NewKeyOut:
    """Make a key. The answer is the only place where it is told."""
    wanted, secret = await _read(request, KeyIn), Secret.new()
    limits = Limits(wanted.requests_per_minute, wanted.bytes_per_minute)
    asked = Wanted(wanted.name, wanted.scopes, wanted.expires_at, limits)

    def create(session: Session) -> NewKeyOut:
        row = store.create(session, asked, secret)
        details = {"name": row.name, "scopes": row.scopes}
        audit.record(session, request, caller, ObjectKind.KEY, row.id, details=details)
        return NewKeyOut.of(row, key=secret.value)

    made = await services.database.run(create)
    response.headers.update(_TOLD)
    return made


@router.get("", operation_id="listKeys", dependencies=[ONCE], responses=problems(422, 503))
async def list_keys(
    request: Request,
    response: Response,
    services: ServicesDep,
    _: Admin,
    query: Annotated[PageQuery, Query()],
) -> KeyPageOut:
    """List keys, the newest first, also those that are valid no more."""
    after = query.after
    rows, has_more = await services.database.run(
        lambda session: store.page(session, after, query.limit)
    )
    last = rows[-1] if has_more else None
    next_cursor = None if last is None else Cursor(last.created_at, last.id).encode()
    response.headers.update(link_header(request, next_cursor))
    data = [KeyOut.of(row) for row in rows]
    return KeyPageOut(data=data, next_cursor=next_cursor, has_more=has_more)


@router.post(
    "/{key_id}/rotate",
    operation_id="rotateKey",
    status_code=HTTPStatus.CREATED,
    openapi_extra=request_body({body.JSON: ref(RotateIn)}),
    responses=problems(400, 413, 415, 422, 503) | _NOT_FOUND,
)
async def rotate_key(
    request: Request, response: Response, services: ServicesDep, caller: Admin, key_id: UUID
) -> NewKeyOut:
    """Make a key like another one, which stays valid for a while and then no more."""
    how, secret = await _read(request, RotateIn), Secret.new()
    overlap = timedelta(seconds=how.overlap_seconds)

    def rotate(session: Session) -> NewKeyOut | None:
        row = store.rotate(session, key_id, secret, overlap)
        if row is None:
            return None
        details = {"new_id": str(row.id)}
        audit.record(session, request, caller, ObjectKind.KEY, key_id, details=details)
        return NewKeyOut.of(row, key=secret.value)

    made = await services.database.run(rotate)
    if made is None:
        raise NotFound(_MISSING)
    response.headers.update(_TOLD)
    return made


@router.delete("/{key_id}", operation_id="revokeKey", responses=problems(422, 503) | _NOT_FOUND)
async def revoke_key(
    request: Request, services: ServicesDep, caller: Admin, key_id: UUID
) -> KeyOut:
    """Revoke a key: within five seconds nobody is let in with it. Again, it changes nothing."""

    def revoke(session: Session) -> KeyOut | None:
        row = store.revoke(session, key_id)
        if row is None:
            return None
        audit.record(session, request, caller, ObjectKind.KEY, key_id)
        return KeyOut.of(row)

    revoked = await services.database.run(revoke)
    if revoked is None:
        raise NotFound("No key has this id.")
    return revoked


async def _read(request: Request, model: type[ModelT]) -> ModelT:
    body.media_type(request, (body.JSON,))
    return required(model, body.parse(await body.read(request)))
