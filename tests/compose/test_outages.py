"""Whatever is killed, restarted or made anew while documents stream in: none is lost."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx2

from tests.compose.conftest import CLIENTS
from tests.compose.project import Project
from tests.end_to_end.texts import texts
from tests.stack import ledger, poll, revisions

AGAIN = {429, 502, 503}
PAUSE = 0.05  # seconds between two requests of a client


class Clients:
    """Clients that send document after document, and each again until it is accepted."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._ended = threading.Event()
        self.accepted: set[str] = set()
        self.statuses: Counter[int] = Counter()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send while the block runs; each client 5,000 documents at most."""
        with ThreadPoolExecutor(CLIENTS) as threads:
            sending = [threads.submit(self._send, number) for number in range(CLIENTS)]
            try:
                yield
            finally:
                self._ended.set()
            for each in sending:
                each.result()

    def wait(self, more: int) -> None:
        """Wait until `more` documents were accepted."""
        aim = len(self.accepted) + more
        poll(lambda: len(self.accepted), lambda count: count >= aim, seconds=60)

    def _send(self, number: int) -> None:
        with self._project.client() as client:
            for content in texts(5_000, seed=number):
                if self._ended.wait(PAUSE):
                    return
                self._send_one(client, {"id": str(uuid4()), "content": content})

    def _send_one(self, client: httpx2.Client, document: dict[str, str]) -> None:
        while (status := client.post("/v1/documents", json=document).status_code) != 202:
            self.statuses[status] += 1
            if status not in AGAIN:
                return
            self._ended.wait(PAUSE)
        self.statuses[status] += 1
        self.accepted.add(document["id"])


def restarts(stack: Project) -> int:
    return sum(each["RestartCount"] for each in stack.containers("worker"))


def kill_main_process(stack: Project) -> None:
    """Kill a worker as the kernel would for want of memory: it is not stopped, it ends."""
    before = restarts(stack)
    stack.execute("worker", "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")
    poll(lambda: restarts(stack), lambda count: count > before, seconds=30)


def asked(stack: Project) -> set[str]:
    """Return the addresses of the API's containers that nginx has asked."""
    lines = stack.compose("logs", "--no-log-prefix", "--no-color", "nginx").splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return {
        address.strip().rpartition(":")[0]
        for entry in entries
        for address in entry["upstream"].split(",")
    }


def addresses(containers: list[dict[str, Any]]) -> set[str]:
    return {
        network["IPAddress"]
        for container in containers
        for name, network in container["NetworkSettings"]["Networks"].items()
        if name.endswith("_edge")
    }


def test_nothing_accepted_is_lost_whatever_fails(stack: Project, client: httpx2.Client) -> None:
    clients = Clients(stack)
    with clients.running():
        clients.wait(more=100)
        stack.up("--scale=worker=3")
        assert len(stack.containers("worker")) == 3
        kill_main_process(stack)
        clients.wait(more=100)
        stack.compose("restart", "rabbitmq")
        clients.wait(more=100)
        stack.compose("restart", "db")
        clients.wait(more=100)
        stack.up("--force-recreate", "--no-deps", "api")
        clients.wait(more=100)
    assert set(clients.statuses) <= {202, *AGAIN}

    # What was accepted in the last second is in no mark yet, and what a client gave up may still
    # arrive: so both are asked until they agree.
    def seen() -> tuple[dict[str, int], set[str]]:
        return ledger(client), set(revisions(client))

    def even(found: tuple[dict[str, int], set[str]]) -> bool:
        account, ids = found
        stored = account["stored"] == len(ids) and clients.accepted <= ids
        return stored and account["in_flight"] == 0

    account, _ = poll(seen, even, seconds=60)
    assert account["dead"] == account["failed"] == 0


def test_two_apis_share_the_work(stack: Project) -> None:
    clients = Clients(stack)
    with clients.running():
        stack.up("--scale=api=2")
        both = addresses(stack.containers("api"))
        assert len(both) == 2
        poll(lambda: asked(stack), lambda found: both <= found, seconds=30)
        clients.wait(more=100)
    assert set(clients.statuses) <= {202, *AGAIN}
    with stack.client() as client:
        poll(lambda: revisions(client).keys(), lambda found: clients.accepted <= found, seconds=30)
