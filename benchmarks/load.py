"""The client: posts bodies over many connections, from a process of its own."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from multiprocessing import get_context
from statistics import median
from time import perf_counter, sleep
from typing import Final, TypeVar

import aiohttp
import orjson
import psycopg2
import uvloop

ResultT = TypeVar("ResultT")

_JSON: Final = {"Content-Type": "application/json"}
_POLL_SECONDS: Final = 0.001
_DEADLINE_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Latency:
    """Medians in milliseconds, from the request's start: to the 202, and to the row."""

    accepted: float
    stored: float


def post_all(url: str, bodies: Sequence[bytes], connections: int) -> float:
    """Post every body, each connection one after the other; return the seconds it took.

    Raises:
        RuntimeError: an answer was not 202.
    """
    return _elsewhere(_post_all, url, bodies, connections)


def latency(url: str, database_url: str, bodies: Sequence[bytes]) -> Latency:
    """Post bodies one at a time, each after the one before is in the table `documents`.

    The table is asked every millisecond, over a connection of the client's own.

    Raises:
        RuntimeError: an answer was not 202, or a row did not come.
    """
    return _elsewhere(_latency, url, database_url, bodies)


def _elsewhere(function: Callable[..., ResultT], *args: object) -> ResultT:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(function, *args).result()


def _post_all(url: str, bodies: Sequence[bytes], connections: int) -> float:
    return uvloop.run(_post_concurrently(url, bodies, connections))


async def _post_concurrently(url: str, bodies: Iterable[bytes], connections: int) -> float:
    left = iter(bodies)

    async def connection() -> None:
        for body in left:
            await _post(session, url, body)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
        start = perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(connection())
        return perf_counter() - start


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> bytes:
    async with session.post(url, data=body, headers=_JSON) as answer:
        content = await answer.read()
        if answer.status != HTTPStatus.ACCEPTED:
            msg = f"{url} answered {answer.status}: {content[:500].decode(errors='replace')}"
            raise RuntimeError(msg)
        return content


def _latency(url: str, database_url: str, bodies: Iterable[bytes]) -> Latency:
    return uvloop.run(_post_one_by_one(url, database_url, bodies))


async def _post_one_by_one(url: str, database_url: str, bodies: Iterable[bytes]) -> Latency:
    accepted, stored = [], []
    with closing(psycopg2.connect(database_url)) as database:
        database.autocommit = True
        cursor = database.cursor()
        async with aiohttp.ClientSession() as session:
            for body in bodies:
                start = perf_counter()
                document = orjson.loads(await _post(session, url, body))["id"]
                accepted.append(perf_counter() - start)
                _wait_for(cursor, document)
                stored.append(perf_counter() - start)
    return Latency(1000 * median(accepted), 1000 * median(stored))


def _wait_for(cursor: psycopg2.extensions.cursor, document: str) -> None:
    """Block until the row is there; nothing else happens in this process meanwhile."""
    end = perf_counter() + _DEADLINE_SECONDS
    while perf_counter() < end:
        cursor.execute("SELECT FROM documents WHERE id = %s", (document,))
        if cursor.fetchone() is not None:
            return
        sleep(_POLL_SECONDS)
    msg = f"{document} was not stored within {_DEADLINE_SECONDS:.0f} s"
    raise RuntimeError(msg)
