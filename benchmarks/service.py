"""One Postroom in service: how long its answers take, and what it needs. See `benchmarks.pipe`.

One API process and two worker children, on servers of their own; the client shares the cores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from time import perf_counter
from typing import Final

import httpx2
import orjson

from benchmarks.load import get_all, percentiles, post_all, post_evenly, shown
from benchmarks.memory import Growing, memory_of
from benchmarks.stack import Program, Stack
from local.server import ServerError, wait_until

CONNECTIONS: Final = (1, 16, 64, 256)
READERS: Final = 16
IMPORT_LINES: Final = 200_000

_PATIENCE_SECONDS: Final = 300.0
_CHUNK_LINES: Final = 50


@dataclass(frozen=True)
class Amounts:
    """How many requests of each kind."""

    posts: int = 4_000
    alone: int = 300
    steady_seconds: float = 6
    steady_rounds: int = 3
    lines: int = IMPORT_LINES
    reads: int = 3_000
    questions: int = 1_500


FULL: Final = Amounts()
QUICK: Final = Amounts(1_000, 100, 5, 1, 10_000, 500, 300)


class Service:
    """Measures a stack that is at work."""

    def __init__(self, stack: Stack, contents: Sequence[str], amounts: Amounts) -> None:
        self.figures: dict[str, float] = {}
        self._stack = stack
        self._amounts = amounts
        self._contents = cycle(contents)
        self._base = stack.documents_url.removesuffix("/v1/documents")

    def measure(self) -> dict[str, float]:
        """Measure all; return the figures by name."""
        self._accept()
        with self._stack.api as api, self._stack.pair as worker:
            self._wait_until_stored(self._post(10))
            self._memory("rest", api, worker)
            self._half_load(api, worker)
            with Growing(api, worker) as memory:
                self._import()
            self.figures |= memory.figures
            self._read()
            self._classify()
        self._stack.empty()
        return self.figures

    def _accept(self) -> None:
        """Accept single documents over more and more connections; nobody stores them."""
        with self._stack.api:
            self._post(200)
            for connections in CONNECTIONS:
                count = self._amounts.posts if connections > 1 else self._amounts.alone
                answered = post_all(self._stack.documents_url, self._bodies(count), connections)
                name = f"accepted_{connections}"
                self.figures[f"{name}_per_s"] = answered.rate
                self.figures |= {f"{name}_ms_p50": answered.p50, f"{name}_ms_p99": answered.p99}
        self._stack.purge()

    def _half_load(self, api: Program, worker: Program) -> None:
        """Find out what is stored as fast as it is accepted; then send half of that, evenly."""
        rounds = [self._half_load_once(api, worker) for _ in range(self._amounts.steady_rounds)]
        self.figures |= {name: median(each[name] for each in rounds) for name in rounds[0]}

    def _half_load_once(self, api: Program, worker: Program) -> dict[str, float]:
        before, earlier = self._stack.stored(), len(self._stack.commits())
        self._wait_until_stored(before + self._post(2 * self._amounts.posts))
        (_, start), *others = self._stack.commits()[earlier:]
        rate = sum(count for count, _ in others) / (others[-1][1] - start)
        found = {"sustained_per_s": rate}
        before, earlier = self._stack.stored(), len(self._stack.commits())
        bodies = self._bodies(int(rate / 2 * self._amounts.steady_seconds))
        cpu = self._stack.cpu_seconds(worker, api)
        sent = dict(post_evenly(self._stack.documents_url, bodies, rate / 2))
        self._wait_until_stored(before + len(sent))
        for part, seconds in self._stack.cpu_seconds(worker, api).items():
            milliseconds = 1000 * (seconds - cpu[part]) / len(sent)
            found[f"half_load_{part}_cpu_ms"] = milliseconds
        messages = len(self._stack.commits()) - earlier
        found["half_load_message_documents"] = len(sent) / messages
        taken = [at - sent[key] for key, at in self._stack.committed() if key in sent]
        if len(taken) != len(sent):
            raise ServerError(f"{len(taken)} of {len(sent)} documents were stored")
        p50, p99 = percentiles(taken)
        return found | {"half_load_stored_ms_p50": p50, "half_load_stored_ms_p99": p99}

    def _import(self) -> None:
        with httpx2.Client(
            base_url=self._base, timeout=600, trust_env=False, headers=shown()
        ) as client:
            start = perf_counter()
            headers = {"Content-Type": "application/x-ndjson"}
            answer = client.post("/v1/imports", content=self._lines(), headers=headers).json()
            self.figures["import_received_per_s"] = self._amounts.lines / (perf_counter() - start)
            where = f"/v1/imports/{answer['id']}"
            if not wait_until(lambda: client.get(where).json()["status"] == "done", 900):
                raise ServerError(f"the import is not done: {client.get(where).text}")
            self.figures["import_done_per_s"] = self._amounts.lines / (perf_counter() - start)

    def _read(self) -> None:
        ids = [str(key) for key in self._stack.some_ids(500)]
        documents = self._stack.documents_url
        asked = {
            "by_id": [f"{documents}/{key}" for key in ids],
            "page": [
                f"{documents}?limit=50&created_before=2999-01-0{day}T00:00:00Z"
                for day in range(1, 10)
            ],
            "filter": [f"{documents}?limit=50&category={each}" for each in _CATEGORIES],
        }
        for name, urls in asked.items():
            count = self._amounts.reads if name == "by_id" else self._amounts.reads // 6
            answered = get_all(list(islice(cycle(urls), count)), READERS)
            self.figures[f"read_{name}_per_s"] = answered.rate
            self.figures |= {
                f"read_{name}_ms_p50": answered.p50,
                f"read_{name}_ms_p99": answered.p99,
            }

    def _classify(self) -> None:
        bodies = self._bodies(self._amounts.questions)
        answered = post_all(f"{self._base}/v1/classify", bodies, READERS, 200)
        self.figures["classified_per_s"] = answered.rate
        self.figures |= {"classified_ms_p50": answered.p50, "classified_ms_p99": answered.p99}

    def _memory(self, when: str, api: Program, worker: Program) -> None:
        for name, megabytes in memory_of(api, worker).items():
            self.figures[f"{name}_mb_{when}"] = megabytes

    def _post(self, count: int) -> int:
        post_all(self._stack.documents_url, self._bodies(count), 64)
        return count

    def _wait_until_stored(self, count: int) -> None:
        if not wait_until(lambda: self._stack.stored() >= count, _PATIENCE_SECONDS):
            raise ServerError(f"{self._stack.stored()} of {count} documents were stored")

    def _bodies(self, count: int) -> list[bytes]:
        return [orjson.dumps({"content": each}) for each in islice(self._contents, count)]

    def _lines(self) -> Iterator[bytes]:
        left = self._amounts.lines
        while left > 0:
            count = min(left, _CHUNK_LINES)
            yield b"".join(each + b"\n" for each in self._bodies(count))
            left -= count


_CATEGORIES: Final = ("sci.space", "rec.autos", "comp.graphics", "talk.politics.misc", "sci.med")
