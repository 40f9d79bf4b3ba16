"""What Flower shows of a message: its name, its id, how many documents. Never what they say."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.stack import Api, Flower, Worker, poll, running

SECRET = "the minutes of the board meeting"


def get(flower: Flower, path: str) -> httpx2.Response:
    response = httpx2.get(f"{flower.url}/{path}", timeout=10, trust_env=False)
    assert response.status_code == 200, response.text
    return response


@pytest.mark.rabbitmq
def test_flower_shows_messages_without_contents(
    database_url: str, broker_url: str, tmp_path: Path, processes: ExitStack
) -> None:
    api = Api(tmp_path / "api", database_url, broker_url)
    worker = Worker(tmp_path / "worker", database_url, broker_url, WORKER_CONCURRENCY="1")
    flower = Flower(tmp_path / "flower", database_url, broker_url)
    running(processes, api, worker, flower)
    client = processes.enter_context(api.client())

    # It answers before it listens: what was sent by then it never sees.
    poll(lambda: get(flower, "metrics").text, lambda text: "flower_worker_online{" in text, 30)

    document = {"content": SECRET, "source": SECRET, "metadata": {"a": SECRET}, "label": SECRET}
    one = client.post("/v1/documents", json=document).json()
    batch = client.post("/v1/documents/batch", json=[document] * 3).json()

    def tasks() -> Any:
        return get(flower, "api/tasks").json()

    def done(tasks: Any) -> bool:
        wanted = [tasks.get(each["task_id"], {}) for each in (one, batch)]
        return all(each.get("state") == "SUCCESS" for each in wanted)

    shown = poll(tasks, done, seconds=30)
    assert {each["name"] for each in shown.values()} == {"documents.ingest"}
    assert shown[one["task_id"]]["args"] == f"1 document {one['id']}"
    assert shown[batch["task_id"]]["args"] == f"3 documents {batch['documents'][0]['id']}, …"
    detail = get(flower, f"api/task/info/{one['task_id']}")
    page = get(flower, f"task/{one['task_id']}")
    for answer in (str(shown), detail.text, page.text):
        assert "documents.ingest" in answer
        assert SECRET not in answer
    for program in (api, worker, flower):
        assert SECRET not in program.log.read_text()
    lines = flower.log.read_text().splitlines()
    assert {json.loads(line)["program"] for line in lines} == {"flower"}
