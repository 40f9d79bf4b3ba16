"""The schema of what FastAPI cannot see by itself: bodies that the routes read on their own."""

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.errors import MEDIA_TYPE
from api.examples import example
from api.schemas.classification import ClassifyTextIn, ClassifyTextsIn
from api.schemas.dead_letter import ReplayIn
from api.schemas.document import DocumentIn, DocumentPatchIn
from api.schemas.key import KeyIn, RotateIn
from api.schemas.problem import ProblemOut
from api.schemas.reclassification import ReclassifyIn
from api.schemas.token import TokenIn
from shared.access import Scope

_BODIES: Final[tuple[type[BaseModel], ...]] = (
    ClassifyTextIn,
    ClassifyTextsIn,
    DocumentIn,
    DocumentPatchIn,
    KeyIn,
    ReclassifyIn,
    ProblemOut,
    ReplayIn,
    RotateIn,
    TokenIn,
)
_REF: Final = "#/components/schemas/{model}"

_BY_TOKEN: Final = "token"  # noqa: S105  # no password
"""The name of the scheme of those who show a token; that of the others is `key`."""

_SCOPES: Final = {
    Scope.DOCUMENTS_READ: "read documents, lists, exports, imports, statistics",
    Scope.DOCUMENTS_WRITE: "accept, change, delete, label, import, classify anew",
    Scope.CLASSIFY: "classify texts without storing them",
    Scope.DEADLETTERS_READ: "list and inspect dead letters",
    Scope.DEADLETTERS_REPLAY: "replay and delete them",
    Scope.ADMIN: "everything, keys included",
}

_HEADERS: Final = {
    "Prefer": {
        "description": "`wait=5`: wait up to so many seconds, 30 at most, until it is stored; "
        "`respond-async`: do not wait",
        "schema": {"type": "string"},
        "example": "wait=5",
    },
    "Idempotency-Key": {
        "description": "the same request sent again with the same key is done once",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": 255,
            "pattern": "^[!-~]([ -~]*[!-~])?$",
        },
        "example": "order-4711",
    },
    "If-Match": {
        "description": "do it only if the document has this `ETag`, or with `*` any",
        "schema": {"type": "string"},
        "example": '"1790000000000000"',
    },
    "If-None-Match": {
        "description": "of a write `*`: do it only if there is no document yet; of a read: answer "
        "304 if the document has this `ETag`",
        "schema": {"type": "string"},
        "example": "*",
    },
}

_REASONS: Final = {
    400: "The body is not JSON.",
    401: "No key or token, or one that is not valid.",
    403: "The key or token lacks the scope that this takes.",
    404: "No document of this id is stored: it is on its way, was deleted, or is unknown.",
    409: "That cannot be done with it; the detail says why.",
    412: "The document is not as If-Match or If-None-Match asks for. Nothing was changed.",
    413: "The body is too large.",
    415: "The body's type or encoding is not supported.",
    422: "A field or parameter is wrong; `errors` names it.",
    429: "The key has used what it may in a minute; `Retry-After` says how long to wait.",
    503: "The broker or the database does not answer. Nothing was accepted; try again.",
}

_REFUSED: Final = (401, 403, 429)
"""What every operation that takes a scope may answer."""


def ref(model: type[BaseModel]) -> dict[str, str]:
    """Return a reference to a model's schema."""
    return {"$ref": _REF.format(model=model.__name__)}


def request_body(contents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads its body itself.

    Args:
        contents: the schema for each media type.
    """
    content = {media_type: {"schema": schema} for media_type, schema in contents.items()}
    return {"requestBody": {"required": True, "content": content}}


def request_headers(*names: str) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads these headers itself."""
    return {"parameters": [{"name": each, "in": "header"} | _HEADERS[each] for each in names]}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that can fail in these ways."""
    return {status: _problem(_REASONS[status], status) for status in statuses}


def install(app: FastAPI) -> None:
    """Complete the schema that `app` serves."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            _, definitions = models_json_schema(
                [(model, "validation") for model in _BODIES], ref_template=_REF
            )
            schemas.update(definitions["$defs"])
            schema["components"].setdefault("securitySchemes", {})[_BY_TOKEN] = _client_credentials(
                f"{app.root_path}/v1/token"
            )
            for path in schema["paths"].values():
                for operation in path.values():
                    if "security" in operation:
                        _guard(operation)
                    operation["responses"]["default"] = _problem("Any other error.", 500)
                    if "422" in operation["responses"]:
                        operation["responses"]["422"] = _problem(_REASONS[422], 422)
                    _give_examples(operation, schemas)
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this as the way


def _guard(operation: dict[str, Any]) -> None:
    """Say of an operation that takes a key that it takes a token as well, and how it refuses."""
    scopes = [scope for each in operation["security"] for scope in each["key"]]
    operation["security"].append({_BY_TOKEN: scopes})
    for status in _REFUSED:
        operation["responses"][str(status)] = _problem(_REASONS[status], status)


def _client_credentials(url: str) -> dict[str, Any]:
    return {
        "type": "oauth2",
        "description": "A token for a key: its id is `client_id`, the key itself `client_secret`.",
        "flows": {"clientCredentials": {"tokenUrl": url, "scopes": _SCOPES}},
    }


def _problem(description: str, status: int) -> dict[str, Any]:
    shown = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": description,
        "instance": "/v1/documents",
        "request_id": "0198f3c27a3b7cc2a1f04d3f0c2f6b11",
    }
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        shown["errors"] = [{"pointer": "/content", "detail": "must not be empty"}]
    content = {"schema": ref(ProblemOut), "example": shown}
    return {"description": description, "content": {MEDIA_TYPE: content}}


def _give_examples(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Give each body of an operation's answers an example, unless it has one."""
    for response in operation["responses"].values():
        for content in response.get("content", {}).values():
            if "schema" in content and "example" not in content:
                content["example"] = example(content["schema"], schemas)
