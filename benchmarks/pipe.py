"""Compare Postroom with one Celery task per document, and with what its parts allow.

`python -m benchmarks.pipe`, `make bench`. Both stacks run on one PostgreSQL and one RabbitMQ that
are made for it, with one API process and one worker each, of one child or of two. They are measured
in turns, and only the one that is measured runs: what else the machine does in a round, both feel,
and so do the limits. Absolute figures hold for that machine and hour only, all the more as client
and servers share the cores; the ratios are what counts.
"""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Final

import orjson

from benchmarks import limits, service
from benchmarks.load import latency, post_all
from benchmarks.stack import Program, Stack, bare, site
from benchmarks.texts import texts
from local.server import ServerError

CONNECTIONS: Final = 64
CROWD: Final = 256
BATCH: Final = 100
BIG_BATCH: Final = 500
WARM_UP: Final = 200
RESULTS: Final = Path(__file__).parent / "results" / "latest.json"

_LONGER: Final = 4
"""Times as many documents for two children: they work for as long as the baseline's then."""

_TWICE: Final = 2
"""How often a round measures what takes seconds only, as noise is large."""

# Figure, what the table calls it, the baseline's figure, the limit's, and what is wanted.
_ROWS: Final = (
    ("accepted", "accepted, documents/s", "accepted", "bare", "≥ 5x, ≥ 70 %"),
    ("batches_accepted", f"accepted in batches of {BIG_BATCH}", "accepted", "parsed", "≥ 50 %"),
    ("crowd_stored", "stored, sent over 256 connections", "stored", "", "≥ 10x"),
    ("batch_stored", f"stored, sent in batches of {BATCH}", "stored", "", ""),
    ("stored", f"stored, sent over {CONNECTIONS} connections", "stored", "", ""),
    ("pair_stored", "stored in batches, two children", "pair_stored", "stages", "≥ 18x, ≥ 75 %"),
    ("accepted_cpu_ms", "API, processor ms per document", "accepted_cpu_ms", "", ""),
    ("pair_stored_cpu_ms", "worker, processor ms per document", "pair_stored_cpu_ms", "", ""),
    ("accepted_ms_p50", "idle: until the 202, ms", "accepted_ms_p50", "", "< 20"),
    ("stored_ms_p50", "idle: until stored, ms", "stored_ms_p50", "", "≤ 100"),
)


_IN_SERVICE: Final = ("_per_s", "_ms_p50", "_ms_p99", "_mb_rest", "_mb_load")


@dataclass(frozen=True)
class Scale:
    """How much to measure; documents differ, so that both stacks work for a few seconds."""

    rounds: int = 3
    ours: int = 7_000
    baseline: int = 1_500
    single: int = 100
    amounts: service.Amounts = service.FULL


QUICK: Final = Scale(rounds=2, ours=3_000, baseline=500, single=30, amounts=service.QUICK)


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
        self._accept()
        self._drain("stored", WARM_UP + self._documents, self.stack.worker)

    def accept(self) -> None:
        """Accept single documents that nobody stores."""
        self._accept()
        self.stack.purge()

    def _accept(self) -> None:
        with self.stack.api as api:
            url = self.stack.documents_url
            post_all(url, self._take(WARM_UP), CONNECTIONS)
            before = api.cpu_seconds()
            answered = post_all(url, self._take(self._documents), CONNECTIONS)
            cpu = api.cpu_seconds() - before
        self.figures.add("accepted", answered.rate)
        self.figures.add("accepted_cpu_ms", 1000 * cpu / self._documents)

    def pair(self) -> None:
        """Accept single documents as above, and let two children drain the queue."""
        with self.stack.api:
            post_all(self.stack.documents_url, self._take(self._documents), CONNECTIONS)
        self._drain("pair_stored", self._documents, self.stack.pair)

    def crowd(self) -> None:
        """Accept single documents from many clients with the worker stopped, drain the queue."""
        with self.stack.api:
            post_all(self.stack.documents_url, self._take(self._documents), CROWD)
        self._drain("crowd_stored", self._documents, self.stack.worker)

    def batches(self) -> None:
        """Accept documents in batches, which are messages of their own, and drain the queue."""
        self._batches("batch_stored", self.stack.worker, self._documents // BATCH)

    def pair_batches(self) -> None:
        """Accept more of them, and let two children drain the queue."""
        self._batches("pair_stored", self.stack.pair, _LONGER * self._documents // BATCH)

    def _batches(self, name: str, worker: Program, count: int) -> None:
        with self.stack.api:
            post_all(f"{self.stack.documents_url}/batch", self._bodies_of(count, BATCH), 2)
        self._drain(name, count * BATCH, worker)

    def big_batches(self) -> None:
        """Accept documents in larger batches; nobody stores them."""
        count = 4 * self._documents // BIG_BATCH
        batches = self._bodies_of(count + 2, BIG_BATCH)
        with self.stack.api:
            url = f"{self.stack.documents_url}/batch"
            post_all(url, batches[:2], 2)
            answered = post_all(url, batches[2:], 4)
        self.stack.purge()
        self.figures.add("batches_accepted", BIG_BATCH * answered.rate)

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

    def _bodies_of(self, count: int, size: int) -> list[bytes]:
        return [b"[" + b",".join(self._take(size)) + b"]" for _ in range(count)]

    def _drain(self, name: str, documents: int, program: Program) -> None:
        """Run a worker until `documents` are stored; empty the tables."""
        drained = self.stack.drain(program, documents)
        self.stack.empty()
        self.figures.add(name, drained.rate)
        self.figures.add(f"{name}_cpu_ms", drained.cpu_ms)
        for part, milliseconds in drained.parts.items():
            self.figures.add(f"{name}_{part}_cpu_ms", milliseconds)
        self.figures.add(f"{name}_message_documents", drained.message_documents)


class Limits:
    """Measures what the parts allow, each alone."""

    def __init__(self, folder: Path, database: Stack, contents: Sequence[str], count: int) -> None:
        self.figures = Figures()
        self._database = database
        self._contents = contents
        self._program, self._url = bare(folder)
        self._bodies = [orjson.dumps({"content": each}) for each in islice(cycle(contents), count)]

    def bare(self) -> None:
        """Accept single documents with the endpoint that does nothing."""
        with self._program as api:
            post_all(self._url, self._bodies[:WARM_UP], CONNECTIONS)
            before = api.cpu_seconds()
            answered = post_all(self._url, self._bodies, CONNECTIONS)
            cpu = api.cpu_seconds() - before
        self.figures.add("bare", answered.rate)
        self.figures.add("bare_cpu_ms", 1000 * cpu / len(self._bodies))

    def parse(self) -> None:
        """Parse and validate batches."""
        self.figures.add("parsed", limits.parse(self._contents, BIG_BATCH).rate)

    def stages(self) -> None:
        """Do the parts of a worker's work."""
        stages = {
            "predict": limits.predict(self._contents, 2),
            "store": limits.store_new(self._contents, 2, self._database.database_url),
            "decode": limits.decode(self._contents, 2),
        }
        self._database.empty()
        for name, stage in stages.items():
            self.figures.add(name, stage.rate)
            self.figures.add(f"{name}_cpu_ms", stage.cpu_ms)
        self.figures.add("stages", 1 / sum(1 / stage.rate for stage in stages.values()))


def measure(scale: Scale, contents: Sequence[str]) -> dict[str, float]:
    """Measure both stacks and the limits in turns, then ours in service; return all figures."""
    with site() as servers:
        our_stack, baseline_stack = servers.ours(), servers.baseline()
        ours = Bench(our_stack, contents, scale.ours, scale.single)
        baseline = Bench(baseline_stack, contents, scale.baseline, scale.single)
        alone = Limits(servers.folder, our_stack, contents, scale.ours)
        for number in range(1, scale.rounds + 1):
            print(f"round {number} of {scale.rounds}", file=sys.stderr, flush=True)
            for bench in (ours, baseline):
                bench.singles()
            alone.bare()
            ours.accept()
            alone.bare()
            ours.batches()
            for _ in range(_TWICE):
                alone.stages()
                ours.pair_batches()
            baseline.pair()
            ours.crowd()
            alone.parse()
            ours.big_batches()
            for bench in (ours, baseline):
                bench.idle()
        print("in service", file=sys.stderr, flush=True)
        served = service.Service(our_stack, contents, scale.amounts).measure()
    return results(ours.figures, baseline.figures, alone.figures) | served


def results(ours: Figures, baseline: Figures, alone: Figures) -> dict[str, float]:
    """Return the medians of all, and of the rounds' ratios: what is compared ran side by side.

    Keys: `NAME` for ours, `baseline_NAME`, `limit_NAME`; `NAME_vs_baseline`, `NAME_vs_limit`.
    """
    found: dict[str, float] = {name: median(values) for name, values in ours.values.items()}
    for prefix, figures in (("baseline", baseline), ("limit", alone)):
        for name, values in figures.values.items():
            found[f"{prefix}_{name}"] = median(values)
    for name, _, theirs, limit, _ in _ROWS:
        pairs = ("baseline", baseline.values.get(theirs)), ("limit", alone.values.get(limit))
        for kind, others in pairs:
            if others:
                found[f"{name}_vs_{kind}"] = _ratio(ours.values[name], others)
    return found


def _ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios, in pairs that were measured side by side."""
    count = min(len(ours), len(others))
    both = zip(_medians(ours, count), _medians(others, count), strict=True)
    return median(our / other for our, other in both)


def _medians(values: Sequence[float], count: int) -> list[float]:
    """Return so many medians of as many values each."""
    size = len(values) // count
    return [median(values[at : at + size]) for at in range(0, len(values), size)]


def table(found: dict[str, float]) -> str:
    """Return the figures as text, a row each."""
    heads = ("postroom", "baseline", "ratio", "limit", "of it")
    lines = [f"{'':40}" + "".join(f"{head:>10}" for head in heads) + "   wanted"]
    for name, title, theirs, limit, wanted in _ROWS:
        row = f"{title:40}{found[name]:>10,.2f}{found[f'baseline_{theirs}']:>10,.2f}"
        row += f"{found[f'{name}_vs_baseline']:>9.2f}x"
        if limit:
            row += f"{found[f'limit_{limit}']:>10,.0f}{100 * found[f'{name}_vs_limit']:>8.0f} %"
        else:
            row += " " * 20
        lines.append(f"{row}   {wanted}".rstrip())
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
        found = measure(scale, contents)
    except ServerError as error:
        sys.exit(f"postroom: {error}")
    print(
        f"medians of {scale.rounds} rounds on {os.cpu_count()} cores, Python"
        f" {platform.python_version()}; {source}; one API process each;\n"
        f"{CONNECTIONS} connections made messages of {found['stored_message_documents']:.1f}"
        f" documents, {CROWD} of {found['crowd_stored_message_documents']:.1f}\n"
    )
    print(table(found))
    print("\nin service, one API process and two worker children:\n")
    for name, value in found.items():
        if name.endswith(_IN_SERVICE):
            print(f"{name:40}{value:>12,.1f}")
    about = {"texts": source, "rounds": scale.rounds, "cores": os.cpu_count()}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_bytes(orjson.dumps(about | found, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    main()
