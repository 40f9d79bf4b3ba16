"""What a worker counts and measures, in memory that its main process and its children share.

Each process has a part of its own and is alone to write there, so nothing is locked: a lock that a
fork or a kill has caught would never be opened again. A child that comes in a dead one's place goes
on with its part, so no sum ever goes back. The main process adds the parts up when it is asked.
"""

import mmap
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from threading import current_thread, main_thread
from time import perf_counter
from types import TracebackType
from typing import Final, Literal

import numpy as np
from billiard.process import current_process
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from shared.dead import DEATHS, FaultKind
from shared.decide import Outcome, Prediction
from shared.messages import BULK_QUEUE, INGEST_QUEUE, Document
from shared.revision import microseconds_now

Stage = Literal["classify", "store", "message", "answer"]
Verdict = Literal["done", "repeated", "given_back", "dead"]

_STAGES: Final[tuple[Stage, ...]] = ("classify", "store", "message", "answer")
_VERDICTS: Final[tuple[Verdict, ...]] = ("done", "repeated", "given_back", "dead")

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_AGES: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400)
_SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

_OWN_PARTS: Final = 2
"""Of the main process: for its main thread, and for the one beside it."""

_NO_STAGE: Final = nullcontext()


@dataclass(frozen=True, slots=True)
class _Family:
    """A metric: for each value of its label a count, or a histogram.

    A count is one cell. A histogram has a cell for each bound, one for what is above the last, and
    one for the sum.
    """

    name: str
    text: str
    label: str
    values: tuple[str, ...]
    bounds: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Cells of one value."""
        return len(self.bounds) + 2 if self.bounds else 1

    def told(self, cells: Sequence[float]) -> Metric:
        """Return the metric; `cells` are its own."""
        parts = [cells[at : at + self.width] for at in range(0, len(cells), self.width)]
        if not self.bounds:
            counter = CounterMetricFamily(self.name, self.text, labels=[self.label])
            for value, (count,) in zip(self.values, parts, strict=True):
                counter.add_metric([value], count)
            return counter
        histogram = HistogramMetricFamily(self.name, self.text, labels=[self.label])
        names = [*map(floatToGoString, self.bounds), "+Inf"]
        for value, (*counts, total) in zip(self.values, parts, strict=True):
            buckets = list(zip(names, accumulate(counts), strict=True))
            histogram.add_metric([value], buckets, total)
        return histogram


def _families(categories: Sequence[str]) -> tuple[_Family, ...]:
    return (
        _Family(
            "postroom_stage_duration_seconds",
            "time that a message took, whole or one stage of it",
            "stage",
            _STAGES,
            _SECONDS,
        ),
        _Family(
            "postroom_accepted_to_stored_seconds",
            "time from accepting a document until it was stored, that of its message's oldest",
            "queue",
            (INGEST_QUEUE, BULK_QUEUE),
            _AGES,
        ),
        _Family(
            "postroom_confidence",
            "how sure the model was of the category that it chose",
            "category",
            tuple(categories),
            _SHARES,
        ),
        _Family(
            "postroom_ingested_documents",
            "what became of documents",
            "outcome",
            tuple(each.name.lower() for each in Outcome),
        ),
        _Family("postroom_messages", "what became of messages", "verdict", _VERDICTS),
        _Family("postroom_retries", "work done again", "reason", ("database",)),
        _Family("postroom_child_deaths", "children that died", "kind", tuple(sorted(DEATHS))),
    )


class Metrics(Collector):
    """Counts and measures; does nothing before it is opened."""

    def __init__(self) -> None:
        self._cells: memoryview[float] | None = None

    def open(self, categories: Sequence[str], children: int) -> None:
        """Make the memory; to be done once, before any child is forked.

        Args:
            categories: those of the model.
            children: how many there will be at most. Any more would share others' parts, and two
                that count at once may lose a count.
        """
        self._families = _families(categories)
        self._at: dict[tuple[str, str], int] = {}
        size = 0
        for family in self._families:
            for value in family.values:
                self._at[family.name, value] = size
                size += family.width
        self._size = size
        self._parts = _OWN_PARTS + children
        self._confidence = {each: self._at["postroom_confidence", each] for each in categories}
        self._memory = mmap.mmap(-1, 8 * size * self._parts)
        self._cells = memoryview(self._memory).cast("d")

    def stage(self, stage: Stage) -> AbstractContextManager[object]:
        """Measure what is done inside; what fails is not counted."""
        return _NO_STAGE if self._cells is None else _Watch(self._observe_stage, stage)

    def classified(self, predictions: Iterable[Prediction]) -> None:
        """Take in how sure the model was."""
        cells = self._cells
        if cells is None:
            return
        start, places, total = self._start(), self._confidence, len(_SHARES) + 1
        for each in predictions:
            confidence = each.confidence
            if each.category in places and confidence is not None:
                at = start + places[each.category]
                cells[at + bisect_left(_SHARES, confidence)] += 1
                cells[at + total] += confidence

    def ingested(self, outcomes: str) -> None:
        """Count documents by what became of them, a letter for each."""
        if self._cells is not None:
            for each in Outcome:
                if count := outcomes.count(each):
                    self._count("postroom_ingested_documents", each.name.lower(), count)

    def stored(self, documents: Sequence[Document], queue: str) -> None:
        """Take in how long ago a message's oldest document was accepted; all count as that one.

        Args:
            documents: of the message, stored just now.
            queue: where it waited.
        """
        if self._cells is not None:
            # A stamp may be a little ahead of the clock: see `shared.revision`.
            age = max(0, microseconds_now() - min(each["stamp"] for each in documents)) / 1e6
            self._observe("postroom_accepted_to_stored_seconds", queue, age, len(documents))

    def message(self, verdict: Verdict) -> None:
        """Count a message."""
        self._count("postroom_messages", verdict)

    def retried(self) -> None:
        """Count work that is done again since the database was away."""
        self._count("postroom_retries", "database")

    def died(self, kind: FaultKind) -> None:
        """Count the death of a child."""
        self._count("postroom_child_deaths", kind)

    def collect(self) -> Iterator[Metric]:
        """Yield the sums of all processes."""
        if self._cells is None:
            return
        sums = np.frombuffer(self._memory).reshape(self._parts, self._size).sum(axis=0).tolist()
        at = 0
        for family in self._families:
            end = at + family.width * len(family.values)
            yield family.told(sums[at:end])
            at = end

    def _observe_stage(self, stage: Stage, seconds: float) -> None:
        self._observe("postroom_stage_duration_seconds", stage, seconds, 1)

    def _count(self, name: str, value: str, count: int = 1) -> None:
        at = self._at.get((name, value)) if self._cells is not None else None
        if self._cells is not None and at is not None:
            self._cells[self._start() + at] += count

    def _observe(self, name: str, value: str, amount: float, count: int) -> None:
        bounds = _BOUNDS[name]
        at = self._at.get((name, value))
        if self._cells is not None and at is not None:
            at += self._start()
            self._cells[at + bisect_left(bounds, amount)] += count
            self._cells[at + len(bounds) + 1] += amount * count

    def _start(self) -> int:
        """Return where the part of this process begins."""
        child: int | None = getattr(current_process(), "index", None)  # a successor's is the same
        own = int(current_thread() is not main_thread())
        part = own if child is None else _OWN_PARTS + child
        return part % self._parts * self._size


_BOUNDS: Final = {family.name: family.bounds for family in _families(())}


class _Watch:
    """Measures how long it is open."""

    def __init__(self, observe: Callable[[Stage, float], None], stage: Stage) -> None:
        self._observe = observe
        self._stage = stage

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is None:
            self._observe(self._stage, perf_counter() - self._start)
