"""Every message has exactly one task, and every task is a message's."""

from collections import Counter
from pathlib import Path

import pytest

from shared.messages import MESSAGES
from shared.queue import QUEUES

with pytest.MonkeyPatch.context() as environment:
    # The app reads the settings when it is imported; it opens nothing.
    environment.setenv("DATABASE_URL", "postgresql://nobody@nowhere.invalid/nothing")
    environment.setenv("BROKER_URL", "amqp://nobody@nowhere.invalid//")
    from worker.app import app


def test_every_message_has_exactly_one_task_and_the_reverse() -> None:
    app.loader.import_default_modules()
    ours = [name for name in app.tasks if not name.startswith("celery.")]
    assert Counter(ours) == Counter(message.task for message in MESSAGES)


def test_every_task_has_a_file_of_its_own_that_the_worker_loads() -> None:
    folder = Path(__file__).parents[2] / "worker" / "tasks"
    files = {f"worker.tasks.{file.stem}" for file in folder.glob("[a-z]*.py")}
    assert set(app.conf.imports) == files
    assert len(files) == len(MESSAGES)


def test_every_message_waits_on_a_queue_that_is_declared() -> None:
    assert {message.queue for message in MESSAGES} <= set(QUEUES)
