"""A stack under steady load for a long time: what memory each process has, early and late."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Final

import orjson

from benchmarks.load import post_steadily
from benchmarks.memory import memory_of
from benchmarks.stack import Stack, beat_of
from local.server import ServerError, wait_until

PER_SECOND: Final = 42.0
"""Requests: of 21, one has a batch of a hundred documents, the others one each."""

_SINGLES: Final = 20
_BATCH: Final = 100
_SAMPLES: Final = 500
_PATIENCE_SECONDS: Final = 300.0


def measure(
    stack: Stack, folder: Path, contents: Sequence[str], seconds: float
) -> dict[str, float]:
    """Send documents all the time, with beat's ticks at work beside.

    Returns:
        Of each process the median of its megabytes in the second tenth of the time, when it has
        all it needs, in the last one, and the largest.

    Raises:
        ServerError: a document that was accepted is not stored.
    """
    requests = list(_requests(stack.documents_url, contents))
    beat = beat_of(stack, folder)
    samples: list[tuple[float, dict[str, float]]] = []
    with stack.api as api, stack.pair as worker, beat, ThreadPoolExecutor(1) as thread:
        start = monotonic()
        load = thread.submit(post_steadily, requests, PER_SECOND, seconds)
        while not wait_until(load.done, seconds / _SAMPLES):
            samples.append(((monotonic() - start) / seconds, memory_of(api, worker)))
        load.result()
        posted = islice(cycle(requests), int(PER_SECOND * seconds))
        sent = sum(_BATCH if url.endswith("batch") else 1 for url, _ in posted)
        if not wait_until(lambda: stack.count_rows() >= sent, _PATIENCE_SECONDS):
            raise ServerError(f"{stack.count_rows()} of {sent} documents were stored")
    figures: dict[str, float] = {"hour_documents": sent, "hour_seconds": seconds}
    for process in samples[0][1]:
        early = [each[process] for at, each in samples if 0.1 < at <= 0.2]  # noqa: PLR2004
        late = [each[process] for at, each in samples if 0.9 < at <= 1]  # noqa: PLR2004
        figures[f"hour_{process}_mb_early"] = median(early)
        figures[f"hour_{process}_mb_late"] = median(late)
        figures[f"hour_{process}_mb_most"] = max(each[process] for _, each in samples)
    return figures


def _requests(url: str, contents: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    bodies = [orjson.dumps({"content": each}) for each in contents]
    for at in range(0, len(bodies) - _SINGLES - _BATCH, _SINGLES + _BATCH):
        for body in bodies[at : at + _SINGLES]:
            yield url, body
        batch = bodies[at + _SINGLES : at + _SINGLES + _BATCH]
        yield f"{url}/batch", b"[" + b",".join(batch) + b"]"
