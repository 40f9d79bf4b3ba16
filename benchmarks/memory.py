"""The memory of each process."""

from threading import Event, Thread
from typing import Final, Self

import psutil

from benchmarks.stack import Program
from local.server import family

_EVERY_SECONDS: Final = 0.2
_MEGABYTE: Final = 1 << 20


class Growing:
    """The largest memory of each process while the block runs."""

    def __init__(self, api: Program, worker: Program) -> None:
        self.figures: dict[str, float] = {}
        self._programs = api, worker
        self._ended = Event()
        self._thread = Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            for name, megabytes in memory_of(*self._programs).items():
                key = f"{name}_mb_load"
                self.figures[key] = max(megabytes, self.figures.get(key, 0))


def memory_of(api: Program, worker: Program) -> dict[str, float]:
    """Return megabytes: all that the API holds; what is the own of a worker and its largest child.

    A worker's processes share the model; the libraries' code counts in the API's alone.
    """
    [main] = worker.pids()
    others = [_megabytes(each, "uss") for each in family(main) if each.pid != main]
    return {
        "api": sum(_megabytes(each, "rss") for pid in api.pids() for each in family(pid)),
        "worker": _megabytes(psutil.Process(main), "uss"),
        "worker_child": max(others, default=0.0),
    }


def _megabytes(process: psutil.Process, kind: str) -> float:
    try:
        return float(getattr(process.memory_full_info(), kind)) / _MEGABYTE
    except psutil.Error:
        return 0.0
