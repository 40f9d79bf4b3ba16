"""Problem details (RFC 9457): every error of the API has this one shape.

    Problem
    ├── Malformed              400  the body is no JSON
    ├── Unauthenticated        401  it cannot be told who calls
    ├── Forbidden              403  the caller may not do that
    ├── NotFound               404  what the path names is not there
    ├── TooSlow                408  the body took too long to arrive
    ├── Conflict               409  it is not in a state to do that with
    ├── ContentTooLarge        413  the body is too large
    ├── UnsupportedMediaType   415  the body's type or encoding is not one of ours
    ├── Invalid                422  a field is wrong; `errors` names it
    ├── TooManyRequests        429  the caller's key has used what it may
    ├── Crowded                503  too many large bodies come in at the same time
    └── Interrupted            503  a part of the body was accepted; the detail says how to go on

Errors of the domain, from `shared.errors`, get their status in `_DOMAIN`.
"""

from collections.abc import Mapping, Sequence
from http import HTTPMethod, HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Mount

from api import meters
from api.middleware import FOR_DATA
from api.schemas.problem import MAX_ERRORS, FieldError
from shared.errors import (
    BacklogFull,
    BrokerUnavailable,
    DatabaseUnavailable,
    DocumentNotFound,
    IssuerUnavailable,
    PostroomError,
    PreconditionFailed,
    TooBroad,
    TooManyExports,
    WorkersUnavailable,
)

MEDIA_TYPE: Final = "application/problem+json"

_PLAIN: Final = "/:@!$&'()*+,;="

logger = structlog.get_logger(__name__)


class Problem(Exception):
    """An error with a status, as the client shall see it."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.headers = headers


class Malformed(Problem):
    """The body is no JSON at all."""

    status = HTTPStatus.BAD_REQUEST


class Unauthenticated(Problem):
    """It cannot be told who calls."""

    status = HTTPStatus.UNAUTHORIZED

    def __init__(self, detail: str, challenge: Mapping[str, str]) -> None:
        """Say why; `challenge` are parameters of `WWW-Authenticate` (RFC 6750)."""
        super().__init__(detail, headers={"WWW-Authenticate": _challenge(challenge)})


class Forbidden(Problem):
    """The caller may not do that."""

    status = HTTPStatus.FORBIDDEN

    def __init__(self, detail: str, scope: str) -> None:
        """Say why, and which scope would do."""
        challenge = {"error": "insufficient_scope", "scope": scope}
        super().__init__(detail, headers={"WWW-Authenticate": _challenge(challenge)})


def _challenge(parameters: Mapping[str, str]) -> str:
    named = {"realm": "postroom", **parameters}
    return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in named.items())


class NotFound(Problem):
    """What the path names is not there."""

    status = HTTPStatus.NOT_FOUND


class TooSlow(Problem):
    """The body took too long to arrive; the connection ends, as the rest is not waited for."""

    status = HTTPStatus.REQUEST_TIMEOUT

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Connection": "close"})


class Conflict(Problem):
    """What the path names is not in a state to do that with; the detail says why."""

    status = HTTPStatus.CONFLICT


class ContentTooLarge(Problem):
    """The body is larger than we take."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UnsupportedMediaType(Problem):
    """The body's type or encoding is none that this route reads."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class Invalid(Problem):
    """Fields of the request are wrong; `errors` names each."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class TooManyRequests(Problem):
    """The caller's key has used what it may."""

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, detail: str, seconds: int) -> None:
        """Say so, and after how many seconds it may go on."""
        super().__init__(detail, headers={"Retry-After": str(seconds)})


class Crowded(Problem):
    """Too many large bodies come in at the same time; the rest of this one is not waited for."""

    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self) -> None:
        super().__init__(
            "Too many large bodies come in at once, so nothing was accepted. Send it again.",
            headers={"Retry-After": "1", "Connection": "close"},
        )


class Interrupted(Problem):
    """A part of the body was accepted, and the rest was not; the detail says how to go on."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


_DOMAIN: Final[dict[type[PostroomError], tuple[HTTPStatus, str, int | None]]] = {
    BrokerUnavailable: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The broker did not confirm the message, so nothing was accepted. Send it again.",
        1,
    ),
    BacklogFull: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Too many documents wait to be processed, so nothing was accepted. Send it again later.",
        5,
    ),
    DatabaseUnavailable: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The database does not answer at the moment. Try again.",
        1,
    ),
    WorkersUnavailable: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "No worker has answered in time. Nothing was stored; send it again.",
        1,
    ),
    IssuerUnavailable: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The keys of whoever issues these tokens cannot be had at the moment. Try again.",
        5,
    ),
    DocumentNotFound: (
        HTTPStatus.NOT_FOUND,
        "No document of this id is stored. It may be on its way, deleted, or unknown.",
        1,
    ),
    PreconditionFailed: (
        HTTPStatus.PRECONDITION_FAILED,
        "The document is not as the request's precondition asks for; nothing was changed.",
        None,
    ),
    TooBroad: (
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "Too many documents would have to be looked at. Narrow it down, as by `created_after`.",
        None,
    ),
    TooManyExports: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "As many exports as may run at once are running. Try again later.",
        10,
    ),
}
"""Status, detail and seconds of `Retry-After`, if any, for each error of the domain."""


def install(app: FastAPI) -> None:
    """Make `app` answer every error with problem details."""

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return render(
            request, error.status, error.detail, error.errors, error.headers, kind=type(error)
        )

    @app.exception_handler(PostroomError)
    async def domain(request: Request, error: PostroomError) -> Response:
        return refused(request, error)

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        if request.path_params and _named(request):
            # What was taken for an id is a path of ours, which has other methods.
            return await http(request, HTTPException(HTTPStatus.METHOD_NOT_ALLOWED))
        errors = [FieldError.found(each) for each in error.errors()]
        detail = "The request has wrong parameters."
        return render(request, Invalid.status, detail, errors, kind=Invalid)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        status, headers = HTTPStatus(error.status_code), error.headers
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers = _allowed(request) or headers
        return render(request, status, error.detail, headers=headers)

    @app.exception_handler(ClientDisconnect)
    async def disconnected(request: Request, _: ClientDisconnect) -> Response:
        # Nobody reads this. The body did not arrive as a whole, so nothing was accepted.
        return render(request, Malformed.status, "The body ended early.", kind=Malformed)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        logger.error("request failed", path=request.scope["path"], exc_info=error)
        response = render(request, Problem.status, "Postroom failed. Its log says why.")
        # This answer goes out above the middleware that adds to all others.
        response.headers["X-Request-Id"] = request.state.request_id
        response.raw_headers.extend(FOR_DATA)
        return response


def refused(request: Request, error: PostroomError) -> Response:
    """Return the response to a request that an error of the domain has ended."""
    status, detail, seconds = _DOMAIN[type(error)]
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        # Thousands a second in an outage; that there is one is said once, where it is noticed.
        logger.debug("request refused", error=type(error).__name__, reason=str(error))
    headers = {"Retry-After": str(seconds)} if seconds else None
    return render(request, status, detail, headers=headers, kind=type(error))


def _named(request: Request) -> set[str]:
    """Return the methods of a path without parameters, as the schema knows it; else none."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    found = {method.upper() for method in request.app.openapi()["paths"].get(path, ())}
    if HTTPMethod.GET in found:
        found.add(HTTPMethod.HEAD)  # see `HeadAsGet`
    return found


def _allowed(request: Request) -> dict[str, str]:
    """Return `Allow` with all methods of the path; each route knows its own only.

    Nothing for a mounted folder, which takes every method and says itself which it means.
    """
    if named := _named(request):
        return {"Allow": ", ".join(sorted(named))}
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    found = {
        method
        for method in HTTPMethod
        for route in routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }
    if HTTPMethod.GET in found:
        found.add(HTTPMethod.HEAD)  # see `HeadAsGet`
    return {"Allow": ", ".join(sorted(found))} if found else {}


def render(
    request: Request,
    status: HTTPStatus,
    detail: str,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
    *,
    kind: type[Exception] | None = None,
) -> Response:
    """Return a response with problem details; it is counted by the kind of error, or its status."""
    documents = getattr(request.state, "documents", 1)
    error = kind.__name__ if kind else status.phrase.replace(" ", "")
    meters.refused(request.scope, error, documents)
    body = content(status, detail, request.scope["path"], request.state.request_id, errors)
    return Response(body, status, headers, media_type=MEDIA_TYPE)


def content(
    status: HTTPStatus,
    detail: str,
    path: str,
    request_id: str,
    errors: Sequence[FieldError] = (),
) -> bytes:
    """Return problem details as the body of a response."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status,
        "detail": detail,
        "instance": quote(path, safe=_PLAIN),
        "request_id": request_id,
    }
    if errors:
        body["errors"] = [each.model_dump() for each in errors[:MAX_ERRORS]]
    return orjson.dumps(body)
