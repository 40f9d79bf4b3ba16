"""Guards around what Celery would acknowledge away, crash on, or stop working for.

Without them, each seen on a real broker: an undecodable body is acknowledged, hence lost; a
malformed header ends the worker, which meets the same message again; a revoked or expired
message is acknowledged without having run; a child's MemoryError ends the main process.
"""

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar, Final

from celery import bootsteps
from celery.worker.consumer import Consumer
from celery.worker.consumer.control import Control
from celery.worker.request import Request

from shared.dead import FaultKind, check_headers
from shared.queue import declare
from worker.deaths import Death, Deaths, death_of

_EVENTS_SECONDS: Final = 0.1
_CONTROL_SECONDS: Final = 10.0
_LEFT_TO_THE_CHILD: Final[tuple[Any, ...]] = ((), {}, {})
"""Arguments of a message whose body only the child decodes."""

logger = logging.getLogger(__name__)


class SafeConsumer(Consumer):
    """A consumer that sends what it cannot handle to the dead letters."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc,valid-type]  # a class all the same
        """Celery's steps, without the one that declares 28 queues for delays nobody asks for."""

        default_steps: ClassVar[list[str]] = [
            "worker.guard:OptionalControl" if step.endswith(":Control") else step
            for step in Consumer.Blueprint.default_steps
            if "delayed_delivery" not in step
        ]

    connection_errors: tuple[type[Exception], ...]
    hub: Any
    _flush_events: Callable[[], None]

    _events_leave_at = 0.0

    def on_send_event_buffered(self) -> None:  # type: ignore[override]  # the stubs are wrong
        """Let events wait for each other: Celery sends them at once, twice or more a message.

        Measured, that was a third of the main process's work between two messages.
        """
        now = monotonic()
        if now >= self._events_leave_at and self.hub:
            self._events_leave_at = now + _EVENTS_SECONDS
            self.hub.call_later(_EVENTS_SECONDS, self._flush_events)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject a message whose body cannot be decoded."""
        self._bury(message, exc)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Return Celery's handler of messages, made safe."""
        handle = super().create_task_handler(*args, **kwargs)

        def handle_safely(message: Any) -> None:
            try:
                check_headers(message.headers)
                _leave_to_the_child(message)
                handle(message)
            except self.connection_errors:
                raise
            except Exception as exc:  # noqa: BLE001  # one message must not end the worker
                self._bury(message, exc)

        return handle_safely

    def _bury(self, message: Any, exc: Exception) -> None:
        logger.error("message is dead", extra={"reason": f"{type(exc).__name__}: {exc}"})
        if not message.acknowledged:
            message.reject_log_error(logger, self.connection_errors)


def _leave_to_the_child(message: Any) -> None:
    """Have only the child decode the body.

    Celery decodes it in the main process as well, and sends both, body and arguments, through the
    child's pipe, to drop the arguments there. Remote control would show whole documents besides.
    """
    if message.content_type == "application/json":
        message._decoded_cache = _LEFT_TO_THE_CHILD  # noqa: SLF001  # kombu asks nobody


class SafeRequest(Request):
    """A message with documents: it runs whatever remote control says, and outlives its child.

    A child's death is recorded, and only then the message returned to its queue: whoever takes it
    next must know.
    """

    deaths: ClassVar[Deaths]
    _returning = False

    def revoked(self) -> bool:
        """Never: a revoked or expired message would be acknowledged without having run."""
        return False

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the message to its queue where Celery would end the worker."""
        self._death = death_of(exc_info.exception)
        try:
            return super().on_failure(exc_info, *args, **kwargs)
        except MemoryError:
            self.reject(requeue=True)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Note that the time was up."""
        if not soft:
            self._death = Death(FaultKind.TIME_LIMIT, f"{timeout} seconds")
        super().on_timeout(soft, timeout)

    _death: Death | None = None

    def reject(self, requeue: bool = False) -> None:
        """Refuse the message; after a death, as soon as that is recorded."""
        if self._returning:
            return  # Celery reports a hard time limit twice
        if self._death is None or not requeue or self.acknowledged:
            super().reject(requeue)
            return
        self._returning = True
        self.deaths.record(self.id, self._death, then=self._return)

    def _return(self) -> None:
        super().reject(True)


class OptionalControl(Control):
    """Remote control, which a worker does without while its queue cannot be had.

    In a cluster that queue goes with its node. Celery would end the worker, again at each start,
    until the node is back.
    """

    box: Any

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        del self.__dict__["start"]  # Celery's, in front of ours

    def start(self, consumer: Any) -> None:
        """Listen, or try again later."""
        if self.box.consumer is not None:
            return
        try:
            self.box.start(consumer)
        except consumer.connection.channel_errors as error:
            logger.warning("no remote control", extra={"reason": str(error)})
            consumer.timer.call_after(_CONTROL_SECONDS, self.start, (consumer,))


class DeclareQueues(bootsteps.StartStopStep):
    """Declares all queues at every connect, also those that the worker does not consume."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, consumer: Any) -> None:
        """Declare them, on the consumer's own connection."""
        declare(consumer.connection)
