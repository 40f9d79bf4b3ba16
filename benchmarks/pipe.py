"""Compare Postroom with one Celery task per document: `python -m benchmarks.pipe`, `make bench`.

Both stacks run on one PostgreSQL and one RabbitMQ that are made for it, with one API process and
one worker process each. They are measured in turns, and only the one that is measured runs: what
else the machine does in a round, both feel. Absolute figures hold for that machine and hour only,
all the more as client and servers share the cores; the ratios are what counts.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Final

import orjson

from benchmarks.load import latency, post_all
from benchmarks.stack import Stack, stacks
from benchmarks.texts import texts
from local.server import ServerError, wait_until

CONNECTIONS: Final = 64
CROWD: Final = 256
BATCH: Final = 100
WARM_UP: Final = 200
RESULTS: Final = Path(__file__).parent / "results" / "latest.json"

_DRAIN_SECONDS: Final = 300.0

# Figure, what the table calls it, and the factor or limit wanted.
_ROWS: Final = (
    ("accepted", "accepted, documents/s", "≥ 3x"),
    ("crowd_stored", "classified and stored, documents/s", "≥ 10x"),
    ("batch_stored", f"the same, sent in batches of {BATCH}", ""),
    ("stored", f"the same, sent over {CONNECTIONS} connections", ""),
    ("accepted_cpu_ms", "API, processor ms per document", ""),
    ("crowd_stored_cpu_ms", "worker, processor ms per document", ""),
    ("accepted_ms_p50", "idle: until the 202, ms", "< 20"),
    ("stored_ms_p50", "idle: until stored, ms", "≤ 100"),
)


@dataclass(frozen=True)
class Scale:
    """How much to measure; documents differ, so that both stacks work for a few seconds."""

    rounds: int = 5
    ours: int = 7_000
    baseline: int = 1_500
    single: int = 100


QUICK: Final = Scale(rounds=3, ours=3_000, baseline=500, single=30)


@dataclass
class Figures:
    """Each figure of one stack, a value a round."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Note the value of one more round."""
        self.values.setdefault(name, []).append(value)


class Bench:
    """Measures one stack, again and again."""

    def __init__(self, stack: Stack, contents: Sequence[str], documents: int, single: int) -> None:
        self.stack = stack
        self.figures = Figures()
        self._documents = documents
        self._single = single
        bodies = [orjson.dumps({"content": each}) for each in contents]
        self._bodies = cycle(bodies)

    def singles(self) -> None:
        """Accept single documents with the worker stopped, then let it drain the queue."""
        with self.stack.api as api:
            url = self.stack.documents_url
            post_all(url, self._take(WARM_UP), CONNECTIONS)
            before = api.cpu_seconds()
            seconds = post_all(url, self._take(self._documents), CONNECTIONS)
            cpu = api.cpu_seconds() - before
        self.figures.add("accepted", self._documents / seconds)
        self.figures.add("accepted_cpu_ms", 1000 * cpu / self._documents)
        self._drain("stored", WARM_UP + self._documents)

    def crowd(self) -> None:
        """Accept single documents from many clients with the worker stopped, drain the queue."""
        with self.stack.api:
            post_all(self.stack.documents_url, self._take(self._documents), CROWD)
        self._drain("crowd_stored", self._documents)

    def batches(self) -> None:
        """Accept documents in batches, which are messages of their own, and drain the queue."""
        count = self._documents // BATCH
        batches = [b"[" + b",".join(self._take(BATCH)) + b"]" for _ in range(count)]
        with self.stack.api:
            post_all(f"{self.stack.documents_url}/batch", batches, 2)
        self._drain("batch_stored", count * BATCH)

    def idle(self) -> None:
        """Send one document at a time to a stack that has nothing else to do."""
        stack = self.stack
        with stack.api, stack.worker:
            latency(stack.documents_url, stack.database_url, self._take(10))
            measured = latency(stack.documents_url, stack.database_url, self._take(self._single))
        stack.empty()
        self.figures.add("accepted_ms_p50", measured.accepted)
        self.figures.add("stored_ms_p50", measured.stored)

    def _take(self, count: int) -> list[bytes]:
        return list(islice(self._bodies, count))

    def _drain(self, name: str, documents: int) -> None:
        """Run the worker until `documents` are stored; empty the tables.

        The rate is that between the first commit and the last: the worker's start and its first
        message, which opens the connection to the database, are left out.
        """
        stack = self.stack
        with stack.worker as worker:
            wait_until(lambda: bool(stack.stored()), _DRAIN_SECONDS)
            before, cpu_before = stack.stored(), worker.cpu_seconds()
            if not wait_until(lambda: stack.stored() == documents, _DRAIN_SECONDS):
                sys.exit(f"{stack.name} stored {stack.stored()} of {documents} documents")
            cpu = worker.cpu_seconds() - cpu_before
        commits = stack.commits()
        stack.empty()
        [(first_documents, first), *_] = commits
        self.figures.add(name, (documents - first_documents) / (commits[-1][1] - first))
        self.figures.add(f"{name}_cpu_ms", 1000 * cpu / (documents - before))
        self.figures.add(f"{name}_message_documents", documents / len(commits))


def measure(scale: Scale, contents: Sequence[str]) -> tuple[Figures, Figures]:
    """Measure both stacks in turns; return our figures and the baseline's."""
    with (
        tempfile.TemporaryDirectory(prefix="postroom-bench-") as folder,
        stacks(Path(folder)) as (our_stack, baseline_stack),
    ):
        ours = Bench(our_stack, contents, scale.ours, scale.single)
        baseline = Bench(baseline_stack, contents, scale.baseline, scale.single)
        for number in range(1, scale.rounds + 1):
            print(f"round {number} of {scale.rounds}", file=sys.stderr, flush=True)
            for bench in (ours, baseline):
                bench.singles()
            ours.crowd()
            ours.batches()
            for bench in (ours, baseline):
                bench.idle()
    return ours.figures, baseline.figures


def results(ours: Figures, baseline: Figures) -> dict[str, float]:
    """Return the medians of both, and of the rounds' ratios: the two of a round ran side by side.

    Keys: `NAME` for ours, `baseline_NAME`, and `NAME_vs_baseline` for ours divided by theirs.
    """
    found: dict[str, float] = {}
    for name, values in ours.values.items():
        found[name] = median(values)
        # The baseline's messages are of one document, however they are sent.
        plain = name.removeprefix("batch_").removeprefix("crowd_")
        theirs = baseline.values.get(name) or baseline.values[plain]
        found[f"baseline_{name}"] = median(theirs)
        pairs = zip(values, theirs, strict=True)
        found[f"{name}_vs_baseline"] = median(our / their for our, their in pairs)
    return found


def table(found: dict[str, float], names: Iterable[tuple[str, str, str]]) -> str:
    """Return the figures as text, a row each."""
    lines = [f"{'':40}{'postroom':>10}{'baseline':>10}{'ratio':>9}   wanted"]
    for name, title, wanted in names:
        pair = f"{found[name]:>10,.2f}{found[f'baseline_{name}']:>10,.2f}"
        lines.append(f"{title:40}{pair}{found[f'{name}_vs_baseline']:>8.2f}x   {wanted}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Measure, print a table, write the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipe", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and documents")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go")
    options = parser.parse_args()
    scale = QUICK if options.quick else Scale()
    source, contents = texts()
    try:
        found = results(*measure(scale, contents))
    except ServerError as error:
        sys.exit(f"postroom: {error}")
    print(
        f"medians of {scale.rounds} rounds on {os.cpu_count()} cores, Python"
        f" {platform.python_version()}; {source}; one API and one worker process each;\n"
        f"{CONNECTIONS} connections made messages of {found['stored_message_documents']:.1f}"
        f" documents, {CROWD} of {found['crowd_stored_message_documents']:.1f}\n"
    )
    print(table(found, _ROWS))
    about = {"texts": source, "rounds": scale.rounds, "cores": os.cpu_count()}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_bytes(orjson.dumps(about | found, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    main()
