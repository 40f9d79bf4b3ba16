"""Classifying without storing, where no worker answers: what is refused, and when."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import orjson
import psutil
import pytest

from tests.shared.broker import depth, take_all, wait_for_depth
from tests.stack import Api, poll

pytestmark = pytest.mark.rabbitmq

CLASSIFY = "/v1/classify"
JSON = {"Content-Type": "application/json"}
MIB = 1 << 20

# The promise is 5 seconds; the rest is for machines that are busy.
SECONDS = 5 + 2


def encoded(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


WRONG: dict[str, tuple[bytes, int, list[str]]] = {
    "nothing": (encoded(), 422, ["/content"]),
    "an array": (b"[]", 422, [""]),
    "a text": (b'"text"', 422, [""]),
    "no JSON": (b"{", 400, []),
    "both": (encoded(content="a", contents=["b"]), 422, ["/content"]),
    "an unknown field": (encoded(content="a", stored=True), 422, ["/stored"]),
    "many unknown fields": (encoded(**{f"f{i}": 1 for i in range(5_000)}), 422, [""]),
    "empty": (encoded(content=""), 422, ["/content"]),
    "null": (encoded(content=None), 422, ["/content"]),
    "NUL": (encoded(content="a\0b"), 422, ["/content"]),
    "half a surrogate pair": (b'{"content":"\\ud800"}', 422, ["/content"]),
    "half a surrogate pair among others": (
        b'{"contents":["a","\\ud800"]}',
        422,
        ["/contents/1"],
    ),
    "too long": (encoded(content="x" * (MIB + 1)), 422, ["/content"]),
    "one of several too long": (encoded(contents=["a", "ä" * MIB]), 422, ["/contents/1"]),
    "two of several": (encoded(contents=["a", "", "\0"]), 422, ["/contents/1", "/contents/2"]),
    "no contents": (encoded(contents=[]), 422, ["/contents"]),
    "too many": (encoded(contents=["a"] * 257), 422, ["/contents"]),
    "contents is a text": (encoded(contents="abc"), 422, ["/contents"]),
    "top 0": (encoded(content="a", top=0), 422, ["/top"]),
    "top 101": (encoded(content="a", top=101), 422, ["/top"]),
    "top is a text": (encoded(content="a", top="5"), 422, ["/top"]),
    "explain is a text": (encoded(content="a", explain="yes"), 422, ["/explain"]),
    "too large": (encoded(contents=["x" * MIB] * 9), 413, []),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_refused_at_once_with_its_place(client: httpx2.Client, name: str) -> None:
    content, status, pointers = WRONG[name]
    response = client.post(CLASSIFY, content=content, headers=JSON)
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert [each["pointer"] for each in response.json().get("errors", [])] == pointers


def test_parameters_and_other_types_are_refused(client: httpx2.Client) -> None:
    response = client.post(f"{CLASSIFY}?explain=true", json={"content": "a"})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/query/explain"
    plain = {"Content-Type": "text/plain"}
    assert client.post(CLASSIFY, content=b"a", headers=plain).status_code == 415
    assert client.get(CLASSIFY).status_code == 405


def ask(client: httpx2.Client) -> httpx2.Response:
    return client.post(CLASSIFY, json={"content": "the shuttle"})


def check_refused(response: httpx2.Response) -> None:
    assert response.status_code == 503, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Retry-After"] == "1"
    assert response.elapsed.total_seconds() < SECONDS


def test_without_a_worker_all_are_refused_in_time_and_the_api_goes_on(
    api: Api, client: httpx2.Client, module_broker_url: str
) -> None:
    ready_again(client)
    (pid,) = api.pids()
    threads = psutil.Process(pid).num_threads()
    with ThreadPoolExecutor(80) as pool:
        waiting = [pool.submit(ask, client) for _ in range(80)]
        poll(lambda: depth(module_broker_url, "classify"), lambda found: found > 0, 5)
        assert client.get("/livez").status_code == 200
        assert not any(each.done() for each in waiting)
        assert psutil.Process(pid).num_threads() <= threads + 4
        responses = [each.result() for each in waiting]
    for response in responses:
        check_refused(response)
        assert response.elapsed.total_seconds() > 4
    assert "No worker has answered in time" in responses[0].json()["detail"]
    wait_for_depth(module_broker_url, "classify", 0, deadline=10)
    assert list(take_all(module_broker_url, "dead")) == []


def ready_again(client: httpx2.Client) -> None:
    """Wait until replies are heard: until then the answer is 503 at once."""

    def hears() -> bool:
        try:
            ask_briefly(client)
        except httpx2.ReadTimeout:
            return True
        return False

    poll(hears, bool, 15)


def ask_briefly(client: httpx2.Client) -> None:
    response = client.post(CLASSIFY, json={"content": "x"}, timeout=1)
    assert response.status_code == 503


def test_questions_that_come_at_once_leave_together(
    client: httpx2.Client, module_broker_url: str
) -> None:
    ready_again(client)
    messages: list[Any] = []

    def texts() -> int:
        messages.extend(take_all(module_broker_url, "classify"))
        return sum(
            "together" in text
            for message in messages
            for question in orjson.loads(message.body)[1]["questions"]
            for text in question["texts"]
        )

    with ThreadPoolExecutor(60) as pool:
        waiting = [
            pool.submit(client.post, CLASSIFY, json={"content": f"together {number}"})
            for number in range(60)
        ]
        poll(texts, lambda found: found == 60, 4)
        assert len(messages) < 60
        for each in waiting:
            check_refused(each.result())
    message = messages[0]
    assert message.headers["task"] == "texts.classify"
    assert message.headers["expires"]
    assert 4_000 < int(message.properties["expiration"]) <= 5_000
    assert message.properties["reply_to"].startswith("replies.")
    assert message.properties["correlation_id"] == message.headers["id"]
    assert "together" not in message.headers["argsrepr"]


def test_the_schema_shows_both_ways_to_ask(client: httpx2.Client) -> None:
    schema = client.get("/openapi.json").json()
    post = schema["paths"][CLASSIFY]["post"]
    asked = post["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    names = [each["$ref"].rpartition("/")[2] for each in asked]
    assert names == ["ClassifyTextIn", "ClassifyTextsIn"]
    for name in (*names, "ClassifiedOut"):
        assert schema["components"]["schemas"][name]["example"]
    assert {"200", "400", "413", "415", "422", "503"} <= post["responses"].keys()
