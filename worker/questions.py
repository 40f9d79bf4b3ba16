"""Questions that somebody waits for, among messages that can wait."""

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import structlog
from celery import bootsteps
from celery.worker.request import Request

from shared.errors import BrokerUnavailable
from shared.messages import Reply
from shared.queue import Replier
from worker.deaths import death_of

if TYPE_CHECKING:
    from celery import Celery

logger = structlog.get_logger(__name__)


class Asked(Request):
    """A message that somebody waits for: told at once if the child that worked on it has died."""

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Reply without an answer."""
        died = death_of(exc_info.exception)
        try:
            return super().on_failure(exc_info, *args, **kwargs)
        except MemoryError:
            pass  # Celery would end the worker
        finally:
            if died is not None:
                logger.error("child died", task_id=self.id, kind=died.kind, reason=died.error)
                self._tell()

    def _tell(self) -> None:
        # On a connection for this once: one that is kept would be inherited by the next child.
        replier = Replier(cast("Celery", self.app))
        try:
            replier.send(str(self.reply_to), self.id, Reply())
        except BrokerUnavailable as error:
            logger.warning("reply cannot be sent", task_id=self.id, reason=str(error))
        finally:
            replier.close()


class AskedFirst(bootsteps.StartStopStep):
    """Gives the next child that is free to who waits for an answer.

    A worker fetches a few messages of each queue ahead, and Celery hands them to its children in
    the order in which they came: measured, a question behind those of a bulk import waited for
    several times as long.
    """

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Have messages wait in this order; a single process has no children to wait for."""
        if parent.semaphore is not None:
            # Celery makes it, and asks nobody.
            waiting = parent.semaphore._waiting  # noqa: SLF001
            parent.semaphore._add_waiter = partial(_add, waiting)  # noqa: SLF001


def _add(waiting: deque[Any], waiter: tuple[Any, tuple[Any], Any]) -> None:
    """Add who waits for a child: a question behind other questions, all else behind all."""
    _, (request,), _ = waiter
    if isinstance(request, Asked):
        questions = sum(isinstance(other, Asked) for _, (other,), _ in waiting)
        waiting.insert(questions, waiter)
    else:
        waiting.append(waiter)
