"""The clock that stamps every write: 64-bit microseconds since the epoch, strictly increasing."""

from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock
from time import time_ns

DAY = 86_400_000_000
"""Microseconds in a day."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds_now() -> int:
    """Return the wall clock's time in microseconds since the epoch."""
    return time_ns() // 1_000


class Clock:
    """Stamps that never repeat and never go back within one process, whatever the wall clock does.

    A stamp is above every stamp given before and above every revision that `observe` was told,
    so that a write which follows a read is never older than what was read.
    """

    def __init__(self, now: Callable[[], int] = microseconds_now) -> None:
        self._now = now
        self._last = 0
        self._lock = Lock()

    def stamp(self) -> int:
        """Return the next stamp."""
        with self._lock:
            self._last = max(self._now(), self._last + 1)
            return self._last

    def stamp_above(self, revision: int) -> int:
        """Return the next stamp, or one just above `revision` if that is not above it.

        The clock is not moved along: whoever names a revision need not have read it here.
        """
        return max(self.stamp(), revision + 1)

    def believable(self, revision: int) -> bool:
        """Say whether a revision can be that of a document: it is not a day ahead."""
        return 0 < revision < self._now() + DAY

    def observe(self, revision: int) -> None:
        """Never stamp at or below `revision` again.

        A revision from more than a day ahead is not believed: it would pull every later stamp
        of this process along, and with them the order of all its documents.
        """
        with self._lock:
            if self._last < revision and self.believable(revision):
                self._last = revision
