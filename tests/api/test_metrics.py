"""What the API tells Prometheus of what it did: requests, documents, messages, queues."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.meters import OTHER
from local.ports import LOOPBACK, free_ports
from shared.queue import QUEUES
from tests.api.test_shortcut import DOCUMENTS, PLAIN, USUAL
from tests.stack import Api, poll, running

pytestmark = pytest.mark.rabbitmq

Sample = tuple[str, frozenset[tuple[str, str]]]
REQUESTS = "postroom_http_request_duration_seconds_count"


def samples(url: str) -> dict[Sample, float]:
    """Return what is told at `url`, by name and labels."""
    response = httpx2.get(url, timeout=10, trust_env=False)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(response.text))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


class Told:
    """What a program tells, and by how much it has changed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._before = samples(url)

    def grown(self, name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return samples(self._url).get(key, 0) - self._before.get(key, 0)

    def value(self, name: str, **labels: str) -> float | None:
        return samples(self._url).get((name, frozenset(labels.items())))

    def labels(self, name: str, label: str) -> set[str]:
        return {dict(found)[label] for each, found in samples(self._url) if each == name}


@pytest.fixture
def told(api: Api, client: httpx2.Client) -> Told:
    return Told(f"{api.url}/metrics")


def request(told: Told, route: str, method: str, status: str) -> float:
    return told.grown(REQUESTS, route=route, method=method, status=status)


@pytest.mark.parametrize("kind", [PLAIN, USUAL], ids=["shortcut", "framework"])
def test_an_accepted_document_is_counted(told: Told, client: httpx2.Client, kind: str) -> None:
    headers = {"Content-Type": kind}
    for _ in range(3):
        assert client.post(DOCUMENTS, content=b'{"content": "x"}', headers=headers).is_success
    assert request(told, DOCUMENTS, "POST", "2xx") == 3
    seconds = "postroom_http_request_duration_seconds_sum"
    assert 0 < told.grown(seconds, route=DOCUMENTS, method="POST", status="2xx") < 30
    assert told.grown("postroom_published_documents_total", way="upload") == 3
    assert told.grown("postroom_message_documents_bucket", le="1.0") == 3
    assert told.grown("postroom_publish_duration_seconds_count") == 3
    assert told.grown("postroom_publish_failures_total") == 0


def test_a_batch_is_one_message(told: Told, client: httpx2.Client) -> None:
    assert client.post(f"{DOCUMENTS}/batch", json=[{"content": "x"}] * 7).status_code == 202
    assert told.grown("postroom_message_documents_bucket", le="5.0") == 0
    assert told.grown("postroom_message_documents_bucket", le="10.0") == 1
    assert told.grown("postroom_published_documents_total", way="upload") == 7
    assert request(told, f"{DOCUMENTS}/batch", "POST", "2xx") == 1


BIG = b'{"content": "' + b"x" * (1 << 20) + b'y"}'
HUGE = b" " * (9 << 20)


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (b"{", PLAIN, "malformed"),
        (b'{"content": ""}', PLAIN, "invalid"),
        (BIG, PLAIN, "invalid"),
        (HUGE, PLAIN, "content_too_large"),
        (b"x", "text/plain", "unsupported_media_type"),
    ],
    ids=["malformed", "invalid", "too long", "too large", "another type"],
)
def test_a_refused_document_is_counted_by_reason(
    told: Told, client: httpx2.Client, content: bytes, kind: str, reason: str
) -> None:
    client.post(DOCUMENTS, content=content, headers={"Content-Type": kind})
    assert told.grown("postroom_rejected_documents_total", reason=reason) == 1
    assert told.grown("postroom_refused_requests_total", route=DOCUMENTS, reason=reason) == 1
    assert request(told, DOCUMENTS, "POST", "4xx") == 1
    assert told.grown("postroom_published_documents_total", way="upload") == 0


def test_a_batch_counts_each_refused_document(told: Told, client: httpx2.Client) -> None:
    mixed: list[dict[str, Any]] = [{"content": "x"}, {"content": ""}, {}, {"content": "y"}]
    rejected = "postroom_rejected_documents_total"
    assert client.post(f"{DOCUMENTS}/batch?atomic=false", json=mixed).status_code == 207
    assert told.grown(rejected, reason="invalid") == 2
    assert client.post(f"{DOCUMENTS}/batch", json=mixed).status_code == 422
    assert told.grown(rejected, reason="invalid") == 2 + 4
    assert told.grown("postroom_published_documents_total", way="upload") == 2


def test_an_accepted_document_is_never_a_rejected_one(told: Told, client: httpx2.Client) -> None:
    """Waiting for what becomes of it may end with an error all the same."""
    headers = {"Prefer": "wait=0.1"}
    assert client.post(DOCUMENTS, json={"content": "x"}, headers=headers).status_code == 202
    url = f"{DOCUMENTS}/0198f3c2-7a3b-7cc2-a1f0-4d3f0c2f6b77"
    assert client.get(url).status_code == 404
    template = f"{DOCUMENTS}/{{document_id}}"
    refused = "postroom_refused_requests_total"
    assert told.grown(refused, route=template, reason="document_not_found") == 1
    assert told.labels("postroom_rejected_documents_total", "reason") <= {
        "malformed", "invalid", "content_too_large", "unsupported_media_type"
    }  # fmt: skip


def test_no_path_and_no_method_makes_a_label(told: Told, client: httpx2.Client) -> None:
    for number in range(20):
        assert client.get(f"/nothing/{number}").status_code == 404
        assert client.get(f"{DOCUMENTS}/{number}").status_code == 422
    assert client.request("LOCK", "/nothing").status_code == 404
    assert client.request("DELETE", DOCUMENTS).status_code == 405
    assert client.get("/docs").status_code == 200
    assert request(told, OTHER, "GET", "4xx") == 20
    assert request(told, OTHER, OTHER, "4xx") == 1
    assert request(told, f"{DOCUMENTS}/{{document_id}}", "GET", "4xx") == 20
    assert request(told, DOCUMENTS, "DELETE", "4xx") == 1
    refused = "postroom_refused_requests_total"
    assert told.grown(refused, route=DOCUMENTS, reason="method_not_allowed") == 1
    paths = {*client.get("/openapi.json").json()["paths"], OTHER, "/docs", "/openapi.json"}
    assert told.labels(REQUESTS, "route") <= paths
    assert told.labels(REQUESTS, "method") <= {"GET", "POST", "PUT", "PATCH", "DELETE", OTHER}


def test_head_counts_as_get(told: Told, client: httpx2.Client) -> None:
    assert client.head("/livez").status_code == 200
    assert request(told, "/livez", "GET", "2xx") == 1


def test_each_queue_says_how_many_messages_wait(told: Told, client: httpx2.Client) -> None:
    waiting = "postroom_queue_messages"
    poll(lambda: told.labels(waiting, "queue"), lambda found: found == set(QUEUES), 5)
    before = told.value(waiting, queue="ingest")
    assert client.post(DOCUMENTS, json={"content": "x"}).status_code == 202
    poll(
        lambda: told.value(waiting, queue="ingest"),
        lambda found: found is not None and before is not None and found > before,
        10,
    )
    assert told.value(waiting, queue="classify") == 0


def test_nothing_tells_when_it_was_made(told: Told, client: httpx2.Client) -> None:
    assert not [name for name, _ in samples(f"{client.base_url}/metrics") if "_created" in name]


def test_what_is_sent_away_while_too_much_waits_is_counted(
    tmp_path: Path, database_url: str, broker_url: str, processes: ExitStack
) -> None:
    api = Api(tmp_path, database_url, broker_url, BACKLOG_LIMIT="0")
    running(processes, api)
    client = processes.enter_context(api.client())
    poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, 15)
    told = Told(f"{api.url}/metrics")
    sent = poll(
        lambda: client.post(DOCUMENTS, json={"content": "x"}).status_code,
        lambda status: status == 503,
        15,
    )
    assert sent == 503
    assert told.grown("postroom_rejected_documents_total", reason="backlog_full") == 1
    assert request(told, DOCUMENTS, "POST", "5xx") == 1
    accepted = request(told, DOCUMENTS, "POST", "2xx")
    assert told.grown("postroom_published_documents_total", way="upload") == accepted
    assert told.grown("postroom_publish_failures_total") == 0


def test_what_the_broker_does_not_confirm_is_counted(
    tmp_path: Path, database_url: str, processes: ExitStack
) -> None:
    nowhere = f"amqp://nobody@{LOOPBACK}:{free_ports(1)[0]}//"
    api = Api(tmp_path, database_url, nowhere)
    running(processes, api)
    client = processes.enter_context(api.client())
    told = Told(f"{api.url}/metrics")
    assert client.post(DOCUMENTS, json={"content": "x"}).status_code == 503
    assert client.post(f"{DOCUMENTS}/batch", json=[{"content": "x"}] * 3).status_code == 503
    assert told.grown("postroom_rejected_documents_total", reason="broker_unavailable") == 4
    assert told.grown("postroom_publish_failures_total") == 2
    assert told.grown("postroom_message_documents_count") == 0
    assert told.value("postroom_broker_confirms") == 0
    assert told.labels("postroom_queue_messages", "queue") == set()
