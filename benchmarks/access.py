"""What asking for keys costs the hot path: `python -m benchmarks.access`.

Single documents are accepted in turns by an API that asks for keys and by one that does not. The
ratio of the rates shall be above 0.9.
"""

import argparse
import sys
from itertools import cycle, islice
from statistics import median
from typing import Final

import orjson

from benchmarks.load import post_all
from benchmarks.pipe import CONNECTIONS, WARM_UP
from benchmarks.stack import Stack, site
from benchmarks.texts import texts
from local.server import ServerError

WANTED: Final = 0.9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.access", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--documents", type=int, default=7_000)
    options = parser.parse_args()
    source, contents = texts()
    bodies = [
        orjson.dumps({"content": each}) for each in islice(cycle(contents), options.documents)
    ]
    try:
        with site() as servers:
            pair = [servers.ours(name, keys=name == "keys") for name in ("open", "keys")]
            rounds = [[_accept(stack, bodies) for stack in pair] for _ in range(options.rounds)]
    except ServerError as error:
        sys.exit(f"postroom: {error}")
    print(f"{source}; {CONNECTIONS} connections; {options.rounds} rounds; documents/s")
    for without, keys in rounds:
        print(f"{without:8,.0f} without, {keys:8,.0f} with keys: {keys / without:.2f}")
    ratio = median(keys / without for without, keys in rounds)
    print(f"median ratio {ratio:.2f}, wanted ≥ {WANTED}")


def _accept(stack: Stack, bodies: list[bytes]) -> float:
    with stack.api:
        post_all(stack.documents_url, bodies[:WARM_UP], CONNECTIONS)
        rate = post_all(stack.documents_url, bodies, CONNECTIONS).rate
    stack.purge()
    return rate


if __name__ == "__main__":
    main()
