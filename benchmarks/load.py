"""The client: asks over many connections, from a process of its own."""

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from itertools import cycle, islice
from multiprocessing import get_context
from statistics import median
from time import perf_counter, sleep, time
from typing import Final, TypeVar

import orjson
import psycopg2
import uvloop

from benchmarks.client import Client

ResultT = TypeVar("ResultT")

_KEY: Final = "POSTROOM_KEY"
"""Of the environment, which processes of their own inherit: what every request shows."""
_POLL_SECONDS: Final = 0.001
_DEADLINE_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Answered:
    """What many requests took: seconds in all, the median and the 99th percentile in ms."""

    requests: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


@dataclass(frozen=True)
class Latency:
    """Medians in milliseconds, from the request's start: to the 202, and to the row."""

    accepted: float
    stored: float


def show(key: str) -> None:
    """Have every request from now on show a key."""
    os.environ[_KEY] = key


def shown() -> dict[str, str]:
    """Return the header that shows the key, if there is one."""
    key = os.environ.get(_KEY)
    return {"Authorization": f"Bearer {key}"} if key else {}


def post_all(
    url: str, bodies: Sequence[bytes], connections: int, status: int = HTTPStatus.ACCEPTED
) -> Answered:
    """Post every body, each connection one after the other.

    Raises:
        RuntimeError: an answer was not `status`.
    """
    return _elsewhere(_all, "POST", [url] * len(bodies), bodies, connections, status)


def get_all(urls: Sequence[str], connections: int) -> Answered:
    """Get every URL, each connection one after the other.

    Raises:
        RuntimeError: an answer was not 200.
    """
    return _elsewhere(_all, "GET", urls, [b""] * len(urls), connections, HTTPStatus.OK)


def post_evenly(url: str, bodies: Sequence[bytes], per_second: float) -> list[tuple[str, float]]:
    """Post bodies at a steady rate, whether answered or not; return id and time sent of each.

    Times are in seconds since the epoch.

    Raises:
        RuntimeError: an answer was not 202.
    """
    return _elsewhere(_evenly, url, bodies, per_second)


def post_steadily(requests: Sequence[tuple[str, bytes]], per_second: float, seconds: float) -> None:
    """Post bodies to URLs, the same again after a while, at a steady rate.

    Raises:
        RuntimeError: an answer was not 202.
    """
    _elsewhere(_steadily, requests, per_second, seconds)


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


def _all(
    method: str, urls: Sequence[str], bodies: Sequence[bytes], connections: int, status: int
) -> Answered:
    return uvloop.run(_concurrently(method, urls, bodies, connections, status))


async def _concurrently(
    method: str, urls: Sequence[str], bodies: Sequence[bytes], connections: int, status: int
) -> Answered:
    left = zip(urls, bodies, strict=True)
    taken: list[float] = []

    async def connection() -> None:
        for url, body in left:
            start = perf_counter()
            await _ask(client, method, url, body, status)
            taken.append(perf_counter() - start)

    async with _client(urls[0]) as client:
        start = perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(connection())
        seconds = perf_counter() - start
    p50, p99 = percentiles(taken)
    return Answered(len(taken), seconds, p50, p99)


def percentiles(seconds: Iterable[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile in milliseconds."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return 1000 * ordered[last // 2], 1000 * ordered[round(last * 0.99)]


def _evenly(url: str, bodies: Sequence[bytes], per_second: float) -> list[tuple[str, float]]:
    return uvloop.run(_post_evenly(url, bodies, per_second))


async def _post_evenly(
    url: str, bodies: Sequence[bytes], per_second: float
) -> list[tuple[str, float]]:
    sent: list[tuple[str, float]] = []

    async def post(body: bytes) -> None:
        now = time()
        answer = await _ask(client, "POST", url, body, HTTPStatus.ACCEPTED)
        sent.append((orjson.loads(answer)["id"], now))

    async with _client(url) as client:
        start = perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, body in enumerate(bodies):
                await asyncio.sleep(max(0.0, start + number / per_second - perf_counter()))
                group.create_task(post(body))
    return sent


def _steadily(requests: Sequence[tuple[str, bytes]], per_second: float, seconds: float) -> None:
    uvloop.run(_post_steadily(requests, per_second, seconds))


async def _post_steadily(
    requests: Sequence[tuple[str, bytes]], per_second: float, seconds: float
) -> None:
    count = int(per_second * seconds)
    async with _client(requests[0][0]) as client:
        start = perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, (url, body) in enumerate(islice(cycle(requests), count)):
                await asyncio.sleep(max(0.0, start + number / per_second - perf_counter()))
                group.create_task(_ask(client, "POST", url, body, HTTPStatus.ACCEPTED))


def _client(url: str) -> Client:
    return Client(url, {"Content-Type": "application/json", **shown()})


async def _ask(client: Client, method: str, url: str, body: bytes, status: int) -> bytes:
    answered, content = await client.ask(method, url, body)
    if answered != status:
        msg = f"{url} answered {answered}: {content[:500].decode(errors='replace')}"
        raise RuntimeError(msg)
    return content


def _latency(url: str, database_url: str, bodies: Iterable[bytes]) -> Latency:
    return uvloop.run(_post_one_by_one(url, database_url, bodies))


async def _post_one_by_one(url: str, database_url: str, bodies: Iterable[bytes]) -> Latency:
    accepted, stored = [], []
    with closing(psycopg2.connect(database_url)) as database:
        database.autocommit = True
        cursor = database.cursor()
        async with _client(url) as client:
            for body in bodies:
                start = perf_counter()
                answer = await _ask(client, "POST", url, body, HTTPStatus.ACCEPTED)
                document = orjson.loads(answer)["id"]
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
