"""What a worker process has at hand: settings, the model, the database, patience."""

import contextlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import structlog

from shared.db import Database
from shared.errors import DatabaseUnavailable
from shared.logs import Failing
from shared.revision import DAY, microseconds_now
from worker.classify.artefact import ArtefactError, read
from worker.classify.model import Model
from worker.forks import no_fork
from worker.metrics import Metrics, Stage
from worker.patience import Patience, Stopping
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from shared.tracing import Tracing

logger = structlog.get_logger(__name__)


class Runtime:
    """One for each worker: made before the children fork, so that they share the model's memory.

    Attributes:
        tracing: makes spans, if there shall be any; each process has its own.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.tracing: Tracing | None = None
        self.stopping = Stopping()
        self.metrics = Metrics()
        self.patience = Patience(
            self.stopping,
            initial=settings.retry_initial_seconds,
            maximum=settings.retry_max_seconds,
            give_back=settings.retry_give_back_seconds,
            retried=self.metrics.retried,
        )
        # They open nothing yet: each child makes its own connection after the fork.
        self.database = self._open("postroom-worker", connections=1, seconds=60)
        # For threads of the main process. A child that is forked just then inherits the locks
        # that they hold: so these are of a pool that no child ever wants.
        self.beside = self._open(
            "postroom-worker-beside", connections=3, seconds=20, connecting=no_fork
        )
        self._upkeep = Failing(
            logger, "upkeep waits for the database", "upkeep goes on: the database is back"
        )
        self._model: Model | None = None

    def _open(
        self,
        application: str,
        *,
        connections: int,
        seconds: float,
        connecting: AbstractContextManager[object] | None = None,
    ) -> Database:
        return Database(
            self.settings.database_url.get_secret_value(),
            pool_size=connections,
            pre_ping=False,  # patience covers a connection that is dead, too
            statement_seconds=seconds,
            application=application,
            connecting=connecting,
        )

    def step(self, stage: Stage) -> AbstractContextManager[object]:
        """Return what measures what is done in it, and makes a span of that."""
        measured = self.metrics.stage(stage)
        return measured if self.tracing is None else _both(measured, self.tracing.span(stage))

    @contextlib.contextmanager
    def upkeep(self) -> Iterator[None]:
        """Let a tick pass that the database is away for: the next one does its work."""
        try:
            yield
        except DatabaseUnavailable as error:
            self._upkeep.failed(error)
        else:
            self._upkeep.succeeded()

    @property
    def oldest(self) -> int:
        """Stamps before this one are too old: their tombstones may have been purged."""
        return microseconds_now() - self.settings.tombstone_days * DAY

    @property
    def model(self) -> Model:
        """The classifier; `load_model` came first."""
        if self._model is None:
            raise RuntimeError("the model is not loaded")
        return self._model

    def load_model(self) -> None:
        """Load the classifier, verified, and make room for what is counted by category.

        Raises:
            SystemExit: the artefact is refused; the message is one line that says why.
        """
        try:
            self._model = read(self.settings.model_dir, self.settings.model_sha256)
        except ArtefactError as error:
            sys.exit(f"postroom: {error}")
        logger.info("model loaded", model_version=self._model.version)
        if self.settings.worker_metrics_port:
            self.metrics.open(self._model.categories, self.settings.children)


@contextlib.contextmanager
def _both(
    measured: AbstractContextManager[object], traced: AbstractContextManager[object]
) -> Iterator[None]:
    with measured, traced:
        yield
