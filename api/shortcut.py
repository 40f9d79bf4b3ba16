"""The shortest way for the commonest request: one document to accept, and nothing asked beside.

The framework takes longer for such a request than we do. So the plainest are answered before it, as
`routes.documents.create_document` would; a test compares the two. It still sees all others, and
whatever is wrong, with the body that was read already: errors are made in one place.
"""

from http import HTTPStatus
from typing import Final

import orjson
import structlog
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import body, errors, responses
from api.deps import Services
from api.intake import stamped
from api.middleware import request_id
from api.schemas.document import DocumentIn
from api.validation import validated
from shared import access
from shared.errors import PostroomError

ASKING: Final = frozenset(
    {b"prefer", b"idempotency-key", b"if-match", b"if-none-match", b"content-encoding"}
)
"""Headers that ask for more than to accept a document."""

_MAX_BYTES: Final = 1 << 18
"""What is larger gains nothing, and would be parsed twice if it is wrong."""

_JSON: Final = body.JSON.encode()


class Shortcut:
    """Accepts the plainest documents itself; goes around all other middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        sent = _plain_headers(scope)
        if sent is None or not (caller := _caller(sent, services := scope["app"].state.services)):
            await self._app(scope, receive, send)
            return
        messages = await _whole(receive)
        content = b"".join([each.get("body", b"") for each in messages])
        document = _read(content, services) if messages[-1]["type"] == "http.request" else None
        rate = None if document is None else services.gate.rates.count(caller, len(content))
        if document is None or (rate and rate.exceeded):
            await self._app(scope, _again(messages, receive), send)
            return
        own = request_id(_text(sent, b"x-request-id"))
        scope.setdefault("state", {})["request_id"] = own
        message = stamped(document, services.clock, own)
        try:
            receipt = await services.intake.accept(message, len(content))
        except PostroomError as error:
            with structlog.contextvars.bound_contextvars(request_id=own):
                refusal = errors.refused(Request(scope), error)
            refusal.headers["X-Request-Id"] = own
            refusal.headers.update(rate.headers if rate else {})
            await refusal(scope, receive, send)
            return
        services.journal.count(caller, responses.CREATE_DOCUMENT, 1)
        answer, place = responses.accepted(
            message, receipt.envelope.task_id, scope.get("root_path", "")
        )
        encoded = orjson.dumps(answer)
        headers = [
            (b"location", place.encode("latin-1")),
            (b"content-length", b"%d" % len(encoded)),
            (b"content-type", _JSON),
            (b"x-request-id", own.encode("latin-1")),
        ]
        if rate:
            headers += [
                (name.lower().encode(), value.encode()) for name, value in rate.headers.items()
            ]
        start = {"type": "http.response.start", "status": HTTPStatus.ACCEPTED, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": encoded})


def _plain_headers(scope: Scope) -> dict[bytes, bytes] | None:
    """Return the headers of a request to accept a document of JSON, and nothing beside; else None.

    Of a header that comes twice it is the first, as the framework has it.
    """
    if scope["type"] != "http" or scope["path"] != responses.DOCUMENTS or scope["method"] != "POST":
        return None
    headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
    length = headers.get(b"content-length", b"")
    plain = (
        not scope["query_string"]
        and ASKING.isdisjoint(headers)
        and headers.get(b"content-type") == _JSON
        and length.isdigit()
        and int(length[:20]) <= _MAX_BYTES
    )
    return headers if plain else None


def _caller(sent: dict[bytes, bytes], services: Services) -> access.Caller | None:
    """Return the caller if they are known, and may accept documents."""
    authorization = _text(sent, b"authorization")
    return services.gate.admit_at_once(authorization, access.Scope.DOCUMENTS_WRITE)


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1")


async def _whole(receive: Receive) -> list[Message]:
    """Return the messages that bring a body; if the client goes away, that is the last one."""
    messages = [await receive()]
    while messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def _again(messages: list[Message], receive: Receive) -> Receive:
    """Return what receives the same messages once more, and then what comes next."""
    left = iter(messages)

    async def receive_again() -> Message:
        return next(left, None) or await receive()

    return receive_again


def _read(content: bytes, services: Services) -> DocumentIn | None:
    """Return the document of a body, or None if something is wrong."""
    try:
        value = body.parse(content)
    except errors.Problem:
        return None
    document = validated(value, services.settings.max_content_bytes)
    return document if isinstance(document, DocumentIn) else None
