"""Guards around what Celery would acknowledge away, crash on, or stop working for.

Without them, each seen on a real broker: an undecodable body is acknowledged, hence lost; a
malformed header ends the worker, which meets the same message again; a revoked or expired
message is acknowledged without having run; a child's MemoryError ends the main process.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from time import monotonic
from typing import Any, ClassVar, Final

from celery import bootsteps
from celery.worker.consumer import Consumer
from celery.worker.request import Request

from shared.queue import declare

_EVENTS_SECONDS: Final = 0.1

logger = logging.getLogger(__name__)


class MalformedHeaders(Exception):
    """Headers that no sender of ours writes, and that Celery would trip over."""


def check_headers(headers: object) -> None:
    """See that Celery can rely on a message's headers.

    Raises:
        MalformedHeaders: it cannot; the text names the header.
    """
    if not isinstance(headers, Mapping):
        raise MalformedHeaders("there are none")
    for name in ("id", "task"):
        if not isinstance(headers.get(name), str) or not headers[name]:
            raise MalformedHeaders(f"{name} is not a text")
    if not isinstance(headers.get("retries", 0), int):
        raise MalformedHeaders("retries is not a number")
    _check_time_limit(headers.get("timelimit"))
    for name in ("eta", "expires"):
        _check_time(name, headers.get(name))


def _check_time_limit(value: object) -> None:
    if value is None:
        return
    pair = 2
    if not isinstance(value, list | tuple) or len(value) != pair or not all(map(_is_limit, value)):
        raise MalformedHeaders("timelimit is not a pair of seconds")


def _is_limit(value: object) -> bool:
    # A limit that is over before the task begins would kill one child after the other.
    return value is None or (isinstance(value, int | float) and value > 0)


def _check_time(name: str, value: object) -> None:
    if value is None:
        return
    try:
        datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise MalformedHeaders(f"{name} is not a time") from error


class SafeConsumer(Consumer):
    """A consumer that sends what it cannot handle to the dead letters."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc,valid-type]  # a class all the same
        """Celery's steps, without the one that declares 28 queues for delays nobody asks for."""

        default_steps: ClassVar[list[str]] = [
            step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step
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


class SafeRequest(Request):
    """A message with documents: it runs whatever remote control says, and outlives its child."""

    def revoked(self) -> bool:
        """Never: a revoked or expired message would be acknowledged without having run."""
        return False

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the message to its queue where Celery would end the worker."""
        try:
            return super().on_failure(exc_info, *args, **kwargs)
        except MemoryError:
            self.reject(requeue=True)


class DeclareQueues(bootsteps.StartStopStep):
    """Declares all queues at every connect, also those that the worker does not consume."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, consumer: Any) -> None:
        """Declare them, on the consumer's own connection."""
        declare(consumer.connection)
