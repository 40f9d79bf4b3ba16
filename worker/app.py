"""The Celery app of the workers, of beat and of Flower."""

import logging
import os
import sys
from typing import Any, Final

# One thread a process for linear algebra, said before numpy is imported: the processes are as
# many as the cores already.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

from billiard import pool  # noqa: E402
from celery import signals  # noqa: E402
from structlog.typing import Processor  # noqa: E402

from shared.logs import OncePerEpisode, configure_logs  # noqa: E402
from shared.queue import celery_app  # noqa: E402
from shared.settings import load  # noqa: E402
from worker.dead_letters import ReadDeadLetters  # noqa: E402
from worker.deaths import Deaths, SeenSoon  # noqa: E402
from worker.guard import DeclareQueues, SafeRequest  # noqa: E402
from worker.metrics_server import TellMetrics  # noqa: E402
from worker.presence import SayPresent  # noqa: E402
from worker.questions import AskedFirst  # noqa: E402
from worker.runtime import Runtime  # noqa: E402
from worker.schedule import SCHEDULE  # noqa: E402
from worker.settings import WorkerSettings  # noqa: E402

settings: Final = load(WorkerSettings)
runtime: Final = Runtime(settings)
app: Final = celery_app(settings.broker_url.get_secret_value())
app.conf.update(
    imports=(
        "worker.tasks.ingest",
        "worker.tasks.reclassify",
        "worker.tasks.classify",
        "worker.tasks.fold_ledger",
        "worker.tasks.index_documents",
        "worker.tasks.purge_tombstones",
    ),
    beat_schedule=SCHEDULE,
    worker_consumer="worker.guard:SafeConsumer",
    worker_pool="worker.pool:TaskPool",
    # A message is acknowledged after its transaction, and only then: not when its child is
    # killed, its time is up, or the task raises, which makes it a dead letter.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_acks_on_failure_or_timeout=False,
    task_time_limit=settings.retry_give_back_seconds + 300,
    # One message for each child to work on, and one for it to go on with, so that it need not wait
    # for the broker: measured, some percent with messages of 20 documents, nothing with 100.
    worker_prefetch_multiplier=2,
    worker_send_task_events=True,
    task_send_sent_event=False,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    broker_heartbeat=10,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # For Flower: it asks the workers eight things at once, each on a connection that waits for a
    # second one to send on. With fewer than these they wait for each other for ever.
    broker_pool_limit=20,
    # A worker publishes events only, which may be lost; a confirm for each costs more than they do.
    broker_transport_options=app.conf.broker_transport_options | {"confirm_publish": False},
    # A worker that comes back while the broker still holds its old connection would otherwise
    # be refused its own control queue.
    control_queue_durable=True,
    control_queue_exclusive=False,
    # For beat, which otherwise goes on with a connection that a broker's restart has closed, for
    # ever. A tick that is sent twice does no harm.
    task_publish_retry=True,
    worker_hijack_root_logger=False,
)
# A job that a child has just been given when the worker is told to stop is forgotten before the
# child has said that it has it, and nobody reads its result: the child would wait for that for half
# a minute. Its message comes again, and is found in the ledger.
pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 20  # times a tenth of a second
app.steps["consumer"].add(DeclareQueues)
app.steps["worker"].add(ReadDeadLetters)
app.steps["worker"].add(AskedFirst)
app.steps["worker"].add(SeenSoon)
app.steps["worker"].add(TellMetrics)
app.steps["worker"].add(SayPresent)
_log_also: list[Processor] = []
if settings.otel_exporter_otlp_endpoint:
    # Only who traces loads it.
    from shared.tracing import Tracing
    from worker.tracing import trace

    trace(runtime)
    _log_also.append(Tracing.add_ids)
SafeRequest.deaths = Deaths(runtime)
ReadDeadLetters.runtime = runtime
TellMetrics.runtime = runtime
SayPresent.runtime = runtime


def _program() -> str:
    """Return what log lines say under "program"."""
    # `celery -A worker.app beat` tells nobody else, before it logs, what it is.
    return next((name for name in ("beat", "flower") if name in sys.argv), settings.worker_name)


@signals.setup_logging.connect
def _configure_logs(**_: Any) -> None:
    configure_logs(settings.log_level, _program(), *_log_also)
    if settings.log_level != "DEBUG":
        # Each message has a line of ours, Celery's two on the same say less; beat's each tick.
        for name in ("celery.worker.strategy", "celery.app.trace", "celery.beat"):
            logging.getLogger(name).setLevel("WARNING")
        # They say each attempt to reach the broker, and beat each tick.
        for name in ("celery.worker.consumer.consumer", "celery.beat"):
            if not logging.getLogger(name).filters:
                logging.getLogger(name).addFilter(OncePerEpisode())


if _program() == "flower":
    _configure_logs()  # it would not ask, but leaves alone what it finds


@signals.worker_init.connect
def _load_model(**_: Any) -> None:
    _configure_logs()  # Celery would do it later only
    runtime.load_model()


@signals.worker_shutting_down.connect
def _stop_waiting(**_: Any) -> None:
    runtime.stopping.set()
