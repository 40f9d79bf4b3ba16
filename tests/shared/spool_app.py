"""A Celery app for the spool's tests: `celery -A tests.shared.spool_app -b URL worker`."""

import time
from pathlib import Path

from celery import Celery
from kombu import Exchange, Queue

import shared.spool  # noqa: F401  # registers the transport

QUEUE = Queue("work", Exchange(""), routing_key="work")

app = Celery("spool_app", set_as_current=False)
app.conf.update(
    task_queues=[QUEUE],
    task_default_queue="work",
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task(name="record")
def record(journal: str, number: int, filler: str) -> None:
    time.sleep(0.002)  # so that a kill meets a message in work
    with Path(journal).open("a") as file:
        file.write(f"{number}\n")
