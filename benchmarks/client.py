"""An HTTP/1.1 client for loopback that costs little: it shares the cores with what it measures.

A request takes it a quarter of the processor time that it takes aiohttp, which needs as much as
the server. uvicorn's own parser, httptools, reads the answers.
"""

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Final, Self, cast
from urllib.parse import urlsplit

import httptools

_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 2.0


class Client:
    """Asks one server over connections that are kept; a context manager on one event loop."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        """Connect to nothing yet.

        Args:
            url: any of the server, `http://HOST:PORT/…`.
            headers: of each request.
        """
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 80
        lines = {"Host": address.netloc, **headers}.items()
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in lines)
        self._idle: list[_Connection] = []

    async def ask(self, method: str, url: str, body: bytes = b"") -> tuple[int, bytes]:
        """Ask over an idle connection, or a new one; return the answer's status and body.

        Raises:
            OSError: the server does not answer.
            TimeoutError: not within a minute.
        """
        target = url.split("/", 3)[3]
        head = f"{method} /{target} HTTP/1.1\r\n{self._headers}Content-Length: {len(body)}\r\n\r\n"
        connection = self._take() or await self._connect()
        answer = await connection.ask(head.encode() + body)
        self._idle.append(connection)
        return answer

    def _take(self) -> "_Connection | None":
        """Return the connection used last, unless the server may be about to close even that."""
        if self._idle and monotonic() - self._idle[-1].used_at < _IDLE_SECONDS:
            return self._idle.pop()
        return None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self._idle:
            each.close()


class _Connection(asyncio.Protocol):
    _transport: asyncio.Transport
    _answer: asyncio.Future[tuple[int, bytes]]

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self.used_at = monotonic()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._transport.write(request)
        patience = loop.call_later(_SECONDS, self._fail, TimeoutError("no answer"))
        try:
            return await self._answer
        finally:
            patience.cancel()

    def close(self) -> None:
        self._transport.close()

    def _fail(self, error: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)

    # asyncio's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if hasattr(self, "_answer"):
            self._fail(exc or ConnectionError("closed by the server"))

    # the parser's

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), b"".join(self._body)))
        self._body.clear()
        self.used_at = monotonic()
