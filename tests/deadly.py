"""Texts that harm who classifies them. `python -m tests.deadly` is a worker that lets them.

The seam is ours, the model's `probabilities`: so children die as they do of a real fault, while
they work on the one text that has the word. `deadly-kill` kills each time, `deadly-kill-2-times`
twice.
"""

import os
import re
import resource
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any, Final

KILL, OOM, HANG, POISON = "deadly-kill", "deadly-memory", "deadly-hang", "deadly-poison"

_WORD: Final = re.compile(rf"({KILL}|{OOM}|{HANG}|{POISON})(?:-(\d+)-times)?")


def allow(counts: Path | None = None) -> None:
    """Let texts do harm in this process and its children; count that in a folder's files."""
    from worker.classify.model import Model  # noqa: PLC0415  # only a worker has it

    probabilities = Model.probabilities

    def of_what_may_be_deadly(self: Model, texts: Sequence[str]) -> Any:
        for each in texts:
            if word := _WORD.search(each):
                kind, times = word.groups()
                if counts is None or _counts(counts / kind, times):
                    _HARM[kind]()
        return probabilities(self, texts)

    Model.probabilities = of_what_may_be_deadly  # type: ignore[method-assign]  # that is the point


def _counts(file: Path, times: str | None) -> bool:
    """Count one more time; return whether it is not too often yet."""
    with file.open("a") as found:
        found.write("x")
        return times is None or found.tell() <= int(times)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _use_memory() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    try:
        hoard = []
        while True:
            hoard.append(bytearray(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _hang() -> None:
    Event().wait()


def _raise() -> None:
    raise ValueError("this text cannot be classified")


_HARM: Final[dict[str, Callable[[], None]]] = {
    KILL: _kill,
    OOM: _use_memory,
    HANG: _hang,
    POISON: _raise,
}


if __name__ == "__main__":
    from worker.__main__ import main

    allow()
    main()
