"""The limit on what may wait to be processed: over it, nothing more is accepted."""

from time import monotonic

import structlog

from shared.errors import BacklogFull

logger = structlog.get_logger(__name__)


class Backlog:
    """How many messages waited when the broker was last asked, and how many may.

    While the broker cannot be asked its last word counts: it accepts nothing then anyway, and
    must not start with a rush once it is back.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.messages = 0
        self._empty_at: float | None = None

    @property
    def full(self) -> bool:
        """Whether more wait than may."""
        return self.messages > self.limit

    @property
    def seconds_since_empty(self) -> float | None:
        """How long ago nothing waited, None if that was never seen: what waits came after that.

        A broker cannot be asked how old the first message of a quorum queue is without taking it.
        """
        return None if self._empty_at is None else monotonic() - self._empty_at

    def observe(self, messages: int) -> None:
        """Take in how many messages wait; log when that is too many, and when no longer."""
        was_full = self.full
        self.messages = messages
        if not messages:
            self._empty_at = monotonic()
        if self.full and not was_full:
            logger.warning("backlog is over its limit", messages=messages, limit=self.limit)
        elif was_full and not self.full:
            logger.info("backlog is within its limit again", messages=messages, limit=self.limit)

    def check(self) -> None:
        """See that more may be accepted.

        Raises:
            BacklogFull: not before what waits is worked off.
        """
        if self.full:
            raise BacklogFull(
                f"{self.messages} messages wait to be processed, {self.limit} may (BACKLOG_LIMIT)"
            )
