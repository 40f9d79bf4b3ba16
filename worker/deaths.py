"""The deaths of children, recorded by message: what kills again and again shall be found.

A thread of the main process writes them down, while its event loop goes on. If the database is
away, the record is lost: then the broker's delivery limit is the net.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import structlog
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import bootsteps
from celery.worker import state
from kombu.asynchronous import get_event_loop

from shared.dead import MAX_ERROR, FaultKind, clean
from shared.errors import DatabaseUnavailable
from shared.store import message_faults
from worker.runtime import Runtime

_LOOK_SECONDS: Final = 0.2
_POLL_SECONDS: Final = 0.02
_PATIENCE_SECONDS: Final = 5.0

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Death:
    """How a child ended that worked on a message."""

    kind: FaultKind
    error: str


def death_of(error: BaseException) -> Death | None:
    """Return the death that a failure was; None for any other failure, and for a stop."""
    error = getattr(error, "exc", error)  # billiard's wrapper of an error with its traceback
    stop: Any = state.should_terminate  # None, or an exit status, which may be 0
    if stop is not None and stop is not False:
        return None
    if isinstance(error, MemoryError):
        return Death(FaultKind.OUT_OF_MEMORY, "")
    if isinstance(error, TimeLimitExceeded):
        return Death(FaultKind.TIME_LIMIT, f"{error.args[0]} seconds" if error.args else "")
    if isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt):
        return Death(FaultKind.CHILD_LOST, str(error))
    return None


class SeenSoon(bootsteps.StartStopStep):
    """Looks for children that have died more often than Celery does.

    Celery looks when a child's pipe closes, and every five seconds. The pipe closes a moment before
    the kernel says that the process has ended: in one death of three, on two busy cores, Celery
    looked too early, and whoever waited did so for those five seconds.
    """

    requires = ("celery.worker.components:Pool",)

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """Look from now on; only a pool of children has an event loop."""
        hub.call_repeatedly(_LOOK_SECONDS, worker.pool.maintain_pool)


class Deaths:
    """Records deaths from a thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._threads = ThreadPoolExecutor(1, "deaths")

    def record(self, task_id: str, death: Death, *, then: Callable[[], None]) -> None:
        """Record a death; call `then` once that is done, or was tried for long enough.

        For the event loop of the main process, where there is one; `then` is called there.
        """
        logger.error("child died", task_id=task_id, kind=death.kind, reason=death.error)
        self._runtime.metrics.died(death.kind)
        loop = get_event_loop()
        if loop is None:  # a single process waits for its database anyway
            self._write(task_id, death)
            then()
            return
        written = self._threads.submit(self._write, task_id, death)
        end = monotonic() + _PATIENCE_SECONDS

        def see(waited_for: Future[None]) -> None:
            # No thread may wake the loop up or touch its connection, so the loop looks.
            if waited_for.done() or self._runtime.stopping.wait(0) or monotonic() > end:
                then()
            else:
                loop.call_later(_POLL_SECONDS, see, waited_for)

        see(written)

    def _write(self, task_id: str, death: Death) -> None:
        error = clean(death.error)[:MAX_ERROR]
        try:
            with self._runtime.beside.transaction() as session:
                message_faults.add(session, task_id, death.kind, error)
        except DatabaseUnavailable as unavailable:
            logger.warning("death is not recorded", task_id=task_id, reason=str(unavailable))
