"""Waiting a passing fault out: the message stays with its worker, and nothing is lost or spun."""

import random
from collections.abc import Callable, Iterator
from ctypes import c_bool
from time import monotonic, sleep
from typing import Final, TypeVar

import structlog
from billiard.sharedctypes import RawValue

from shared.errors import DatabaseUnavailable

ResultT = TypeVar("ResultT")

_POLL_SECONDS: Final = 0.1

logger = structlog.get_logger(__name__)


class GiveBack(Exception):
    """The fault outlasted our patience, or the worker stops: the message goes back."""


class Stopping:
    """Whether the worker is asked to stop, seen by its main process and all children.

    Shared memory without a lock: an event's lock could be held by the very code that a signal
    handler, which sets it, has interrupted.
    """

    def __init__(self) -> None:
        self._flag = RawValue(c_bool, False)

    def set(self) -> None:
        """Say that the worker stops."""
        self._flag.value = True

    def wait(self, seconds: float) -> bool:
        """Wait, but no longer than until the worker stops; return whether it does."""
        end = monotonic() + seconds
        while not self._flag.value and (left := end - monotonic()) > 0:
            sleep(min(_POLL_SECONDS, left))
        return bool(self._flag.value)


def backoff(initial: float, maximum: float) -> Iterator[float]:
    """Yield waits in seconds without end: exponential from `initial` to `maximum`, full jitter."""
    ceiling = initial
    while True:
        yield random.uniform(0, ceiling)  # noqa: S311  # spreads load, keeps no secret
        ceiling = min(2 * ceiling, maximum)


class Patience:
    """Does things again while the database is away."""

    def __init__(
        self,
        stopping: Stopping,
        *,
        initial: float,
        maximum: float,
        give_back: float,
        retried: Callable[[], None] = lambda: None,
    ) -> None:
        """Set the limits, in seconds.

        Args:
            stopping: ends every wait.
            initial: ceiling of the first wait.
            maximum: ceiling of later ones.
            give_back: total time after which the message goes back to its queue.
            retried: called before each try but the first.
        """
        self._stopping = stopping
        self._initial = initial
        self._maximum = maximum
        self._give_back = give_back
        self._retried = retried

    def __call__(self, action: Callable[[], ResultT]) -> ResultT:
        """Return what `action` returns, once the database lets it.

        Raises:
            GiveBack: the worker stops, or the fault lasts too long.
        """
        start = monotonic()
        waits = backoff(self._initial, self._maximum)
        first = True
        while True:
            try:
                result = action()
            except DatabaseUnavailable as error:
                if first:
                    logger.warning("waiting for the database", reason=str(error))
                first = False
                if self._stopping.wait(next(waits)) or monotonic() - start > self._give_back:
                    raise GiveBack(str(error)) from error
                self._retried()
            else:
                if not first:
                    logger.info("the database is back", seconds=round(monotonic() - start, 1))
                return result
