"""Careful mode: what becomes of a message that a child did not survive.

From the third death on its documents are taken one at a time, and before each the database is told
which. When a child dies once more, that one is the culprit: at the next delivery it is left out,
and becomes a dead letter in the transaction that stores the others. The same goes for documents
that are stored, and classified anew.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from shared import dead
from shared.db import Session, reason
from shared.dead import CAREFUL_AFTER, DEATHS, Dead, Fault, FaultKind, Reason
from shared.errors import DatabaseUnavailable
from shared.messages import INGEST, Classified, Document, Envelope, Message
from shared.store import dead_letters, message_faults
from worker.runtime import Runtime

ItemT = TypeVar("ItemT", Document, Classified)

_RETURNS: Final = "x-delivery-count"

logger = structlog.get_logger(__name__)


class Past:
    """What is known of a message's earlier deliveries.

    Attributes:
        culprits: places of the documents that killed a child, which are left out.
        careful: whether the others shall be taken one at a time.
    """

    def __init__(
        self,
        runtime: Runtime,
        envelope: Envelope,
        headers: Mapping[str, Any] | None,
        message: Message = INGEST,
    ) -> None:
        """Look it up; `message` is its kind.

        Raises:
            GiveBack: the database stayed away too long, or the worker stops.
        """
        self._runtime = runtime
        self._envelope = envelope
        self._message = message
        self._faults: list[Fault] = runtime.patience(self._look_up)
        deaths = [fault for fault in self._faults if fault.kind in DEATHS]
        self.culprits = {fault.position for fault in deaths if fault.position is not None}
        self.careful = max(len(deaths), self._returns(headers or {})) >= CAREFUL_AFTER

    def one_at_a_time(self, documents: Sequence[ItemT]) -> Iterator[ItemT]:
        """Yield the documents that are no culprits; until the next one, each is marked.

        Raises:
            Dead: there is none.
            GiveBack: as above.
        """
        if len(self.culprits) == len(documents):
            raise Dead(Reason.CHILD_KILLED, "each of its documents killed a child")
        logger.warning("taking documents one at a time", task_id=self._envelope.task_id)
        for position, document in enumerate(documents):
            if position not in self.culprits:
                self._record(partial(message_faults.mark, position=position))
                yield document
        self._record(message_faults.unmark)

    def settle(self, session: Session, documents: Sequence[ItemT]) -> None:
        """Keep the culprits as dead letters, and forget the rest: the message is accounted for."""
        if self._faults:
            letters = (
                dead.single(
                    self._message, self._envelope, documents[position], position, self._faults
                )
                for position in sorted(self.culprits)
            )
            dead_letters.keep(session, letters)
            message_faults.forget(session, self._envelope.task_id)

    def _look_up(self) -> list[Fault]:
        task_id = self._envelope.task_id
        with self._runtime.database.transaction() as session:
            faults = message_faults.of(session, task_id)
            if any(fault.kind is FaultKind.WORKING for fault in faults):
                if self._runtime.settings.solo:
                    # There was nobody to record the death of a single process, but this mark.
                    message_faults.add(session, task_id, FaultKind.CHILD_LOST, "the worker died")
                else:
                    message_faults.unmark(session, task_id)  # given back, or stopped
                faults = message_faults.of(session, task_id)
        return faults

    def _returns(self, headers: Mapping[str, Any]) -> int:
        """Return how often the message came back, where nobody records deaths."""
        returns = headers.get(_RETURNS)
        return returns if self._runtime.settings.solo and isinstance(returns, int) else 0

    def _record(self, statement: Callable[[Session, str], None]) -> None:
        def record() -> None:
            with self._runtime.database.transaction() as session:
                statement(session, self._envelope.task_id)

        self._runtime.patience(record)


def record_raised(runtime: Runtime, task_id: str, error: Exception) -> None:
    """Write down what a task raised, for the dead letter that the message becomes of it."""
    said = dead.clean(f"{type(error).__name__}: {reason(error)}")[: dead.MAX_ERROR]
    try:
        with runtime.database.transaction() as session:
            message_faults.add(session, task_id, FaultKind.RAISED, said)
    except DatabaseUnavailable as unavailable:
        logger.warning("error is not recorded", task_id=task_id, reason=str(unavailable))
