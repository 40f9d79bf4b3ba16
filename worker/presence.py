"""Says every few seconds that the worker is there, for `GET /v1/status`.

A thread of the main process: children may be busy for minutes. In the database rather than by the
broker's remote control, so that every API process can read it at once and nobody has to wait for
answers that may not come.
"""

from datetime import UTC, datetime
from threading import Thread
from typing import Any, ClassVar, Final

from celery import bootsteps

from shared.errors import DatabaseUnavailable
from shared.release import RELEASE
from shared.store import workers
from shared.store.workers import SAY_SECONDS, Worker
from worker.runtime import Runtime

_STOP_SECONDS: Final = 2.0


class Presence(Thread):
    """Says so until the worker stops, and then that it has left."""

    def __init__(self, worker: Worker, runtime: Runtime) -> None:
        super().__init__(name="presence", daemon=True)
        self._worker = worker
        self._runtime = runtime

    def run(self) -> None:
        """Say it; while the database is away nobody could read it anyway."""
        self._do(workers.say)
        while not self._runtime.stopping.wait(SAY_SECONDS):
            self._do(workers.say)
        self._do(workers.leave)

    def _do(self, statement: Any) -> None:
        try:
            with self._runtime.beside.transaction() as session:
                statement(session, self._worker)
        except DatabaseUnavailable:
            return  # others say that it is away


class SayPresent(bootsteps.StartStopStep):
    """Runs the thread in each worker."""

    requires = ("celery.worker.components:Pool",)  # the children are there before the thread
    runtime: ClassVar[Runtime]

    def start(self, parent: Any) -> None:
        """Start it."""
        worker = Worker(
            hostname=parent.hostname,
            children=parent.pool.num_processes,
            queues=sorted(parent.app.amqp.queues.consume_from),
            release=RELEASE,
            model_version=self.runtime.model.version,
            started_at=datetime.now(UTC),
        )
        self._presence = Presence(worker, self.runtime)
        self._presence.start()

    def stop(self, parent: Any) -> None:  # noqa: ARG002  # Celery's signature
        """Say that it has left, unless that takes too long."""
        self.runtime.stopping.set()
        self._presence.join(_STOP_SECONDS)

    terminate = stop
