"""The reader of the dead: moves each message of that queue into the database, with its reason.

A thread of the main process, with connections of its own to broker and database. It asks for one
message at a time, and only while the database answers: so a message waits where it is safe, and is
not returned over and over, which some brokers count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from threading import Thread
from typing import Any, ClassVar, Final

import structlog
from celery import Celery, bootsteps

from shared import dead
from shared.dead import Letter, RawMessage
from shared.messages import DEAD_QUEUE, MAINTAIN_QUEUE
from shared.store import dead_letters, message_faults
from shared.store.ledger import AlreadyAccounted
from worker.forks import no_fork
from worker.patience import GiveBack
from worker.runtime import Runtime

_IDLE_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 5.0

logger = structlog.get_logger(__name__)


class Reader(Thread):
    """Reads the queue of the dead until the worker stops."""

    def __init__(self, app: Celery, runtime: Runtime) -> None:
        super().__init__(name="dead letters", daemon=True)
        self._app = app
        self._runtime = runtime
        self._failing = False

    def run(self) -> None:
        """Read; whatever fails is tried again a second later, and said once."""
        while not self._runtime.stopping.wait(_IDLE_SECONDS):
            try:
                with self._channel() as channel:
                    self._read(channel)
            except Exception as error:  # noqa: BLE001  # the next second may bring what is missing
                if not self._failing:
                    reason = f"{type(error).__name__}: {error}"
                    logger.warning("cannot read dead letters", reason=reason)
                self._failing = True

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        # Without heartbeats: asking once a second tells as soon that the broker is away.
        connection = self._app.connection_for_read(heartbeat=0)
        try:
            with no_fork:
                connection.connect()  # a channel would, too, but with retries without end
            channel: Any = connection.default_channel
            channel.auto_decode = False  # amqp would: the payload is kept as it is
            yield channel
        finally:
            connection.collect()

    def _read(self, channel: Any) -> None:
        while not self._runtime.stopping.wait(0):
            with self._runtime.beside.transaction() as session:
                dead_letters.check(session)
            raw = channel.basic_get(DEAD_QUEUE, no_ack=False)
            if self._failing:
                logger.info("reading dead letters again")
                self._failing = False
            if raw is None:
                self._runtime.stopping.wait(_IDLE_SECONDS)
                continue
            message = channel.message_to_python(raw)
            if self._keep(message):
                channel.basic_ack(message.delivery_tag)

    def _keep(self, message: Any) -> bool:
        """Keep one message; return whether it is safe.

        Raises:
            GiveBack: the database stayed away too long, or the worker stops.
        """
        raw = _raw(message)
        redelivered = bool((message.delivery_info or {}).get("redelivered"))
        try:
            letter = self._runtime.patience(partial(self._bury, raw, redelivered=redelivered))
        except AlreadyAccounted:
            logger.info("message was accounted for before", task_id=dead.task_id_of(raw))
        except GiveBack:
            raise
        except Exception as error:  # noqa: BLE001  # one message must not hold up the others
            # Neither acknowledged nor returned: it comes again with the next connection.
            logger.error("dead letter cannot be kept", reason=type(error).__name__)
            return False
        else:
            logger.error(
                "dead letter",
                task_id=dead.task_id_of(raw),
                reason=letter.reason,
                documents=letter.documents,
                fingerprint=letter.fingerprint,
            )
        return True

    def _bury(self, raw: RawMessage, *, redelivered: bool) -> Letter:
        task_id = dead.task_id_of(raw)
        with self._runtime.beside.transaction() as session:
            faults = message_faults.of(session, task_id) if task_id else []
            letter = dead.diagnose(raw, faults, oldest=self._runtime.oldest, now=datetime.now(UTC))
            dead_letters.bury(session, letter, redelivered=redelivered)
        return letter


def _raw(message: Any) -> RawMessage:
    body = message.body
    return RawMessage(
        message.headers,
        message.content_type,
        message.content_encoding,
        body.encode() if isinstance(body, str) else bytes(body or b""),
    )


class ReadDeadLetters(bootsteps.StartStopStep):
    """Runs the reader in each worker that maintains."""

    requires = ("celery.worker.components:Pool",)  # the children are there before the thread
    runtime: ClassVar[Runtime]

    def include_if(self, parent: Any) -> bool:
        """Whether this worker consumes the queue of the ticks."""
        return MAINTAIN_QUEUE in parent.app.amqp.queues.consume_from

    def start(self, parent: Any) -> None:
        """Start it."""
        self._reader = Reader(parent.app, self.runtime)
        self._reader.start()

    def stop(self, parent: Any) -> None:  # noqa: ARG002  # Celery's signature
        """End it once it has kept what it holds, or has held it for too long."""
        self.runtime.stopping.set()
        self._reader.join(_STOP_SECONDS)

    terminate = stop
