"""Whoever is killed on the spool: what was accepted is stored, and once. RabbitMQ: tests/faults."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

import httpx2
import pytest

from tests.end_to_end.conftest import Pipe
from tests.end_to_end.texts import texts
from tests.stack import ledger, poll, revisions, settled

pytestmark = pytest.mark.parametrize("pipe", ["spool"], indirect=True)

DOCUMENTS = "/v1/documents"
SENDERS = 4


class Stream:
    """Clients that send document after document, and what they were told of each."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._ended = threading.Event()
        self.accepted: dict[str, int] = {}
        self.unanswered: set[str] = set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send while the block runs, 3,000 documents at most."""
        with ThreadPoolExecutor(SENDERS) as threads:
            sending = [threads.submit(self._send, number) for number in range(SENDERS)]
            try:
                yield
            finally:
                self._ended.set()
            for each in sending:
                each.result()

    def wait(self, more: int) -> None:
        """Wait until `more` documents were accepted."""
        aim = len(self.accepted) + more
        poll(lambda: len(self.accepted), lambda count: count >= aim, seconds=30)

    def _send(self, number: int) -> None:
        with self._pipe.api.client() as client:
            for content in texts(3_000 // SENDERS, seed=number):
                if self._ended.wait(0.03):
                    return
                self._send_one(client, {"id": str(uuid4()), "content": content})

    def _send_one(self, client: httpx2.Client, document: dict[str, str]) -> None:
        try:
            response = client.post(DOCUMENTS, json=document)
        except httpx2.TransportError:
            self.unanswered.add(document["id"])
            return
        if response.status_code == 202:
            self.accepted[document["id"]] = response.json()["revision"]
        else:
            assert response.status_code == 503
            self.unanswered.add(document["id"])


def test_the_workers_are_killed(pipe: Pipe) -> None:
    start = ledger(pipe.client)["accepted"]
    stream = Stream(pipe)
    with stream.running():
        for _ in range(2):
            stream.wait(more=50)
            for worker in pipe.workers:
                worker.kill()
            stream.wait(more=50)
            pipe.start_workers()
    assert not stream.unanswered
    account = settled(pipe.client, start + len(stream.accepted), seconds=60)
    assert account["stored"] == account["accepted"]
    found = revisions(pipe.client)
    assert {each: found[each] for each in stream.accepted} == stream.accepted


def test_the_api_is_killed(pipe: Pipe) -> None:
    start = ledger(pipe.client)
    stream = Stream(pipe)
    with stream.running():
        for _ in range(2):
            stream.wait(more=50)
            pipe.api.kill()
            pipe.api.start()
            pipe.api.wait_ready()
        stream.wait(more=50)
    assert stream.unanswered
    poll(
        lambda: stream.accepted.keys() <= revisions(pipe.client).keys(),
        lambda all_stored: all_stored,
        seconds=60,
    )
    found = revisions(pipe.client)
    assert {each: found[each] for each in stream.accepted} == stream.accepted
    # What was on its way when the API died may have arrived, or be a gap in its numbers.
    account = ledger(pipe.client)
    new = account["stored"] - start["stored"]
    assert len(stream.accepted) <= new <= len(stream.accepted) + len(stream.unanswered)
    assert account["in_flight"] <= len(stream.unanswered)
    assert account["stored"] == len(found)
