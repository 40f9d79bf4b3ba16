"""What a 202 says, and what the ids of documents are made of."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx2
import pytest

from shared.revision import DAY, microseconds_now

pytestmark = pytest.mark.rabbitmq

ID = "0198f3c2-7a3b-7cc2-a1f0-4d3f0c2f6b11"
DOCUMENTS = "/v1/documents"

MADE_IDS = {
    # Pinned: ids that clients hold must be found again by every later version.
    ("forum", "post-4711"): "6ee5d3dd-8434-594e-8453-c974298698cf",
    (None, "post-4711"): "2c5bfd66-b3f4-5dca-a389-0bfc89d38b96",
    ("forüm", 'a"b\\c'): "869548f7-2b00-5b6f-85ca-fdfdb5818c6c",
}


def accept(client: httpx2.Client, **fields: object) -> httpx2.Response:
    response = client.post(DOCUMENTS, json={"content": "fine", **fields})
    assert response.status_code == 202, response.text
    return response


def test_the_answer(client: httpx2.Client) -> None:
    before = microseconds_now()
    response = accept(client)
    after = microseconds_now()
    answer = response.json()
    assert answer.keys() == {"id", "revision", "task_id", "status", "accepted_at"}
    assert answer["status"] == "accepted"
    assert before <= answer["revision"] <= after
    assert response.headers["Location"] == f"/v1/documents/{answer['id']}"
    assert response.headers["Content-Type"] == "application/json"
    accepted_at = datetime.fromisoformat(answer["accepted_at"])
    assert accepted_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - accepted_at) < timedelta(minutes=1)


def test_the_task_id_is_the_producer_and_a_number(client: httpx2.Client) -> None:
    ids = [accept(client).json()["task_id"].split(".") for _ in range(3)]
    (producer,) = {producer for producer, _ in ids}
    assert UUID(producer).version == 7
    first = int(ids[0][1])
    assert [int(number) for _, number in ids] == [first, first + 1, first + 2]


def test_an_id_is_made_in_the_order_of_time(client: httpx2.Client) -> None:
    ids = []
    for _ in range(5):
        ids.append(UUID(accept(client).json()["id"]))
        milliseconds = ids[-1].int >> 80
        assert abs(milliseconds - time.time() * 1000) < 60_000
    assert {each.version for each in ids} == {7}
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("sent", [ID, ID.upper(), ID.replace("-", "")])
def test_the_clients_id_is_kept(client: httpx2.Client, sent: str) -> None:
    response = accept(client, id=sent, external_id="not used for the id")
    assert response.json()["id"] == ID
    assert response.headers["Location"] == f"/v1/documents/{ID}"


def test_put_takes_the_id_of_the_path(client: httpx2.Client) -> None:
    for body in ({"content": "a"}, {"content": "a", "id": ID}, {"content": "a", "id": None}):
        response = client.put(f"{DOCUMENTS}/{ID}", json=body)
        assert response.status_code == 202
        assert response.json()["id"] == ID
        assert response.headers["Location"] == f"/v1/documents/{ID}"


@pytest.mark.parametrize(("source", "external_id"), MADE_IDS)
def test_an_external_id_makes_the_same_id_for_ever(
    client: httpx2.Client, source: str | None, external_id: str
) -> None:
    answers = [accept(client, source=source, external_id=external_id).json() for _ in range(2)]
    assert {each["id"] for each in answers} == {MADE_IDS[source, external_id]}
    assert UUID(answers[0]["id"]).version == 5


def test_revisions_grow_strictly(client: httpx2.Client) -> None:
    batch = client.post(f"{DOCUMENTS}/batch", json=[{"content": "fine"}] * 300).json()
    revisions = [each["revision"] for each in batch["documents"]]
    revisions.append(accept(client).json()["revision"])
    assert revisions == sorted(set(revisions))


def test_revisions_differ_under_load(client: httpx2.Client) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: accept(client).json(), range(200)))
    assert len({each["revision"] for each in answers}) == 200
    assert len({each["id"] for each in answers}) == 200
    # Documents that come at once may share a message; none is without.
    assert 1 <= len({each["task_id"] for each in answers}) <= 200


def test_a_batch_is_one_message(client: httpx2.Client) -> None:
    own = str(uuid4())
    items = [{"content": "a"}, {"content": "b", "id": own}, {"content": "c", "external_id": "d"}]
    response = client.post(f"{DOCUMENTS}/batch", json=items)
    assert response.status_code == 202
    answer = response.json()
    assert answer.keys() == {"accepted", "task_id", "documents"}
    assert answer["accepted"] == 3
    assert [UUID(each["id"]).version for each in answer["documents"]] == [7, 4, 5]
    assert answer["documents"][1]["id"] == own
    number = int(answer["task_id"].partition(".")[2])
    assert int(accept(client).json()["task_id"].partition(".")[2]) == number + 1


def test_a_revision_that_was_read_is_never_written_again(client: httpx2.Client) -> None:
    """A delete raises the revision of what is there; later stamps are above all that was seen."""
    revision = accept(client, id=ID).json()["revision"]
    assert client.delete(f"{DOCUMENTS}/{ID}").status_code == 204
    assert revision < accept(client, id=ID).json()["revision"] < microseconds_now() + DAY


def test_unknown_documents_are_not_found(client: httpx2.Client) -> None:
    response = client.get(f"{DOCUMENTS}/{uuid4()}")
    assert response.status_code == 404
    assert response.headers["Retry-After"] == "1"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "on its way" in response.json()["detail"]


def test_delete_is_idempotent_also_for_what_nobody_knows(client: httpx2.Client) -> None:
    place = f"{DOCUMENTS}/{uuid4()}"
    for _ in range(2):
        response = client.delete(place)
        assert (response.status_code, response.content) == (204, b"")
    assert client.get(place).status_code == 404


def test_an_empty_list(client: httpx2.Client) -> None:
    response = client.get(DOCUMENTS, params={"category": "nobody's"})
    assert response.json() == {"data": [], "next_cursor": None, "has_more": False}
    assert "Link" not in response.headers


@pytest.mark.parametrize("path", ["/livez", "/health"])
def test_health_is_short(client: httpx2.Client, path: str) -> None:
    assert client.get(path).json() == {"status": "ok"}


def test_ready(client: httpx2.Client) -> None:
    assert client.get("/readyz").json() == {"status": "ok", "database": "ok", "broker": "ok"}
