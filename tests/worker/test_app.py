import inspect
import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import joblib
import pytest
from billiard import pool

from shared.queue import QUEUES
from worker.app import app
from worker.classify.artefact import DEFAULT

ROOT = Path(__file__).parents[2]


def test_the_worker_sees_the_queues_that_the_api_declares() -> None:
    """Other arguments here would be a 406 for whoever comes second."""

    def facts(queue: Any) -> tuple[object, ...]:
        exchange = queue.exchange.name
        return exchange, queue.routing_key, queue.durable, queue.queue_arguments

    seen = {name: facts(queue) for name, queue in app.amqp.queues.items()}
    assert seen == {name: facts(queue) for name, queue in QUEUES.items()}
    assert seen["ingest"][0] == ""


def test_a_child_does_not_wait_for_long_for_its_result_to_be_read() -> None:
    """With billiard's own limit a worker that is told to stop now and then takes half a minute."""
    waits = inspect.getsource(pool.Worker)
    assert "range(GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT)" in waits
    limit, interval = "RETRY_LIMIT", "RETRY_INTERVAL"
    seconds = [getattr(pool, f"GUARANTEE_MESSAGE_CONSUMPTION_{name}") for name in (limit, interval)]
    assert seconds[0] * seconds[1] <= 3


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        # Each was seen to lose messages, or to end the worker, with Celery's own default.
        ("task_acks_late", True),
        ("task_reject_on_worker_lost", True),
        ("task_acks_on_failure_or_timeout", False),
        ("task_create_missing_queues", False),
        ("task_ignore_result", True),
        ("accept_content", ["json"]),
        ("broker_connection_max_retries", None),
        ("worker_consumer", "worker.guard:SafeConsumer"),
        ("worker_detect_quorum_queues", True),
        ("control_queue_exclusive", False),
    ],
)
def test_what_keeps_messages_safe_is_set(setting: str, value: object) -> None:
    assert app.conf[setting] == value


def start(tmp_path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    addresses = {"DATABASE_URL": "postgresql://nowhere.invalid/", "BROKER_URL": "amqp://nowhere//"}
    return subprocess.run(
        [sys.executable, "-m", "worker"],
        env={**os.environ, **addresses, "PYTHONPATH": str(ROOT), **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"WORKER_CONCURRENCY": "0"}, ["WORKER_CONCURRENCY"]),
        ({"WORKER_NAME": "a b"}, ["WORKER_NAME"]),
        ({"WORKER_QUEUES": "ingest,bulky"}, ["WORKER_QUEUES", "ingest, bulk, classify, maintain"]),
        ({"WORKER_QUEUES": "dead"}, ["WORKER_QUEUES", "ingest, bulk, classify, maintain"]),
        ({"WORKER_QUEUES": "ingest,"}, ["WORKER_QUEUES"]),
        ({"MODEL_SHA256": "b5dcd556"}, ["MODEL_SHA256"]),
        ({"DATABASE_URL": "", "RETRY_MAX_SECONDS": "x"}, ["DATABASE_URL", "RETRY_MAX_SECONDS"]),
    ],
)
def test_a_wrong_setting_ends_the_worker_with_one_line(
    tmp_path: Path, environment: dict[str, str], names: list[str]
) -> None:
    done = start(tmp_path, **environment)
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("postroom: wrong settings: ")
    assert all(name in line for name in names)


class Trap:
    """Runs code when it is unpickled: makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("digest", [{}, {"MODEL_SHA256": "0" * 64}], ids=["none", "wrong"])
def test_a_model_that_nobody_vouches_for_ends_the_worker_with_one_line(
    tmp_path: Path, digest: dict[str, str]
) -> None:
    """The shipped model, both of its files exchanged so that they fit each other."""
    model = tmp_path / "model"
    model.mkdir()
    joblib.dump(Trap(tmp_path / "sprung"), model / "model.joblib")
    manifest = json.loads((DEFAULT / "manifest.json").read_bytes())
    manifest["sha256"] = sha256((model / "model.joblib").read_bytes()).hexdigest()
    (model / "manifest.json").write_text(json.dumps(manifest))
    done = start(tmp_path, MODEL_DIR=str(model), **digest)
    assert not (tmp_path / "sprung").exists()
    assert done.returncode != 0
    # Python warns before it where the tests are run by root.
    assert done.stderr.splitlines()[-1].startswith("postroom: ")
    assert "manifest.json" in done.stderr.splitlines()[-1]
    assert done.stderr.count("postroom: ") == 1
    assert "Traceback" not in done.stdout + done.stderr
