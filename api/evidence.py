"""Tells lost messages from those on their way.

A gap in a producer's numbers is a message that waits, is with a worker, or is lost. So the gaps are
written down, and then the broker is asked until it had no message at all. What is a gap all the
same is not on its way. See docs/decisions/0003-ledger.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Final, TypeVar

from shared.db import Database, Session
from shared.errors import BrokerUnavailable, DatabaseUnavailable
from shared.inventory import Inventory
from shared.messages import BULK_QUEUE, DEAD_QUEUE, INGEST_QUEUE
from shared.store import ledger
from shared.store.ledger import Gap, Missing

ResultT = TypeVar("ResultT")

_STALE_SECONDS: Final = 25.0
"""Age of gaps after which newer ones are looked for, if the broker had messages all the time.

With the looks that follow below the age at which entries are folded: until then all missing
documents can be counted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of the gaps.

    Attributes:
        gaps: those of which it was certain last that something is missing.
        found: what was missing when it was last certain, from a snapshot of its own.
        checked_at: when that was; None if it never was.
        obstacle: why it is not certain of the gaps there are now; None if it is.
    """

    gaps: Sequence[Gap] = ()
    found: Sequence[Missing] = ()
    checked_at: datetime | None = None
    obstacle: str | None = "not looked at yet"

    def still(self, session: Session) -> list[Missing]:
        """Return what of `found` is missing in this session's snapshot, too."""
        before = {each.producer_id: each for each in self.found}
        return [
            _with_documents_of(each, before[each.producer_id])
            for each in ledger.missing(session, self.gaps)
        ]


def _with_documents_of(now: Missing, before: Missing) -> Missing:
    """Return `now` with the documents counted before, when their entries were not folded yet."""
    if (now.promised, now.unsure) != (before.promised, before.unsure):
        return now
    return replace(now, documents=before.documents, unsure_documents=before.unsure_documents)


class Evidence:
    """Looks, a step at a time; for one thread at a time.

    Attributes:
        verdict: what is known so far; read it from any thread.
    """

    def __init__(
        self, database: Database, inventory: Inventory, now: Callable[[], float] = monotonic
    ) -> None:
        self.verdict = Verdict()
        self._database = database
        self._inventory = inventory
        self._now = now
        self._gaps: list[Gap] = []
        self._gaps_at: float | None = None
        self._empty_at: float | None = None

    def step(self) -> bool:
        """Look once; return whether looking again soon would tell more.

        Raises:
            DatabaseUnavailable: nothing is known beyond what was.
        """
        now = self._now()
        waited = 0.0 if self._gaps_at is None else now - self._gaps_at
        try:
            if self._gaps_at is None or (self._empty_at is None and waited > _STALE_SECONDS):
                self._gaps = self._read(ledger.gaps)
                self._gaps_at, self._empty_at = self._now(), None
            if self._gaps:
                self._look(self._gaps_at)
            else:
                self._settle([])
        except BrokerUnavailable as error:
            self._doubt(str(error))
            return False
        except DatabaseUnavailable as error:
            self._gaps_at = None
            self._doubt(str(error))
            raise
        return self.verdict.obstacle is not None

    def _look(self, gaps_at: float) -> None:
        now, lag = self._now(), self._inventory.lag
        if self._empty_at is None:
            if now < gaps_at + lag:
                self._doubt("the broker's figures may be older than the gaps")
            elif self._inventory.empty((INGEST_QUEUE, BULK_QUEUE)):
                self._empty_at = now
                self._doubt("a last message may just have become a dead letter")
            else:
                self._doubt("messages are in the broker")
        # A queue's figures may be older than another's: what has left the one when it was seen
        # empty must be in the other by now.
        elif now >= self._empty_at + lag and self._inventory.empty((DEAD_QUEUE,)):
            self._settle(self._read(lambda session: ledger.missing(session, self._gaps)))

    def _settle(self, found: Sequence[Missing]) -> None:
        missing = {each.producer_id for each in found}
        gaps = [gap for gap in self._gaps if gap.producer_id in missing]
        self.verdict = Verdict(gaps, found, datetime.now(UTC), None)
        self._gaps_at = None

    def _doubt(self, obstacle: str) -> None:
        self.verdict = replace(self.verdict, obstacle=obstacle)

    def _read(self, action: Callable[[Session], list[ResultT]]) -> list[ResultT]:
        with self._database.transaction() as session:
            return action(session)
