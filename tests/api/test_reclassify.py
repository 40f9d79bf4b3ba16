"""Documents are queued to be classified anew, one or by filter, and none of it is accepted anew."""

from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.shared.broker import take_all
from tests.shared.store.samples import Sender, document_id, put
from tests.stack import ledger

pytestmark = pytest.mark.rabbitmq

URL = "/v1/documents/reclassify"


def queued(url: str) -> list[list[tuple[str, int]]]:
    """Take all messages; return the items of each."""
    found = list(take_all(url, "bulk"))
    for message in found:
        assert message.headers["task"] == "documents.reclassify"
        assert message.headers["documents"] == 0
    payloads: list[dict[str, Any]] = [message.decode()[1] for message in found]
    return [[(each["id"], each["content_revision"]) for each in one["items"]] for one in payloads]


def test_one_document(client: httpx2.Client, sender: Sender, module_broker_url: str) -> None:
    sender.send(put(document_id(1), 10, "bad"))
    response = client.post(f"/v1/documents/{document_id(1)}/reclassify")
    assert response.status_code == 202, response.text
    body = response.json()
    assert (body["id"], body["status"]) == (document_id(1), "accepted")
    (message,) = take_all(module_broker_url, "bulk")
    assert message.headers["id"] == body["task_id"]
    items = message.decode()[1]["items"]
    assert items == [{"id": document_id(1), "content_revision": 10}]
    assert ledger(client)["accepted"] == 1


def test_no_document(client: httpx2.Client, sender: Sender, module_broker_url: str) -> None:
    sender.send(put(document_id(1), 10, "bad"))
    sender.delete(document_id(1), 20)
    for key in (document_id(1), uuid4()):
        response = client.post(f"/v1/documents/{key}/reclassify")
        assert response.status_code == 404
    assert client.post("/v1/documents/x/reclassify").status_code == 422
    assert queued(module_broker_url) == []


def test_failed_ones_unless_asked_otherwise(
    client: httpx2.Client, sender: Sender, module_broker_url: str
) -> None:
    writes = [("bad", "mail"), ("bad", None), ("alpha", "mail"), ("beta", None)]
    for number, (word, source) in enumerate(writes):
        sender.send(put(document_id(number), 10, word, source=source))
    for body, expected in [
        ({}, {0, 1}),
        ({"source": "mail"}, {0}),
        ({"status": "stored"}, {2, 3}),
        ({"status": "stored", "category": "beta"}, {3}),
        ({"status": "stored", "model_version": "model-1", "source": "mail"}, {2}),
        ({"model_version": "model-2"}, set()),
    ]:
        response = client.post(URL, json=body)
        assert response.status_code == 202, response.text
        answer = response.json()
        assert (answer["documents"], answer["has_more"]) == (len(expected), False)
        assert (answer["next_cursor"], len(answer["task_ids"])) == (None, bool(expected))
        found = {key for items in queued(module_broker_url) for key, _ in items}
        assert found == {document_id(number) for number in expected}


def test_many_in_parts(client: httpx2.Client, sender: Sender, module_broker_url: str) -> None:
    for start in range(0, 2_050, 410):
        sender.send(*(put(document_id(start + at), 10, "bad") for at in range(410)))
    first = client.post(URL, json={}).json()
    assert (first["documents"], first["has_more"], len(first["task_ids"])) == (2_000, True, 20)
    second = client.post(URL, json={"cursor": first["next_cursor"]}).json()
    assert (second["documents"], second["has_more"], second["next_cursor"]) == (50, False, None)
    messages = queued(module_broker_url)
    assert [len(items) for items in messages] == [100] * 20 + [50]
    assert len({key for items in messages for key, _ in items}) == 2_050


def test_large_ones_travel_in_smaller_messages(
    client: httpx2.Client, sender: Sender, module_broker_url: str
) -> None:
    sender.send(*(put(document_id(number), 10, "bad " + "x" * 900_000) for number in range(9)))
    assert client.post(URL, json={}).json()["documents"] == 9
    assert [len(items) for items in queued(module_broker_url)] == [4, 4, 1]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"status": "lost"}, "/status"),
        ({"sauce": "mail"}, "/sauce"),
        ({"cursor": "nonsense"}, "/cursor"),
        ([], ""),
    ],
)
def test_wrong_filters_are_named(client: httpx2.Client, body: object, pointer: str) -> None:
    response = client.post(URL, json=body)
    assert response.status_code == 422
    assert [each["pointer"] for each in response.json()["errors"]] == [pointer]
