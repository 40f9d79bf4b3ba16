"""What the search index costs the ingestion: `python -m benchmarks.indexing`.

A full queue is drained again and again, in turns with the beat that has documents indexed and
without it. The ratio of the rates is what the index costs; it shall be above 0.9.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from statistics import median
from typing import Final

import orjson

from benchmarks.load import post_all
from benchmarks.stack import Program, Stack, beat_of, site
from benchmarks.texts import texts
from local.server import ServerError, wait_until

BATCH: Final = 100

_SECONDS: Final = 300.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.indexing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=60_000)
    options = parser.parse_args()
    source, contents = texts()
    try:
        with site() as servers:
            stack = servers.ours()
            beat = beat_of(stack, servers.folder)
            rates = [
                tuple(_drain(stack, contents, options.documents, each) for each in (None, beat))
                for _ in range(options.rounds)
            ]
    except ServerError as error:
        sys.exit(f"postroom: {error}")
    print(f"{source}; two worker children; messages of {BATCH}; {options.rounds} rounds")
    for without, indexing in rates:
        print(f"{without:8,.0f}/s without, {indexing:,.0f}/s with it: {indexing / without:.2f}")
    ratio = median(indexing / without for without, indexing in rates)
    print(f"median ratio {ratio:.2f}, wanted ≥ 0.90")


def _drain(stack: Stack, contents: Sequence[str], documents: int, beat: Program | None) -> float:
    """Return how many documents a second were stored, between the first commit and the last."""
    bodies = [orjson.dumps({"content": each}) for each in islice(cycle(contents), documents)]
    batches = [
        b"[" + b",".join(bodies[at : at + BATCH]) + b"]" for at in range(0, documents, BATCH)
    ]
    with stack.api:
        post_all(f"{stack.documents_url}/batch", batches, 2)
    if beat is not None:
        beat.start()
        wait_until(lambda: "beat" in beat.log.read_text(), _SECONDS)
    try:
        return stack.drain(stack.pair, documents).rate
    finally:
        if beat is not None:
            beat.kill()
        stack.empty()


if __name__ == "__main__":
    main()
