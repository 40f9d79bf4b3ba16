"""HTTP/1.1 as uvicorn speaks it, for clients that are slow, greedy, or never say a word.

uvicorn waits for a request's head and body for ever, and keeps a header of any size. Here a client
is given so many seconds. The server counts them for all connections together: a timer for each
request would cost what its parsing does, and while the server itself is held up, nobody is blamed.
"""

from asyncio import Transport
from http import HTTPStatus
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from api import errors
from api.middleware import FOR_DATA, request_id

MAX_HEAD_BYTES: Final = 32 << 10
"""Bytes of the request line with all headers, and once more of what may follow a body."""

HEAD_SECONDS: Final = 10
"""Time for a head, from the connection's start or the last answer on."""

BODY_RATE: Final = 1 << 10
"""Bytes a second with which a body keeps up."""

_LINGER_SECONDS: Final = 3
_HURRY: Final = 5


class BoundedProtocol(HttpToolsProtocol):
    """One connection. The server calls `tick` every second.

    Attributes:
        room: connections of this process at most; whoever comes beyond that is sent away.
    """

    room: ClassVar[int] = 16_384

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._in_body = False
        self._refused = False
        self._beside = 0  # bytes since the last one of a body
        self._came = 0  # bytes of the body since the last tick
        self._behind = 0.0  # seconds
        self._unsent = 0
        self._running: RequestResponseCycle | None = None

    def tick(self, seconds: float, *, crowded: bool) -> None:
        """See whether the client keeps up.

        Args:
            seconds: how far it may fall behind with a body, or with reading.
            crowded: whether its place is wanted by others.
        """
        unsent, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if self._unsent < unsent:
            self._behind = 0
        if self._refused:
            self._wait(1, _LINGER_SECONDS)
        elif self._unsent:
            self._wait(1, seconds)
        elif self.flow.read_paused:
            pass  # it waits for us
        elif self._in_body:
            self._see_it_send(seconds)
        elif not self._answering:
            self._wait(_HURRY if crowded else 1, HEAD_SECONDS)

    def _see_it_send(self, seconds: float) -> None:
        if self.cycle.response_complete:  # it is answered already: nobody reads this
            self._wait(1, HEAD_SECONDS)
            return
        came, self._came = self._came, 0
        self._behind = max(0, self._behind - came / BODY_RATE)
        self._wait(1, seconds)

    def _wait(self, behind: float, seconds: float) -> None:
        self._behind += behind
        if self._behind <= seconds:
            return
        if self._refused or self._unsent:
            self.transport.abort()
        elif self._beside or self._in_body:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request took too long to arrive.")
        else:
            self.transport.close()  # it has not said a word

    @property
    def _answering(self) -> bool:
        # Before the first request there is none, whatever uvicorn's annotation says.
        return bool(self.cycle) and not self.cycle.response_complete

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # uvicorn's
        """Take a connection, if there is room."""
        super().connection_made(transport)
        if len(self.connections) > self.room:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Have the request under way know; uvicorn tells the one that came last."""
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        """Take some bytes, of which a head has so many at most."""
        if self._refused:
            return
        self._beside += len(data)
        super().data_received(data)
        if self._beside > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_headers_complete(self) -> None:
        """Begin with a request, whose body may be still to come."""
        if self._beside > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES:
            self._refuse_head()
            raise ValueError("too large")  # has the parser stop
        super().on_headers_complete()
        self._in_body = True
        self._behind = self._came = 0

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._beside = 0
        self._came += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_message_complete()
        self._in_body = False
        self._behind = self._beside = 0

    def resume_writing(self) -> None:
        """Go on with an answer, as the client has read."""
        self._behind = 0
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # it says no more than we do
        """Refuse what is no HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, "The request is not HTTP/1.1 as it should be.")

    def _refuse_head(self) -> None:
        detail = f"The headers must not have more than {MAX_HEAD_BYTES} bytes."
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer in the app's place, where an answer can still be given, and close."""
        if self._refused or self.transport.is_closing():
            return
        answering, self._refused, self._behind = self._answering, True, 0
        self._unset_keepalive_if_required()
        fits = answering == self._in_body and not (answering and self.cycle.response_started)
        if answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not fits:
            self.transport.close()
            return
        self.transport.write(self._answer(status, detail))
        # Closing now, while the client still sends, would take the answer away from it.
        self.transport.write_eof()

    def _answer(self, status: HTTPStatus, detail: str) -> bytes:
        sent = dict(self.headers or ()).get(b"x-request-id", b"").decode("latin-1")
        state, path = (self.scope["state"], self.scope["path"]) if self._in_body else ({}, "/")
        own = state.get("request_id") or request_id(sent)
        content = errors.content(status, detail, path, own)
        headers = (
            (b"content-type", errors.MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(content)),
            (b"connection", b"close"),
            (b"x-request-id", own.encode("latin-1")),
            *self.server_state.default_headers,
            *FOR_DATA,
        )
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        return STATUS_LINE[status] + lines + b"\r\n" + content
