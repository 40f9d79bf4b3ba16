"""What is done to every request: an id, measures and limits, careful headers, HEAD as GET."""

import re
from collections.abc import Awaitable
from secrets import token_hex
from time import perf_counter
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import meters

# Few: each costs a microsecond. `frame-ancestors` below says what X-Frame-Options did.
_EVERYWHERE: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

FOR_DATA: Final = (
    *_EVERYWHERE,
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Headers that have browsers be careful with an answer that is no page."""

# Those of the documentation have a script in them, and ReDoc makes itself a worker.
_PAGE_POLICY: Final = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; font-src 'self' data:; worker-src 'self' blob:; "
    b"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)

FOR_PAGES: Final = (*_EVERYWHERE, (b"content-security-policy", _PAGE_POLICY))
"""The same for pages: they may have what comes from us."""

_PAGE: Final = (b"content-type", b"text/html; charset=utf-8")

_FINE: Final = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)


def request_id(sent: str) -> str:
    """Return the id of a request: that which the client has `sent`, if it is fine, or a new one."""
    return sent if _FINE.fullmatch(sent) else token_hex(16)


class RequestId:
    """Says an id in the answer and in every log line of the request.

    Takes the client's `X-Request-Id`, or makes one; plain ASGI, as it is on the hot path.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = request_id(Headers(scope=scope).get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = own

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = own
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=own):
            await self._app(scope, receive, send_with_id)


class RateLimits:
    """Says in answers what the caller's key has left, and counts bodies whose size is not told."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def receive_counted() -> Message:
            message = await receive()
            if count := state.get("count_bytes"):
                count(len(message.get("body", b"")))
            return message

        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start" and (rate := state.get("rate")):
                MutableHeaders(scope=message).update(rate.headers)
            await send(message)

        await self._app(scope, receive_counted, send_with_rate)


class SecurityHeaders:
    """Has browsers be careful with whatever is answered; nginx says the same in its own name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""

        def send_safely(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                sent = message["headers"]
                message["headers"] = [*sent, *(FOR_PAGES if _PAGE in sent else FOR_DATA)]
            return send(message)

        return self._app(scope, receive, send_safely)


class Measured:
    """Measures how long each answer takes, all other middleware included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; one that gets no answer counts as failed."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        status = 500

        def send_and_see(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        try:
            await self._app(scope, receive, send_and_see)
        finally:
            meters.answered(scope, status, perf_counter() - start)


class HeadAsGet:
    """Has the GET routes answer HEAD; the server keeps the body back.

    As methods of the routes they would be documented, each operation twice.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # A copy: by the method in its own the server knows that there is no body to send.
            scope = {**scope, "method": "GET"}
            # For routes whose body is long in the making.
            scope.setdefault("state", {})["head"] = True
        return self._app(scope, receive, send)
