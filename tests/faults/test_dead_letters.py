"""Messages that no worker can or may work: each is one dead letter, and holds nobody up."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from uuid_utils.compat import uuid7

from shared.messages import INGEST, VERSION, Envelope
from shared.revision import microseconds_now
from tests.deadly import KILL, OOM
from tests.faults.batches import batch, happened
from tests.faults.conftest import Case
from tests.faults.site import Site
from tests.shared.broker import put_raw
from tests.stream import Stream

pytestmark = pytest.mark.rabbitmq

COUNT = 5
"""Messages of a kind, each with one document."""


def send_raw(site: Site, stream: Stream, *, body: bytes = b"", **headers: Any) -> list[str]:
    """Put messages of one document each into the queue, past the API; return the documents' ids."""
    producer, ids = uuid7(), [str(uuid4()) for _ in range(COUNT)]
    for seq, key in enumerate(ids, 1):
        envelope = Envelope(producer, seq, documents=1, through=seq)
        identity = {"lang": "py", "id": envelope.task_id, "task": INGEST.task}
        document = {
            "id": key,
            "stamp": microseconds_now(),
            "accepted_at": "2026-11-21T10:00:00+00:00",
            "content": f"past the API {seq}",
        }
        put_raw(
            site.broker_url,
            "ingest",
            body or orjson.dumps([[], {"documents": [document]}, {}]),
            headers=identity | envelope.headers() | headers,
        )
    stream.foreign += COUNT
    return ids


def reasons(site: Site) -> dict[str, int]:
    """Return how many dead letters there are of each reason."""
    return dict(site.query("SELECT reason, count(*) FROM dead_letters GROUP BY 1"))


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        pytest.param(
            "undecodable",
            {"body": b'[[], {"documents"'},
            marks=[pytest.mark.fault("undecodable messages"), pytest.mark.quick],
        ),
        pytest.param(
            "unknown_task",
            {"task": "documents.eat"},
            marks=pytest.mark.fault("messages for an unknown task"),
        ),
        pytest.param(
            "unreadable_version",
            {"version": VERSION - 2},
            marks=pytest.mark.fault("messages of a payload version that is too old"),
        ),
    ],
)
def test_messages_that_cannot_be_worked(
    site: Site, case: Case, reason: str, changes: dict[str, Any]
) -> None:
    site.add_api()
    site.add_worker()

    def send(site: Site, stream: Stream) -> None:
        stream.doomed.update(send_raw(site, stream, **changes))
        site.wait(lambda: reasons(site), 60, "dead letters")

    case.run(site, send)
    assert reasons(site) == {reason: COUNT}


@pytest.mark.quick
@pytest.mark.fault("messages of the previous payload version")
def test_messages_of_the_previous_version(site: Site, case: Case) -> None:
    site.add_api()
    site.add_worker()
    ids: list[str] = []

    def send(site: Site, stream: Stream) -> None:
        ids.extend(send_raw(site, stream, version=VERSION - 1))

    case.run(site, send)
    found = site.query("SELECT count(*) FROM documents WHERE id::text = ANY(%s)", ids)
    assert found == [(COUNT,)]


@pytest.mark.broker
@pytest.mark.fault("a document that kills its child every time, in a batch")
def test_a_document_kills_its_child(site: Site, case: Case, harm: Path) -> None:
    kills(site, case, harm, KILL)


@pytest.mark.broker
@pytest.mark.fault("a document that takes all memory every time, in a batch")
def test_a_document_takes_all_memory(site: Site, case: Case, harm: Path) -> None:
    kills(site, case, harm, OOM)


def kills(site: Site, case: Case, harm: Path, kind: str) -> None:
    """Send a batch with a text that always does its worst; only that one shall be dead."""
    site.add_api()
    site.add_worker("--deadly", str(harm))
    texts, culprit = batch(kind)

    def send(site: Site, stream: Stream) -> None:
        stream.doomed.add(culprit.id)
        stream.send(texts)
        happened(site, harm, kind, times=2)
        site.wait(lambda: reasons(site), 90, "the dead letter")

    case.run(site, send)
    assert reasons(site) == {"child_killed": 1}
    letter = site.query("SELECT documents, payload FROM dead_letters")
    assert [
        (documents, culprit.id.encode() in bytes(payload)) for documents, payload in letter
    ] == [(1, True)]
