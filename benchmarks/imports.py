"""Import a million lines, 1.5 GB: `python -m benchmarks.imports`.

The real stack: PostgreSQL, RabbitMQ, one API process, two worker children. The body is made while
it is sent, and kept nowhere. At 60 % the connection is cut; then the same body is sent again with
the same key. In the end every line must be one document. Meanwhile single documents are posted,
with `Prefer: wait=5`, and single texts are classified, as somebody would who knows of no import.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import quantiles
from threading import Event, Thread
from typing import Any, Final

import httpx2
import orjson
import psutil

from benchmarks.load import shown
from benchmarks.stack import Stack, site
from benchmarks.texts import texts
from local.server import ServerError

LINES: Final = 1_000_000
LINE_BYTES: Final = 1_500
CUT: Final = 0.6
RESULTS: Final = Path(__file__).parent / "results" / "imports.json"

_EVERY_SECONDS: Final = 0.5
_SECONDS_A_LINE: Final = 0.01
"""How long the whole may take, a line: a machine that is slower than that has stopped."""

_CHUNK_LINES: Final = 40
_WARM_UP: Final = 2_000
_HTTP_OK: Final = 200


class Body:
    """The lines of an import, the same each time; each starts with its number."""

    def __init__(self, source: str, posts: list[str], lines: int, line_bytes: int) -> None:
        self.source = source
        self._posts = posts
        self._lines = lines
        self._line_bytes = line_bytes
        self.sent = 0

    def __iter__(self) -> Iterator[bytes]:
        self.sent = 0
        numbers, posts = iter(range(self._lines)), cycle(self._posts)
        while chunk := b"".join(
            self._line(number, next(posts)) for number in islice(numbers, _CHUNK_LINES)
        ):
            yield chunk
            self.sent += len(chunk)

    def _line(self, number: int, post: str) -> bytes:
        text = f"{number} {post}"
        while len(text) < self._line_bytes:
            text += f" {post}"
        return orjson.dumps({"content": text[: self._line_bytes], "source": self.source}) + b"\n"


class CutOff(Exception):
    """The connection was cut on purpose."""


@dataclass
class Watch:
    """Watches while `running`: memory of the API, and how long others wait."""

    url: str
    pid: int
    running: Event = field(default_factory=Event)
    memory: list[int] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def threads(self) -> list[Thread]:
        """Return what watches, not yet started."""
        asks: dict[str, Callable[[httpx2.Client], httpx2.Response]] = {
            "livez": lambda client: client.get("/livez"),
            "post_wait": lambda client: client.post(
                "/v1/documents",
                json={"content": "The shuttle will launch from the Cape on Monday."},
                headers={"Prefer": "wait=5"},
            ),
        }
        with httpx2.Client(base_url=self.url, headers=shown(), trust_env=False) as client:
            if "/v1/classify" in client.get("/openapi.json").json()["paths"]:
                asks["classify"] = lambda client: client.post(
                    "/v1/classify", json={"content": "The shuttle will reach its orbit at noon."}
                )
        return [
            Thread(target=self._remember),
            *(Thread(target=self._ask, args=each) for each in asks.items()),
        ]

    def _remember(self) -> None:
        process = psutil.Process(self.pid)
        while self.running.is_set():
            self.memory.append(process.memory_info().rss)
            time.sleep(0.1)

    def _ask(self, name: str, ask: Callable[[httpx2.Client], httpx2.Response]) -> None:
        taken = self.seconds.setdefault(name, [])
        with httpx2.Client(
            base_url=self.url, headers=shown(), timeout=30, trust_env=False
        ) as client:
            while self.running.is_set():
                start = time.perf_counter()
                response = ask(client)
                taken.append(time.perf_counter() - start)
                if response.is_error or (name == "post_wait" and not _is_category(response)):
                    self.errors.append(f"{name}: {response.status_code} {response.text[:200]}")
                time.sleep(0.1)


def _is_category(response: httpx2.Response) -> bool:
    return response.json().get("category") is not None


def measure(stack: Stack, posts: list[str], lines: int, line_bytes: int) -> dict[str, Any]:
    """Import, cut, go on, check; return the figures.

    Raises:
        RuntimeError: a document is missing or there twice, or the import went wrong.
    """
    url = stack.documents_url.removesuffix("/v1/documents")
    deadline = 60 + lines * _SECONDS_A_LINE
    with stack.api as api, stack.pair:
        client = httpx2.Client(base_url=url, headers=shown(), timeout=deadline, trust_env=False)
        warm = _send(client, Body("warm-up", posts, _WARM_UP, line_bytes))
        _done(client, warm["id"], deadline)
        before = stack.stored()
        watch = Watch(url, api.pids()[0])
        base = psutil.Process(watch.pid).memory_info().rss
        threads = watch.threads()
        watch.running.set()
        for thread in threads:
            thread.start()
        try:
            figures = _import(client, Body("bench", posts, lines, line_bytes), lines, deadline)
        finally:
            watch.running.clear()
            for thread in threads:
                thread.join()
        singles = len(watch.seconds["post_wait"]) - len(watch.errors)
        _check(stack, lines, before + singles if not watch.errors else None)
        client.close()
    figures["api_memory_mb_before"] = base / 1e6
    figures["api_memory_mb_growth"] = (max(watch.memory) - base) / 1e6
    for name, taken in watch.seconds.items():
        cuts = quantiles(taken, n=100)
        figures |= {f"{name}_ms_p50": 1e3 * cuts[49], f"{name}_ms_p99": 1e3 * cuts[98]}
        figures[f"{name}_calls"] = len(taken)
    figures["errors"] = len(watch.errors)
    for each in watch.errors[:5]:
        print(each, file=sys.stderr)
    return figures


def _import(client: httpx2.Client, body: Body, lines: int, deadline: float) -> dict[str, Any]:
    start = time.perf_counter()
    with suppress(CutOff):
        _send(client, body, cut_after=int(lines * CUT))
    cut = _until(client, deadline, "interrupted")
    first = time.perf_counter() - start
    found = _send(client, body)
    received = time.perf_counter() - start
    done = _done(client, found["id"], deadline)
    whole = time.perf_counter() - start
    if (done["accepted"], done["rejected"], done["dead"]) != (lines, 0, 0):
        msg = f"not all lines are accounted for: {done}"
        raise RuntimeError(msg)
    return {
        "lines": lines,
        "megabytes": body.sent / 1e6,
        "accepted_at_the_cut": cut["accepted"],
        "seconds_to_the_cut": first,
        "seconds_to_the_202": received,
        "seconds_until_done": whole,
        "received_lines_per_second": cut["accepted"] / first,
        "processed_lines_per_second": lines / whole,
        "sent_twice": done["unchanged"],
    }


def _send(client: httpx2.Client, body: Body, cut_after: int | None = None) -> dict[str, Any]:
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": body.source}
    chunks = iter(body) if cut_after is None else _cut(body, cut_after)
    response = client.post("/v1/imports", content=chunks, headers=headers)
    if response.is_error:
        msg = f"{response.status_code} {response.text[:500]}"
        raise RuntimeError(msg)
    found: dict[str, Any] = response.json()
    return found


def _cut(body: Body, lines: int) -> Iterator[bytes]:
    for number, chunk in enumerate(body):
        if number * _CHUNK_LINES >= lines:
            yield chunk[: len(chunk) // 2 + 1]  # in mid-line
            raise CutOff
        yield chunk


def _until(client: httpx2.Client, seconds: float, status: str) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while True:
        data = client.get("/v1/imports", params={"idempotency_key": "bench"}).json()["data"]
        if data and data[0]["status"] == status:
            return dict(data[0])
        if time.monotonic() > end:
            msg = f"not {status} in time: {data}"
            raise RuntimeError(msg)
        time.sleep(_EVERY_SECONDS)


def _done(client: httpx2.Client, import_id: str, seconds: float) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while True:
        response = client.get(f"/v1/imports/{import_id}")
        found: dict[str, Any] = response.json()
        if response.status_code == _HTTP_OK and found["status"] == "done":
            return found
        if time.monotonic() > end:
            msg = f"not done in time: {found}"
            raise RuntimeError(msg)
        time.sleep(_EVERY_SECONDS)


def _check(stack: Stack, lines: int, others: int | None) -> None:
    """See that each line is one document, by the numbers that they start with.

    Raises:
        RuntimeError: one is missing, or there twice.
    """
    counted, distinct, highest = stack.numbered("bench")
    if (counted, distinct, highest) != (lines, lines, lines - 1):
        msg = f"{counted} documents of {distinct} lines up to {highest}, of {lines}"
        raise RuntimeError(msg)
    if others is not None and stack.stored() != lines + others:
        msg = f"{stack.stored()} documents in all, {lines + others} expected"
        raise RuntimeError(msg)


def main() -> None:
    """Measure, print the figures, write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports", description=__doc__)
    parser.add_argument("--lines", type=int, default=LINES)
    parser.add_argument("--line-bytes", type=int, default=LINE_BYTES)
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go")
    options = parser.parse_args()
    source, posts = texts()
    try:
        with site() as servers:
            found = measure(servers.ours(), posts, options.lines, options.line_bytes)
    except (ServerError, RuntimeError) as error:
        sys.exit(f"postroom: {error}")
    print(f"{source}; {os.cpu_count()} cores; one API process, two worker children")
    for name, value in found.items():
        print(f"{name:32}{value:>14,.1f}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    about = {"texts": source, "cores": os.cpu_count()}
    options.json.write_bytes(orjson.dumps(about | found, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    main()
