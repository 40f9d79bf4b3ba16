"""The whole stack in containers, built and started once for all of these tests."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import httpx2
import pytest
from sklearn.datasets import fetch_20newsgroups

from tests.compose.project import ROOT, Project
from tests.end_to_end.texts import texts
from tests.stack import ledger, settled

FOLDER = Path(__file__).parent
LOGS = ROOT / ".data" / "logs" / "compose-test.log"
POSTS = 2_000
CLIENTS = 8
SUMMARY = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SUMMARY] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the containers alone unless asked."""
    if not config.getoption("--compose"):
        skip = pytest.mark.skip(reason="the containers: `make compose-test` tests them")
        for item in items:
            if FOLDER in item.path.parents:
                item.add_marker(skip)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash[SUMMARY]:
        terminalreporter.line(f"containers: {line}")


@dataclass(frozen=True)
class Started:
    """A project that runs, and how long it took."""

    project: Project
    seconds_built: float
    seconds_healthy: float


@pytest.fixture(scope="session")
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    project = Project.make(tmp_path_factory.mktemp("project"))
    before = request.session.testsfailed
    complete = False
    try:
        yield _start(project, request.config)
        complete = True
    finally:
        if not complete or request.session.testsfailed > before:
            _keep_logs(project, request.config)
        project.remove()


def _start(project: Project, config: pytest.Config) -> Started:
    begin = time.monotonic()
    project.compose("build", seconds=900)
    built = time.monotonic()
    project.up()
    healthy = time.monotonic()
    started = Started(project, built - begin, healthy - built)
    config.stash[SUMMARY].append(
        f"built in {started.seconds_built:.0f} s, healthy {started.seconds_healthy:.0f} s later"
    )
    return started


def _keep_logs(project: Project, config: pytest.Config) -> None:
    """Write the containers' logs to a file, and say in the end where, with the last lines."""
    LOGS.parent.mkdir(parents=True, exist_ok=True)
    LOGS.write_text(project.compose("logs", "--no-color", "--timestamps"))
    tail = project.compose("ps", "--all") + project.compose("logs", "--no-color", "--tail=4")
    config.stash[SUMMARY] += [*tail.splitlines(), f"all of their logs: {LOGS}"]


@pytest.fixture
def stack(started: Started) -> Project:
    """The running project. Tests may change it, and leave it running and healthy."""
    return started.project


@pytest.fixture
def client(stack: Project) -> Iterator[httpx2.Client]:
    """A client of nginx."""
    with stack.client() as client:
        yield client


@dataclass(frozen=True)
class Sent:
    """Documents that were accepted through nginx: their ids, and one answer whole."""

    ids: frozenset[str]
    first: dict[str, str]
    seconds: float


def _contents(request: pytest.FixtureRequest) -> list[str]:
    """Return the texts to send: official test posts where they are, else texts of our own."""
    try:
        home = request.getfixturevalue("newsgroups")
    except pytest.skip.Exception:
        return texts(POSTS, seed=1)
    found = fetch_20newsgroups(subset="test", data_home=home, download_if_missing=False)
    return [text for text in found.data if text and "\0" not in text][:POSTS]


@pytest.fixture(scope="session")
def sent(request: pytest.FixtureRequest, started: Started) -> Sent:
    """2,000 documents, sent by several clients and stored."""
    contents = _contents(request)
    parts = [contents[number::CLIENTS] for number in range(CLIENTS)]
    begin = time.monotonic()
    with started.project.client() as client, ThreadPoolExecutor(CLIENTS) as threads:
        already = ledger(client)["accepted"]
        answers = [
            each for part in threads.map(_send, repeat(started.project), parts) for each in part
        ]
        seconds = time.monotonic() - begin
        settled(client, already + len(contents), seconds=60)
    return Sent(frozenset(each["id"] for each in answers), answers[0], seconds)


def _send(project: Project, contents: list[str]) -> list[dict[str, str]]:
    with project.client() as client:
        return [_send_one(client, content) for content in contents]


def _send_one(client: httpx2.Client, content: str) -> dict[str, str]:
    response = client.post("/v1/documents", json={"content": content, "source": "compose"})
    assert response.status_code == 202, response.text
    answer: dict[str, str] = response.json()
    assert response.headers["Location"] == f"/v1/documents/{answer['id']}"
    return answer
