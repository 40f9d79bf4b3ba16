"""Measure `POST /v1/classify`, idle and while a bulk import keeps all children busy.

`python -m benchmarks.classify`. One API process and one worker with two children, on a PostgreSQL
and a RabbitMQ made for it; client and servers share the cores.
"""

import argparse
import asyncio
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from multiprocessing.synchronize import Event
from time import perf_counter, sleep
from typing import Final

import aiohttp
import orjson
import uvloop
from uuid_utils.compat import uuid7

from benchmarks.load import shown
from benchmarks.stack import Stack, site
from benchmarks.texts import texts
from local.server import ServerError, wait_until
from shared.account import Account
from shared.messages import BULK_QUEUE, INGEST, Message
from shared.queue import Gauge, Publisher, celery_app
from shared.revision import microseconds_now

CONNECTIONS: Final = (1, 16)
BULK_DOCUMENTS: Final = 100
BULK_WAITING: Final = 30
PAUSE_SECONDS: Final = 0.02
"""A single client asks now and then, as people do; many ask as fast as they are answered."""

_JSON: Final = {"Content-Type": "application/json"}
_SPAWN: Final = multiprocessing.get_context("spawn")


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.classify")
    parser.add_argument("--seconds", type=float, default=15, help="of each of four measurements")
    seconds = parser.parse_args().seconds
    where, contents = texts()
    print(f"{where}; two worker children", flush=True)
    try:
        with site() as servers:
            stack = servers.ours()
            with stack.api, stack.pair:
                _measure(stack, contents[:500], seconds)
    except ServerError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(stack: Stack, contents: list[str], seconds: float) -> None:
    url = stack.documents_url.replace("/documents", "/classify")
    if not wait_until(lambda: _ask(url, contents, 1, 0.1) is not None, 60):
        raise ServerError("the worker does not answer")
    for connections in CONNECTIONS:
        _say("idle", connections, _ask(url, contents, connections, seconds))
    stop = _SPAWN.Event()
    flood = _SPAWN.Process(target=_flood, args=(stack.broker_url, contents, stop))
    flood.start()
    try:
        wait_until(lambda: stack.stored() > 10 * BULK_DOCUMENTS, 60)
        before, start = stack.stored(), perf_counter()
        for connections in CONNECTIONS:
            _say("during a bulk import", connections, _ask(url, contents, connections, seconds))
        rate = (stack.stored() - before) / (perf_counter() - start)
        print(f"meanwhile {rate:,.0f} documents/s were stored")
    finally:
        stop.set()
        flood.join()


def _say(when: str, connections: int, found: list[float] | None) -> None:
    if not found:
        raise ServerError("a question was not answered")
    found.sort()
    p50, p99 = (1000 * found[int(share * (len(found) - 1))] for share in (0.5, 0.99))
    rate = len(found) * connections / sum(found)
    asked = f"{rate:,.0f}/s" if connections > 1 else f"{len(found)} questions"
    text = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {1000 * found[-1]:.1f} ms"
    print(f"{when}, {connections} connections: {asked}, {text}", flush=True)


def _ask(url: str, contents: list[str], connections: int, seconds: float) -> list[float] | None:
    """Return how many seconds each answer took; None if one was not 200."""
    with ProcessPoolExecutor(1, _SPAWN) as process:
        return process.submit(_ask_here, url, contents, connections, seconds).result()


def _ask_here(
    url: str, contents: list[str], connections: int, seconds: float
) -> list[float] | None:
    return uvloop.run(_ask_concurrently(url, contents, connections, seconds))


async def _ask_concurrently(
    url: str, contents: list[str], connections: int, seconds: float
) -> list[float] | None:
    bodies = cycle(orjson.dumps({"content": each}) for each in contents)
    taken: list[float] = []
    refused = 0

    async def connection() -> None:
        nonlocal refused
        while perf_counter() < end:
            start = perf_counter()
            async with session.post(url, data=next(bodies), headers=_JSON | shown()) as answer:
                await answer.read()
                refused += answer.status != 200  # noqa: PLR2004  # the one good answer
            taken.append(perf_counter() - start)
            if connections == 1:
                await asyncio.sleep(PAUSE_SECONDS)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
        end = perf_counter() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(connection())
    return None if refused else taken


def _flood(broker_url: str, contents: list[str], stop: Event) -> None:
    """Keep messages of documents waiting, as an import does."""
    app = celery_app(broker_url)
    publisher, gauge = Publisher(app, Account(uuid7())), Gauge(app)
    left = cycle(contents)
    while not stop.is_set():
        if gauge.waiting(BULK_QUEUE) >= BULK_WAITING:
            sleep(0.02)
            continue
        documents = [
            {
                "id": str(uuid7()),
                "stamp": microseconds_now(),
                "accepted_at": "2026-11-21T10:00:00+00:00",
                "content": each,
            }
            for each in islice(left, BULK_DOCUMENTS)
        ]
        publisher.publish(
            Message(INGEST.task, BULK_QUEUE),
            {"documents": documents},
            documents=len(documents),
            summary="of an import",
        )
    gauge.close()
    publisher.close()


if __name__ == "__main__":
    sys.exit(main())
