"""Classifying without storing, on both brokers: from the request to the worker and back."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from kombu import Connection

from local.rabbitmq import RabbitMQ
from shared.queue import declare
from tests.deadly import HANG, KILL, POISON
from tests.end_to_end.conftest import Pipe
from tests.end_to_end.texts import texts
from tests.shared.broker import depth
from tests.stack import Api, Worker, ledger, poll, running
from tests.worker.bench import DeadlyWorker
from worker.classify.artefact import DEFAULT, read
from worker.classify.model import Model

CLASSIFY = "/v1/classify"
SPACE = "The shuttle will launch from the Cape on Monday and reach its orbit at noon."

# The promise is 5 seconds; the rest is for machines that are busy.
SECONDS = 5 + 2


@pytest.fixture(scope="module")
def model() -> Model:
    return read(DEFAULT)


def classify(client: httpx2.Client, **body: Any) -> list[dict[str, Any]]:
    response = client.post(CLASSIFY, json=body)
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["results"]
    return results


@pytest.fixture
def heard(pipe: Pipe) -> httpx2.Client:
    """A client of an API that workers answer."""
    until_answered(pipe.client)
    return pipe.client


def until_answered(client: httpx2.Client, seconds: float = 40) -> None:
    """Ask as a client that heeds `Retry-After` would."""
    poll(
        lambda: client.post(CLASSIFY, json={"content": "x"}).status_code,
        lambda status: status == 200,
        seconds,
    )


def test_the_answers_are_the_models_in_order(heard: httpx2.Client, model: Model) -> None:
    contents = texts(256, seed=21)
    results = classify(heard, contents=contents, top=20)
    for result, prediction in zip(results, model.classify(contents), strict=True):
        assert result.keys() == {"category", "confidence", "scores", "model_version"}
        assert result["category"] == prediction.category
        assert result["confidence"] == pytest.approx(prediction.confidence)
        assert result["model_version"] == model.version
        assert result["scores"][0] == {
            "category": result["category"],
            "score": result["confidence"],
        }
        assert math.fsum(each["score"] for each in result["scores"]) == pytest.approx(1)
    assert len({result["category"] for result in results}) > 3


def test_five_categories_are_named_unless_told_otherwise(heard: httpx2.Client) -> None:
    (result,) = classify(heard, content=SPACE)
    assert result["category"] == "sci.space"
    assert len(result["scores"]) == 5
    assert [len(each["scores"]) for each in classify(heard, contents=[SPACE], top=1)] == [1]


def test_an_explanation_adds_up_and_names_the_words(heard: httpx2.Client) -> None:
    (result,) = classify(heard, content=SPACE, explain=True)
    explanation = result["explanation"]
    supporting = {each["word"]: each["weight"] for each in explanation["supporting"]}
    opposing = {each["word"]: each["weight"] for each in explanation["opposing"]}
    assert {"shuttle", "launch", "orbit"} <= supporting.keys()
    assert min(supporting.values()) > 0
    assert max(opposing.values(), default=-1) < 0
    parts = [*supporting.values(), *opposing.values(), explanation["other_words"]]
    assert math.fsum([*parts, explanation["bias"]]) == pytest.approx(explanation["total"])


def test_each_of_many_at_once_gets_its_own_answer(heard: httpx2.Client, model: Model) -> None:
    contents = texts(200, seed=22)
    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(lambda each: classify(heard, content=each)[0], contents))
    assert [each["category"] for each in found] == [
        each.category for each in model.classify(contents)
    ]


def test_nothing_is_stored_or_counted(heard: httpx2.Client) -> None:
    before = ledger(heard)
    classify(heard, contents=texts(20, seed=23))
    after = ledger(heard)
    assert after["accepted"] == before["accepted"]
    assert after["in_flight"] == 0


def test_the_examples_are_accepted(heard: httpx2.Client) -> None:
    schemas = heard.get("/openapi.json").json()["components"]["schemas"]
    for name in ("ClassifyTextIn", "ClassifyTextsIn"):
        assert classify(heard, **schemas[name]["example"])


def test_without_workers_it_is_refused_in_time_and_late_work_is_not_done(
    pipe: Pipe, heard: httpx2.Client
) -> None:
    pipe.stop_workers()
    try:
        response = pipe.client.post(CLASSIFY, json={"contents": [SPACE] * 77})
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        assert 4 < response.elapsed.total_seconds() < SECONDS
    finally:
        pipe.start_workers()
    assert classify(pipe.client, content=SPACE)[0]["category"] == "sci.space"
    logs = poll(
        lambda: "".join(worker.logged() for worker in pipe.workers),
        lambda logs: '"texts":1,' in logs,
        seconds=10,
    )
    assert '"texts":77,' not in logs


# --- On RabbitMQ only: children, and a broker that goes away --------------------------------------


@pytest.fixture
def deadly(
    tmp_path: Path, database_url: str, broker_url: str, processes: ExitStack
) -> Iterator[httpx2.Client]:
    """A client of an API whose workers some words are deadly to."""
    api = Api(tmp_path / "api", database_url, broker_url)
    worker = DeadlyWorker(tmp_path / "worker", database_url, broker_url, WORKER_CONCURRENCY="2")
    running(processes, api, worker)
    with api.client() as client:
        until_answered(client)
        yield client


@pytest.mark.rabbitmq
def test_a_text_that_the_classifier_cannot_bear_is_named(deadly: httpx2.Client) -> None:
    response = deadly.post(CLASSIFY, json={"contents": [SPACE, POISON, SPACE]})
    assert response.status_code == 422
    assert [each["pointer"] for each in response.json()["errors"]] == ["/contents/1"]
    assert POISON not in response.text
    response = deadly.post(CLASSIFY, json={"content": POISON})
    assert [each["pointer"] for each in response.json()["errors"]] == ["/content"]


@pytest.mark.rabbitmq
def test_a_deadly_text_hurts_nobody_who_asks_at_the_same_time(deadly: httpx2.Client) -> None:
    contents = [f"{SPACE} {number}" for number in range(40)]
    contents[7] = contents[23] = f"a {KILL} text"

    def ask(content: str) -> httpx2.Response:
        return deadly.post(CLASSIFY, json={"content": content})

    with ThreadPoolExecutor(40) as threads:
        responses = list(threads.map(ask, contents))
    hurt = [
        response.text
        for content, response in zip(contents, responses, strict=True)
        if response.status_code != (503 if KILL in content else 200)
    ]
    assert not hurt
    until_answered(deadly)


@pytest.mark.rabbitmq
def test_a_death_is_told_at_once(deadly: httpx2.Client) -> None:
    # Left to itself, Celery sees one in three up to five seconds late.
    for _ in range(10):
        response = deadly.post(CLASSIFY, json={"content": f"a {KILL} text"})
        assert response.status_code == 503
        assert response.elapsed.total_seconds() < 3
        until_answered(deadly)


@pytest.mark.rabbitmq
def test_a_broker_that_is_killed_and_comes_back(
    tmp_path: Path,
    database_url: str,
    own_rabbitmq: RabbitMQ,
    own_broker_url: str,
    processes: ExitStack,
) -> None:
    # A node that is killed within moments of making a queue comes back with a queue that has no
    # leader: its directory was not on disk yet. These are older.
    with Connection(own_broker_url) as connection:
        declare(connection)
    own_rabbitmq.stop()
    own_rabbitmq.start()
    own_rabbitmq.wait_ready()
    api = Api(tmp_path / "api", database_url, own_broker_url)
    worker = Worker(tmp_path / "worker", database_url, own_broker_url, WORKER_CONCURRENCY="2")
    running(processes, api, worker)
    with api.client() as client:
        until_answered(client)
        for _ in range(2):
            own_rabbitmq.kill()
            response = client.post(CLASSIFY, json={"content": SPACE})
            assert response.status_code == 503
            assert response.headers["Retry-After"] == "1"
            assert response.elapsed.total_seconds() < SECONDS
            own_rabbitmq.start()
            own_rabbitmq.wait_ready()
            until_answered(client)
            # Each child replies, though the connection that it had was cut.
            with ThreadPoolExecutor(8) as threads:
                found = threads.map(lambda _: classify(client, content=SPACE), range(40))
                assert {result["category"] for (result,) in found} == {"sci.space"}


@pytest.mark.rabbitmq
def test_who_waits_for_a_reply_is_told_at_once_that_the_broker_is_gone(
    tmp_path: Path,
    database_url: str,
    own_rabbitmq: RabbitMQ,
    own_broker_url: str,
    processes: ExitStack,
) -> None:
    api = Api(tmp_path / "api", database_url, own_broker_url)
    worker = DeadlyWorker(tmp_path / "worker", database_url, own_broker_url)
    running(processes, api, worker)
    with api.client() as client, ThreadPoolExecutor(1) as threads:
        until_answered(client)
        waiting = threads.submit(client.post, CLASSIFY, json={"content": HANG})
        poll(lambda: depth(own_broker_url, "classify"), lambda waiting: waiting == 0, 10)
        own_rabbitmq.kill()
        response = waiting.result()
        assert response.status_code == 503
        assert response.elapsed.total_seconds() < 4
