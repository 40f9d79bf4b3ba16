"""A TCP proxy that cuts connections, delays what they carry, or goes silent."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

from local.ports import LOOPBACK, free_ports
from tests.background import Background

_CHUNK: Final = 1 << 16
_AHEAD: Final = 64
"""Chunks that may be on their way in one direction: a slow line still pushes back."""


class Proxy:
    """Forwards a port of its own to another one on this host, as well as it is told to.

    Attributes:
        port: where clients connect.
        delay: (to the server, to the client) seconds that each piece of data is on its way.
    """

    def __init__(self, background: Background, target: int) -> None:
        self.port = free_ports(1)[0]
        self.delay = (0.0, 0.0)
        self._background = background
        self._target = target
        self._open = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = background.run(self._start())

    def silence(self) -> None:
        """Let nothing through in either direction and tell nobody, as a cable that is pulled.

        New connections are taken, but what is said on them stays unheard, too. TCP keeps what
        was sent: whoever still waits when `speak` is called gets it then.
        """
        self._background.loop.call_soon_threadsafe(self._open.clear)

    def speak(self, *, forget: bool = False) -> None:
        """End the silence, for new connections only if those that there are shall be forgotten."""
        if forget:
            self._open = asyncio.Event()
        self._background.loop.call_soon_threadsafe(self._open.set)

    def cut(self) -> None:
        """Reset every connection."""
        self._background.run(self._cut())

    def close(self) -> None:
        """Take no connections any more, and reset those that there are."""
        self._background.loop.call_soon_threadsafe(self._server.close)
        self.cut()

    async def _start(self) -> asyncio.Server:
        self._open.set()
        return await asyncio.start_server(self._serve, LOOPBACK, self.port, backlog=200)

    async def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._kept(writer), contextlib.suppress(OSError):
            line = self._open
            await line.wait()
            there, back = await asyncio.open_connection(LOOPBACK, self._target)
            with self._kept(back):
                await asyncio.gather(
                    self._carry(reader, back, 0, line), self._carry(there, writer, 1, line)
                )

    @contextlib.contextmanager
    def _kept(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        """Know a connection as long as the block runs, and reset it in the end."""
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.remove(writer)
            writer.transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: int,
        line: asyncio.Event,
    ) -> None:
        """Carry one direction; an end of file on either side ends both."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_AHEAD)
        delivering = asyncio.create_task(self._deliver(pieces, writer, line))
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                due = asyncio.get_running_loop().time() + self.delay[direction]
                await pieces.put((due, data))
        await pieces.put((0, b""))
        await delivering

    async def _deliver(
        self,
        pieces: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        line: asyncio.Event,
    ) -> None:
        while (piece := await pieces.get())[1]:
            due, data = piece
            await asyncio.sleep(max(0, due - asyncio.get_running_loop().time()))
            await line.wait()
            with contextlib.suppress(OSError):
                writer.write(data)
                await writer.drain()
        await line.wait()
        with contextlib.suppress(OSError):
            writer.close()
