"""The Celery app that the baseline's API and worker share."""

from typing import Final

from celery import Celery

from shared.settings import SharedSettings, load

CLASSIFY: Final = "baseline.classify"

settings: Final = load(SharedSettings)
app: Final = Celery("baseline", broker=settings.broker_url.get_secret_value())
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    task_default_queue="baseline",
    task_default_queue_type="quorum",
    task_ignore_result=True,
)
