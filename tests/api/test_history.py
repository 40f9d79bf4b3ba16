"""The history of documents over HTTP; what a worker would store is stored by the test."""

from uuid import uuid4

import httpx2
import pytest

from shared.revision import EPOCH
from shared.store.page import Cursor
from tests.shared.store.samples import Sender, document_id, put

pytestmark = pytest.mark.rabbitmq

ONE = document_id(1)
PATH = f"/v1/documents/{ONE}/history"


def test_the_latest_write_and_the_events_newest_first(
    client: httpx2.Client, sender: Sender
) -> None:
    sender.send(put(ONE, 10, "bad"))
    sender.send(put(ONE, 20, "alpha", label="human"), known=[ONE])
    history = client.get(PATH).json()
    document = client.get(f"/v1/documents/{ONE}").json()
    assert (history["id"], history["deleted"], history["has_more"]) == (ONE, False, False)
    assert history["revision"] == document["revision"]
    for name in ("task_id", "model_version", "status"):
        assert history["latest_write"][name] == document[name]
    assert history["latest_write"]["revision"] == 20
    label, failure = history["data"]
    assert (label["kind"], label["revision"]) == ("label", 20)
    assert label["details"] == {"before": None, "label": "human"}
    assert label["task_id"] == document["task_id"]
    assert failure["kind"] == "failure"


def test_a_deleted_document_shows_its_deletion(client: httpx2.Client, sender: Sender) -> None:
    sender.send(put(ONE, 10, "bad"))
    deleted = client.delete(f"/v1/documents/{ONE}", headers={"X-Request-Id": "who-did-it"})
    assert deleted.status_code == 204
    history = client.get(PATH).json()
    assert history["deleted"]
    assert history["latest_write"] is None
    assert [each["kind"] for each in history["data"]] == ["delete", "failure"]
    assert history["data"][0]["request_id"] == "who-did-it"
    assert client.get(f"/v1/documents/{ONE}").status_code == 404


def test_pages_follow_their_links(client: httpx2.Client, sender: Sender) -> None:
    for stamp in range(10, 15):
        sender.send(put(ONE, stamp, f"bad {stamp}"), known=[ONE] if stamp > 10 else [])
    url, revisions = f"{PATH}?limit=2", []
    while url:
        page = client.get(url)
        assert page.status_code == 200
        revisions += [each["revision"] for each in page.json()["data"]]
        assert page.json()["has_more"] == ("next" in page.links)
        url = page.links.get("next", {}).get("url", "")
    assert revisions == [14, 13, 12, 11, 10]


def test_unknown_documents_cursors_and_parameters(client: httpx2.Client, sender: Sender) -> None:
    sender.send(put(ONE, 10, "alpha"))
    assert client.get(f"/v1/documents/{uuid4()}/history").status_code == 404
    assert client.get("/v1/documents/none/history").status_code == 422
    assert client.get(PATH, params={"more": 1}).status_code == 422
    assert client.get(PATH, params={"cursor": "no"}).status_code == 422
    foreign = Cursor(EPOCH, uuid4()).encode()
    assert client.get(PATH, params={"cursor": foreign}).status_code == 200
