"""Tokens for clients that speak OAuth 2 (RFC 6749, section 4.4): a client is a key."""

from base64 import b64decode
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_plus

from fastapi import APIRouter, Request, Response

from api import body
from api.callers import Callers
from api.deps import ServicesDep
from api.errors import Malformed, UnsupportedMediaType
from api.openapi import problems, ref, request_body
from api.responses import json_response
from api.schemas.token import Refusal, TokenErrorOut, TokenIn, TokenOut
from shared.access import Key, Scope, scopes

router = APIRouter(tags=["keys"])

_FORM: Final = "application/x-www-form-urlencoded"
_MOST_FIELDS: Final = 20
_UNTOLD: Final = {"Cache-Control": "no-store"}
_CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="postroom"'}
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": TokenErrorOut, "description": "The request is wrong; `error` says how."},
    401: {"model": TokenErrorOut, "description": "There is no such client."},
}


class _Refused(Exception):
    """There is no token."""

    def __init__(self, error: Refusal, description: str) -> None:
        super().__init__(description)
        self.error = error

    def response(self) -> Response:
        unknown = self.error == "invalid_client"
        status = HTTPStatus.UNAUTHORIZED if unknown else HTTPStatus.BAD_REQUEST
        told = TokenErrorOut(error=self.error, error_description=str(self))
        return json_response(status, told.model_dump(), _UNTOLD | (_CHALLENGE if unknown else {}))


@router.post(
    "/v1/token",
    operation_id="createToken",
    response_model=TokenOut,
    openapi_extra=request_body({_FORM: ref(TokenIn)}),
    responses=_ERRORS | problems(413, 503),
)
async def create_token(request: Request, services: ServicesDep) -> Response:
    """Issue a token for a key: `client_id` is the key's id, `client_secret` the key itself.

    It is valid for five minutes, and no longer than its key.
    """
    try:
        token = await _issue(request, services.callers)
    except _Refused as refusal:
        return refusal.response()
    return json_response(HTTPStatus.OK, token.model_dump(), _UNTOLD)


async def _issue(request: Request, callers: Callers | None) -> TokenOut:
    if callers is None:
        raise _Refused("invalid_request", "Nobody is asked who they are here: send no token.")
    form = await _form(request)
    if form.get("grant_type") != "client_credentials":
        wrong: Refusal = "unsupported_grant_type" if "grant_type" in form else "invalid_request"
        raise _Refused(wrong, "Send grant_type=client_credentials.")
    key = await callers.client(*_client(request, form))
    if key is None:
        raise _Refused("invalid_client", "Send the id of a key that is valid, and the key itself.")
    wanted = _wanted(form.get("scope", ""), key)
    issued = callers.issue(key, wanted)
    return TokenOut(
        access_token=issued.token,
        token_type="Bearer",  # noqa: S106  # no password
        expires_in=issued.seconds,
        scope=" ".join(sorted(wanted)),
    )


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form; those without a value are left out, as is to be done."""
    try:
        body.media_type(request, (_FORM,))
        content = (await body.read(request)).decode("ascii")
        fields = parse_qsl(content, max_num_fields=_MOST_FIELDS, errors="strict")
    except (UnsupportedMediaType, Malformed, ValueError) as error:
        raise _Refused("invalid_request", f"Send a form: {_FORM}.") from error
    form = dict(fields)
    if len(form) < len(fields):
        raise _Refused("invalid_request", "Send each field once.")
    return form


def _client(request: Request, form: Mapping[str, str]) -> tuple[str, str]:
    """Return id and secret of a client; empty ones if it says none."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return form.get("client_id", ""), form.get("client_secret", "")
    if "client_secret" in form:
        raise _Refused("invalid_request", "Say who you are once: in the header, or in the body.")
    try:
        name, _, secret = b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return unquote_plus(name), unquote_plus(secret)


def _wanted(asked: str, key: Key) -> frozenset[Scope]:
    """Return the scopes that are asked for; without any, all that the key has."""
    names = set(asked.split())
    wanted = scopes(names)
    if len(wanted) < len(names) or not all(map(key.caller.may, wanted)):
        raise _Refused("invalid_scope", "Ask for scopes that the key has, separated by spaces.")
    return wanted or key.caller.scopes
