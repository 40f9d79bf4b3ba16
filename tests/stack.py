"""Postroom's own programs as real processes, and what tests ask them."""

import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest

from local.ports import LOOPBACK, free_ports
from local.server import Command, Server, wait_until
from tests.keys import SECRET_KEY, bearer

ROOT = Path(__file__).resolve().parents[1]
ResultT = TypeVar("ResultT")


class _Program(Server):
    """A program of Postroom's, in a process group of its own; its log is JSON lines."""

    def __init__(self, folder: Path, database_url: str, broker_url: str, **env: str) -> None:
        super().__init__(folder)
        self.broker_url = broker_url
        self.env = {
            "DATABASE_URL": database_url,
            "BROKER_URL": broker_url,
            "PYTHONPATH": str(ROOT),
            "DATA_DIR": str(self.folder),
            **env,
        }

    @property
    def url(self) -> str:
        return self.broker_url

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        self._log_start = self.log.stat().st_size

    def logged(self) -> str:
        """Return what it logged since its last start."""
        return self.log.read_bytes()[self._log_start :].decode()

    def commands(self) -> list[Command]:
        return [Command(type(self).__name__, (sys.executable, *self.arguments()), self.env)]

    @abstractmethod
    def arguments(self) -> tuple[str, ...]:
        """Return what follows the interpreter on the command line."""


class Api(_Program):
    """`python -m api` on a free port, the same one after each start."""

    def __init__(self, folder: Path, database_url: str, broker_url: str, **env: str) -> None:
        env = {"SECRET_KEY": SECRET_KEY, **env}
        super().__init__(folder, database_url, broker_url, **env)
        self.port = free_ports(1)[0]
        self.key: str | None = None  # what its clients show
        self.env["API_PORT"] = str(self.port)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def arguments(self) -> tuple[str, ...]:
        return ("-m", "api")

    def ready(self) -> bool:
        return answers(f"{self.url}/livez")

    def client(self, seconds: float = 15) -> httpx2.Client:
        """Return a client that gives a request up after `seconds`."""
        headers = bearer(self.key)
        return httpx2.Client(base_url=self.url, timeout=seconds, trust_env=False, headers=headers)


class Worker(_Program):
    """`python -m worker`."""

    def arguments(self) -> tuple[str, ...]:
        return ("-m", "worker")

    def ready(self) -> bool:
        return " ready." in self.logged()


class Flower(_Program):
    """Flower on a free port, which sees the broker that the workers use."""

    def __init__(self, folder: Path, database_url: str, broker_url: str) -> None:
        # Its HTTP API, for reading, is what an operator's browser would show.
        super().__init__(folder, database_url, broker_url, FLOWER_UNAUTHENTICATED_API="true")
        self.port = free_ports(1)[0]

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def arguments(self) -> tuple[str, ...]:
        flower = ("flower", f"--address={LOOPBACK}", f"--port={self.port}", "--read_only=True")
        return ("-m", "celery", "-A", "worker.app", *flower)

    def ready(self) -> bool:
        return answers(f"{self.url}/healthcheck")


def answers(url: str) -> bool:
    """Say whether a GET of `url` is answered with 200."""
    try:
        return httpx2.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


def poll(ask: Callable[[], ResultT], fine: Callable[[ResultT], bool], seconds: float) -> ResultT:
    """Ask until the answer is fine; return the last one.

    Raises:
        AssertionError: it was not within `seconds`; the text is the last answer.
    """
    end = time.monotonic() + seconds
    while not fine(answer := ask()):
        assert time.monotonic() < end, f"not within {seconds} s: {answer!r}"
        time.sleep(0.02)
    return answer


OUTCOMES = ("stored", "unchanged", "superseded", "refused", "failed", "dead")


def ledger(client: httpx2.Client) -> dict[str, int]:
    """Return the account, once it is seen to add up."""
    response = client.get("/v1/ledger")
    assert response.status_code == 200, response.text
    account: dict[str, int] = response.json()
    processed = sum(account[name] for name in OUTCOMES)
    assert account["accepted"] == processed + account["in_flight"], account
    return account


def settled(client: httpx2.Client, accepted: int, seconds: float = 30) -> dict[str, int]:
    """Wait until `accepted` documents are accounted for and nothing is in flight.

    The API says once a second how much it has accepted.
    """
    return poll(
        lambda: ledger(client),
        lambda account: account["accepted"] == accepted and account["in_flight"] == 0,
        seconds,
    )


def stored(client: httpx2.Client, document_id: str, revision: int = 0) -> dict[str, Any]:
    """Wait until a document is stored, at `revision` or a later one; return it."""
    response = poll(
        lambda: client.get(f"/v1/documents/{document_id}"),
        lambda response: response.status_code == 200 and response.json()["revision"] >= revision,
        seconds=30,
    )
    document: dict[str, Any] = response.json()
    return document


def revisions(client: httpx2.Client) -> dict[str, int]:
    """Return id and revision of every document."""
    found: list[tuple[str, int]] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get("/v1/documents", params={"limit": 250, **cursor}).json()
        found += [(each["id"], each["revision"]) for each in page["data"]]
        if not page["has_more"]:
            assert len(dict(found)) == len(found)
            return dict(found)
        cursor = {"cursor": page["next_cursor"]}


def running(stack: ExitStack, *servers: Server) -> None:
    """Start servers at the same time, wait until all are ready, stop them when `stack` closes."""
    for server in servers:
        stack.callback(server.kill)
        server.start()
    for server in servers:
        server.wait_ready()


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    """What one test starts; all of it is stopped in the end."""
    with ExitStack() as stack:
        yield stack


__all__ = [
    "Api",
    "Flower",
    "Worker",
    "answers",
    "ledger",
    "poll",
    "processes",
    "revisions",
    "running",
    "settled",
    "stored",
    "wait_until",
]
