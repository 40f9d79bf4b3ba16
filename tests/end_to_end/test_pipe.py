"""From a request to a stored document and back, on both brokers."""

import gzip
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx2
import orjson
import pytest

from tests.end_to_end.conftest import Pipe
from tests.end_to_end.texts import texts
from tests.stack import OUTCOMES, ledger, poll, settled, stored
from worker.classify.artefact import DEFAULT, read

DOCUMENTS = "/v1/documents"
BATCH = f"{DOCUMENTS}/batch"
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def accept(client: httpx2.Client, **document: Any) -> dict[str, Any]:
    response = client.post(DOCUMENTS, json=document)
    assert response.status_code == 202, response.text
    answer: dict[str, Any] = response.json()
    return answer


def accept_batch(client: httpx2.Client, documents: list[dict[str, Any]]) -> dict[str, Any]:
    response = client.post(BATCH, json=documents)
    assert response.status_code == 202, response.text
    answer: dict[str, Any] = response.json()
    return answer


def at_rest(client: httpx2.Client) -> dict[str, int]:
    """Send one more document and wait until nothing is in flight; return the account.

    That document's message says how much was accepted before it, which marks say later.
    """
    stored(client, accept(client, content="the last of all so far")["id"])
    return poll(lambda: ledger(client), lambda account: account["in_flight"] == 0, seconds=30)


def walk(client: httpx2.Client, **filters: Any) -> list[dict[str, Any]]:
    """Return all documents of a list, by following its `Link` headers."""
    documents: list[dict[str, Any]] = []
    response = client.get(DOCUMENTS, params=filters)
    while True:
        assert response.status_code == 200, response.text
        page = response.json()
        documents += page["data"]
        assert page["has_more"] == (page["next_cursor"] is not None) == ("next" in response.links)
        if not page["has_more"]:
            return documents
        response = client.get(response.links["next"]["url"])


def test_a_document_is_stored_with_its_category(pipe: Pipe) -> None:
    content = "The shuttle launch was delayed: NASA will try another orbit in May. Ünïcödé 😀\n"
    metadata = {"author": "mira", "tags": ["a", None, 1.5, True], "deep": {"er": {}}, "": "\u2028"}
    answer = accept(
        pipe.client, content=content, source="forum", external_id="post-1", metadata=metadata
    )
    document = stored(pipe.client, answer["id"], answer["revision"])
    assert document["content"] == content
    assert document["metadata"] == metadata
    assert (document["source"], document["external_id"]) == ("forum", "post-1")
    assert (document["status"], document["error"]) == ("stored", None)
    assert document["category"] == document["predicted_category"] == "sci.space"
    assert (document["category_source"], document["label"]) == ("model", None)
    assert 0 < document["confidence"] <= 1
    assert document["model_version"]
    assert (document["revision"], document["task_id"]) == (answer["revision"], answer["task_id"])
    assert document["accepted_at"].replace("Z", "+00:00") == answer["accepted_at"]
    response = pipe.client.get(f"{DOCUMENTS}/{answer['id']}")
    assert response.headers["ETag"] == f'"{answer["revision"]}"'


def test_the_categories_are_the_models_own(
    pipe: Pipe,
) -> None:
    contents = texts(64, seed=1)
    model = read(DEFAULT)
    expected = [prediction.category for prediction in model.classify(contents)]
    assert len(set(expected)) > 3
    source = f"own-{uuid4()}"
    answer = accept_batch(pipe.client, [{"content": each, "source": source} for each in contents])
    poll(lambda: len(walk(pipe.client, source=source)), lambda count: count == 64, seconds=30)
    found = {each["id"]: each["category"] for each in walk(pipe.client, source=source)}
    assert [found[each["id"]] for each in answer["documents"]] == expected


def test_lists_are_filtered(pipe: Pipe) -> None:
    source = f"filters-{uuid4()}"
    documents = [
        {"content": each, "source": source, "external_id": f"key-{index}", "label": f"l{index % 2}"}
        for index, each in enumerate(texts(10, seed=2))
    ]
    accept_batch(pipe.client, documents)
    poll(lambda: len(walk(pipe.client, source=source)), lambda count: count == 10, seconds=30)
    assert len(walk(pipe.client, source=source, category="l1")) == 5
    assert len(walk(pipe.client, source=source, status="stored")) == 10
    assert walk(pipe.client, source=source, status="failed") == []
    assert walk(pipe.client, source=source.upper()) == []
    (one,) = walk(pipe.client, source=source, external_id="key-3")
    assert one["content"] == documents[3]["content"]
    assert (one["category"], one["category_source"]) == ("l1", "human")


@pytest.mark.parametrize("limit", [1, 7, 23, 250])
def test_pages_have_every_document_once(pipe: Pipe, limit: int) -> None:
    source = "pages & more/ü"
    if not walk(pipe.client, source=source):
        accept_batch(pipe.client, [{"content": t, "source": source} for t in texts(23, seed=3)])
    poll(lambda: len(walk(pipe.client, source=source)), lambda count: count == 23, seconds=30)
    found = walk(pipe.client, source=source, limit=limit)
    assert len({each["id"] for each in found}) == len(found) == 23
    places = [(each["created_at"], each["id"]) for each in found]
    assert places == sorted(places, reverse=True)


def test_pages_stay_true_while_documents_come_in(pipe: Pipe) -> None:
    source = f"growing-{uuid4()}"
    accept_batch(pipe.client, [{"content": t, "source": source} for t in texts(20, seed=4)])
    poll(lambda: len(walk(pipe.client, source=source)), lambda count: count == 20, seconds=30)
    page = pipe.client.get(DOCUMENTS, params={"source": source, "limit": 5})
    first = [each["id"] for each in page.json()["data"]]
    late = accept(pipe.client, content="a late one", source=source)["id"]
    stored(pipe.client, late)
    cursor = page.json()["next_cursor"]
    rest = pipe.client.get(DOCUMENTS, params={"source": source, "cursor": cursor, "limit": 250})
    ids = first + [each["id"] for each in rest.json()["data"]]
    assert len(set(ids)) == len(ids) == 20
    assert late not in ids


def test_a_page_of_large_documents_is_shorter(pipe: Pipe) -> None:
    """All of them are there all the same, on more pages."""
    source = f"large-{uuid4()}"
    answers = [
        accept(pipe.client, content=str(number) * (1 << 20), source=source) for number in range(10)
    ]
    for answer in answers:
        stored(pipe.client, answer["id"])
    page = pipe.client.get(DOCUMENTS, params={"source": source}).json()
    assert page["has_more"]
    assert 1 <= len(page["data"]) < 10
    assert len(walk(pipe.client, source=source)) == 10


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("lines", [False, True], ids=["json", "ndjson"])
def test_batches_are_stored(pipe: Pipe, lines: bool, packed: bool) -> None:
    source = f"batch-{uuid4()}"
    documents = [{"content": each, "source": source} for each in texts(50, seed=5)]
    body = b"\n".join(map(orjson.dumps, documents)) if lines else orjson.dumps(documents)
    headers = NDJSON if lines else JSON
    if packed:
        body, headers = gzip.compress(body), {**headers, "Content-Encoding": "gzip"}
    response = pipe.client.post(BATCH, content=body, headers=headers)
    assert response.status_code == 202, response.text
    answer = response.json()
    poll(lambda: len(walk(pipe.client, source=source)), lambda count: count == 50, seconds=30)
    found = {each["id"]: each for each in walk(pipe.client, source=source)}
    for sent, entry in zip(documents, answer["documents"], strict=True):
        document = found[entry["id"]]
        assert document["content"] == sent["content"]
        assert document["revision"] == entry["revision"]
        assert document["task_id"] == answer["task_id"]


def test_the_same_again_is_unchanged(pipe: Pipe) -> None:
    before = at_rest(pipe.client)
    first = accept(pipe.client, content="the same", external_id="same")
    stored(pipe.client, first["id"])
    second = accept(pipe.client, content="the same", external_id="same")
    document = stored(pipe.client, second["id"], second["revision"])
    assert second["id"] == first["id"]
    assert document["task_id"] == second["task_id"]
    after = at_rest(pipe.client)
    assert after["unchanged"] == before["unchanged"] + 1
    # The document, and the one that `at_rest` has sent.
    assert after["stored"] == before["stored"] + 2


def test_a_put_replaces_all_but_the_label(pipe: Pipe) -> None:
    place = f"{DOCUMENTS}/{uuid4()}"
    first = {"content": "one", "metadata": {"a": 1}, "source": "s", "label": "mine"}
    answer = pipe.client.put(place, json=first).json()
    # The older of two messages may be the later one to be read, and brings its label then.
    stored(pipe.client, answer["id"], answer["revision"])
    answer = pipe.client.put(place, json={"content": "two"}).json()
    document = stored(pipe.client, answer["id"], answer["revision"])
    assert (document["content"], document["metadata"], document["source"]) == ("two", {}, None)
    assert (document["category"], document["label"]) == ("mine", "mine")
    answer = pipe.client.put(place, json={"content": "two", "label": None}).json()
    document = stored(pipe.client, answer["id"], answer["revision"])
    assert (document["label"], document["category_source"]) == (None, "model")
    assert document["category"] == document["predicted_category"]


def test_metadata_keeps_large_numbers(pipe: Pipe) -> None:
    numbers = [0, -1, 2**53, 2**63, 2**64 - 1, 0.1, 1e20, -1.5e300, 5e-324, 123456789.123]
    answer = accept(pipe.client, content="numbers", metadata={"n": numbers})
    assert stored(pipe.client, answer["id"])["metadata"] == {"n": numbers}


def test_a_deleted_document_is_gone(pipe: Pipe) -> None:
    answer = accept(pipe.client, content="to be deleted", source="deleted")
    stored(pipe.client, answer["id"])
    place = f"{DOCUMENTS}/{answer['id']}"
    assert pipe.client.delete(place).status_code == 204
    assert pipe.client.get(place).status_code == 404
    assert walk(pipe.client, source="deleted") == []
    assert pipe.client.delete(place).status_code == 204


def test_a_put_after_a_delete_is_a_new_document(pipe: Pipe) -> None:
    place = f"{DOCUMENTS}/{uuid4()}"
    first = pipe.client.put(place, json={"content": "same", "metadata": {"a": 1}, "label": "x"})
    before = stored(pipe.client, first.json()["id"])
    pipe.client.delete(place)
    second = pipe.client.put(place, json={"content": "same"}).json()
    after = stored(pipe.client, second["id"], second["revision"])
    assert after["created_at"] > before["created_at"]
    assert after["revision"] > before["revision"]
    assert (after["metadata"], after["label"]) == ({}, None)


def test_an_older_message_does_not_undo_a_delete(pipe: Pipe) -> None:
    kept = accept(pipe.client, content="first version")
    stored(pipe.client, kept["id"])
    before = at_rest(pipe.client)
    pipe.stop_workers()
    for place in (f"{DOCUMENTS}/{uuid4()}", f"{DOCUMENTS}/{kept['id']}"):
        assert pipe.client.put(place, json={"content": "queued"}).status_code == 202
        assert pipe.client.delete(place).status_code == 204
    pipe.start_workers()
    after = settled(pipe.client, before["accepted"] + 2)
    assert after["superseded"] == before["superseded"] + 2
    assert pipe.client.get(place).status_code == 404


def test_fifty_writes_at_once_end_as_the_last_accepted(pipe: Pipe) -> None:
    place = f"{DOCUMENTS}/{uuid4()}"

    def write(number: int) -> tuple[int, str]:
        content = f"version {number}"
        response = pipe.client.put(place, json={"content": content})
        assert response.status_code == 202
        return response.json()["revision"], content

    before = at_rest(pipe.client)
    with ThreadPoolExecutor(50) as threads:
        writes = list(threads.map(write, range(50)))
    assert len(dict(writes)) == 50
    settled(pipe.client, before["accepted"] + 50)
    document = pipe.client.get(place).json()
    assert (document["revision"], document["content"]) == max(writes)


def test_the_counts_add_up(pipe: Pipe) -> None:
    account = at_rest(pipe.client)
    assert account["accepted"] == sum(account[name] for name in OUTCOMES)
    assert (account["failed"], account["dead"], account["void"]) == (0, 0, 0)
    documents = walk(pipe.client, limit=250)
    counted = pipe.client.get("/v1/categories").json()["data"]
    numbers = [each["documents"] for each in counted]
    assert numbers == sorted(numbers, reverse=True)
    found: dict[str, int] = {}
    for each in documents:
        found[each["category"]] = found.get(each["category"], 0) + 1
    assert {each["category"]: each["documents"] for each in counted} == found
