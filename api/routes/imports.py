"""Imports: take a body of any size, tell how far it has come, hand back what was refused."""

from collections.abc import AsyncIterator
from dataclasses import replace
from http import HTTPStatus
from secrets import token_urlsafe
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from api import audit, body
from api.auth import Reader, Writer
from api.deps import Services, ServicesDep
from api.errors import Conflict, Invalid, NotFound, UnsupportedMediaType
from api.idempotency import idempotency_key
from api.imports import importer
from api.imports.csv_records import Dialect
from api.imports.form import FIELDS, METADATA, Form, MediaType
from api.openapi import problems, ref
from api.pagination import ONCE, PageQuery, link_header, place
from api.responses import json_response
from api.schemas.document import DocumentIn, Key
from api.schemas.import_ import ImportOut, ImportPageOut, RejectOut, RejectPageOut, Status
from api.schemas.problem import FieldError
from shared.db import Session
from shared.models import Import, ImportReject
from shared.store import imports as store
from shared.store.audit import ObjectKind

router = APIRouter(prefix="/v1/imports", tags=["imports"])

_PAGE_BYTES: Final = 8 << 20
_MAX_COLUMNS: Final = 100
_MAP: Final = "map."

_MISSING: Final = "No import has this id."
_NOT_FOUND: Final[dict[int | str, dict[str, Any]]] = {
    404: problems(404)[404] | {"description": _MISSING}
}
_INTERRUPTED: Final[dict[int | str, dict[str, Any]]] = {
    503: problems(503)[503]
    | {
        "description": "Broker or database do not answer, or what waits to be processed is over its"
        " limit, for longer than the upload may wait. What was accepted is safe: send the same body"
        " again, with the same key, to go on."
    }
}
_LOCATION: Final = {"Location": {"schema": {"type": "string"}, "description": "the import"}}
_TAKEN: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": ImportOut,
        "description": "The import of this key was done before; nothing was read.",
        "headers": _LOCATION,
    },
    202: {
        "model": ImportOut,
        "description": "The whole body is safe, and its documents will be stored.",
        "headers": _LOCATION,
    },
}


def _parameter(
    name: str, where: str, description: str, schema: dict[str, Any], example: str
) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": False,
        "description": description,
        "schema": schema,
        "example": example,
    }


_ONE_CHARACTER: Final = {"type": "string", "minLength": 1, "maxLength": 1}
_COLUMN: Final = {"type": "string", "minLength": 1}
_UPLOAD: Final[dict[str, Any]] = {
    "parameters": [
        _parameter(
            "Idempotency-Key",
            "header",
            "names the import: with the same key and body an upload goes on where the one before"
            " was cut off",
            {"type": "string", "minLength": 1, "maxLength": 255},
            "posts-2026-11",
        ),
        _parameter(
            "Content-Encoding", "header", "whether the body is packed", {"enum": ["gzip"]}, "gzip"
        ),
        _parameter("delimiter", "query", "of CSV", _ONE_CHARACTER | {"default": ","}, ";"),
        _parameter(
            "quote",
            "query",
            "of CSV; empty for none",
            {"type": "string", "maxLength": 1, "default": '"'},
            '"',
        ),
        *(
            _parameter(
                f"{_MAP}{name}",
                "query",
                f"CSV's column for `{name}`; `{_MAP}{METADATA}KEY` for a key of `metadata`."
                " Once there is one of these, other columns are left out.",
                _COLUMN,
                name,
            )
            for name in sorted(FIELDS)
        ),
    ],
    "requestBody": {
        "required": True,
        "content": {
            MediaType.NDJSON.value: {
                "schema": {"type": "string", "description": "a document a line"},
                "example": '{"content": "The launch was delayed."}\n{"content": "It rained."}\n',
            },
            MediaType.JSON.value: {"schema": {"type": "array", "items": ref(DocumentIn)}},
            MediaType.CSV.value: {
                "schema": {"type": "string", "description": "a header, and a document a row"},
                "example": "id,content\n,The launch was delayed.\n",
            },
        },
    },
}
_ORIGINALS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        # Those of a JSON array are one, too.
        "model": RejectPageOut | list[Any],
        "description": "A page; with `format=original` the records themselves.",
        "content": {
            MediaType.NDJSON.value: {"schema": {"type": "string"}},
            MediaType.CSV.value: {"schema": {"type": "string"}},
        },
    }
}


class ImportQuery(PageQuery):
    """Which imports to list."""

    idempotency_key: Key | None = None
    status: Status | None = None


class RejectQuery(PageQuery):
    """Which rejects to list, and how."""

    format: Literal["json", "original"] = Field(
        "json",
        description="`original`: all of them, as they were sent and in the import's format, to be"
        " corrected and sent again; those that are truncated are left out",
    )


@router.post(
    "",
    operation_id="createImport",
    status_code=HTTPStatus.ACCEPTED,
    response_model=None,
    openapi_extra=_UPLOAD,
    responses=_TAKEN | problems(409, 415, 422) | _INTERRUPTED,
)
async def create_import(request: Request, services: ServicesDep, caller: Writer) -> Response:
    """Take documents of any number, as they come in, and answer when all of them are safe.

    What is wrong with one line never stops the others: see `/v1/imports/{id}/rejects`. After a cut
    connection or a 503 send the same body again from its start, with the same `Idempotency-Key`:
    what was accepted is left out. Documents without `id` and `external_id` get an id from key and
    line, so none is ever stored twice.
    """
    asked = importer.Request(
        form=_form(request),
        packed=_packed(request),
        caller=caller.name,
        key=idempotency_key(request) or token_urlsafe(16),
        length=_length(request),
        request_id=request.state.request_id,
        # Written when the upload begins; what it will be answered is not known by then.
        entry=replace(audit.entry(request, caller, ObjectKind.IMPORT), outcome=None),
    )
    import_id = await services.imports.receive(asked, request.stream())
    found = await _find(services, import_id)
    status = HTTPStatus.OK if found.status == "done" else HTTPStatus.ACCEPTED
    path = f"{request.scope.get('root_path', '')}{router.prefix}/{import_id}"
    return json_response(status, found.model_dump(), {"Location": path})


@router.get("", operation_id="listImports", dependencies=[ONCE], responses=problems(422, 503))
async def list_imports(
    request: Request,
    response: Response,
    services: ServicesDep,
    _: Reader,
    query: Annotated[ImportQuery, Query()],
) -> ImportPageOut:
    """List imports, newest first."""
    listing = store.Listing(query.idempotency_key, query.status)
    after = place(listing, query.cursor, ["query", "cursor"])
    seen, next_cursor = await services.database.run(
        lambda session: listing.page(session, after, query.limit)
    )
    response.headers.update(link_header(request, next_cursor))
    data = [ImportOut.of(each) for each in seen]
    return ImportPageOut(data=data, next_cursor=next_cursor, has_more=next_cursor is not None)


@router.get("/{import_id}", operation_id="getImport", responses=problems(422, 503) | _NOT_FOUND)
async def get_import(services: ServicesDep, _: Reader, import_id: UUID) -> ImportOut:
    """Return an import: how far it has come, how fast it goes, when it will be done."""
    return await _find(services, import_id)


@router.get(
    "/{import_id}/rejects",
    operation_id="listImportRejects",
    dependencies=[ONCE],
    response_model=None,
    responses=_ORIGINALS | problems(422, 503) | _NOT_FOUND,
)
async def list_import_rejects(
    request: Request,
    services: ServicesDep,
    _: Reader,
    import_id: UUID,
    query: Annotated[RejectQuery, Query()],
) -> Response:
    """Return what was refused: the line, why, and what it was."""
    if query.format == "original":
        return await _originals(services, import_id)
    after = place(store.Rejects(import_id), query.cursor, ["query", "cursor"]) or 0
    await _find(services, import_id)
    rows, next_cursor = await _rejects(services, import_id, after, query.limit)
    page = {
        "data": [RejectOut.of(row).model_dump() for row in rows],
        "next_cursor": next_cursor,
        "has_more": next_cursor is not None,
    }
    return json_response(HTTPStatus.OK, page, link_header(request, next_cursor))


@router.delete(
    "/{import_id}",
    operation_id="cancelImport",
    status_code=HTTPStatus.NO_CONTENT,
    responses=problems(409, 422, 503) | _NOT_FOUND,
)
async def cancel_import(
    request: Request, services: ServicesDep, caller: Writer, import_id: UUID
) -> Response:
    """Cancel an import that does not have its whole body yet. What was accepted stays."""

    def cancel(session: Session) -> Import | None:
        row = store.cancel(session, import_id)
        if row is not None and row.status == store.Status.CANCELLED:
            audit.record(session, request, caller, ObjectKind.IMPORT, import_id)
        return row

    row = await services.database.run(cancel)
    if row is None:
        raise NotFound(_MISSING)
    if row.status != store.Status.CANCELLED:
        raise Conflict(f"The import is {row.status}: there is nothing to cancel any more.")
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def _find(services: Services, import_id: UUID) -> ImportOut:
    seen = await services.database.run(lambda session: store.get(session, import_id))
    if seen is None:
        raise NotFound(_MISSING)
    return ImportOut.of(seen)


async def _rejects(
    services: Services, import_id: UUID, after: int, limit: int
) -> tuple[list[ImportReject], str | None]:
    return await services.database.run(
        lambda session: store.Rejects(import_id).page(session, after, limit, _PAGE_BYTES)
    )


async def _originals(services: Services, import_id: UUID) -> Response:
    seen = await services.database.run(lambda session: store.get(session, import_id))
    if seen is None:
        raise NotFound(_MISSING)
    media_type = MediaType(seen.row.format["media_type"])
    header = bytes(seen.row.header or b"")
    return StreamingResponse(
        _joined(_raw(services, import_id), media_type, header), media_type=media_type.value
    )


async def _raw(services: Services, import_id: UUID) -> AsyncIterator[bytes]:
    after, more = 0, True
    while more:
        rows, cursor = await _rejects(services, import_id, after, 1_000)
        more = cursor is not None
        for row in rows:
            after = row.line
            if not row.truncated:
                yield bytes(row.original)


async def _joined(
    records: AsyncIterator[bytes], media_type: MediaType, header: bytes
) -> AsyncIterator[bytes]:
    """Yield records as a body of their type."""
    if media_type is not MediaType.JSON:
        if header:
            yield header + b"\n"
        async for record in records:
            yield record + b"\n"
        return
    before = b"[\n"
    async for record in records:
        yield before + record
        before = b",\n"
    yield b"[]\n" if before == b"[\n" else b"\n]\n"


def _form(request: Request) -> Form:
    """Return what the request says of its body.

    Raises:
        UnsupportedMediaType: it is none that is known.
        Invalid: a parameter is wrong.
    """
    media_type = MediaType(body.media_type(request, [each.value for each in MediaType]))
    sent = request.query_params
    errors = [
        FieldError.of(["query", name], "is not known, or not for this Content-Type")
        for name in sent
        if media_type is not MediaType.CSV or not _is_known(name)
    ]
    errors += [
        FieldError.of(["query", name], "must be there once, and not be empty")
        for name in {*sent}
        if len(sent.getlist(name)) > 1 or (name.startswith(_MAP) and not sent[name])
    ]
    delimiter, quote = sent.get("delimiter", ","), sent.get("quote", '"')
    for name, value, fine in (
        ("delimiter", delimiter, len(delimiter) == 1),
        ("quote", quote, len(quote) <= 1 and quote != delimiter),
    ):
        if not fine or not value.isascii() or value in {"\r", "\n", "\0"}:
            detail = "must be one ASCII character, of its own and no line's end"
            errors.append(FieldError.of(["query", name], detail))
    mapping = {
        name.removeprefix(_MAP): column for name, column in sent.items() if name.startswith(_MAP)
    }
    if mapping and "content" not in mapping:
        errors.append(FieldError.of(["query", "map.content"], "is required with other columns"))
    if "metadata" in mapping and any(name.startswith(METADATA) for name in mapping):
        detail = "must not be there with single keys of it"
        errors.append(FieldError.of(["query", "map.metadata"], detail))
    if len(mapping) > _MAX_COLUMNS:
        errors.append(FieldError.of(["query"], f"must not map more than {_MAX_COLUMNS} columns"))
    if errors:
        raise Invalid("The request has wrong parameters.", errors=errors)
    return Form(media_type, Dialect(delimiter, quote), mapping)


def _is_known(name: str) -> bool:
    if name in {"delimiter", "quote"}:
        return True
    field = name.removeprefix(_MAP)
    is_key = field.startswith(METADATA) and field != METADATA
    return name.startswith(_MAP) and (field in FIELDS or is_key)


def _packed(request: Request) -> bool:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip"}:
        raise UnsupportedMediaType(
            f"Send Content-Encoding: gzip or none; the request had {encoding[:100]!r}.",
            headers={"Accept-Encoding": "gzip"},
        )
    return encoding == "gzip"


def _length(request: Request) -> int | None:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) < 19 else None  # noqa: PLR2004  # digits of a bigint
