"""The main job on real input: every official test post goes in, and comes out as the model says."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from operator import le
from pathlib import Path

import aiohttp
import httpx2
import pytest
from sklearn.datasets import fetch_20newsgroups

from tests.stack import Api, Worker, ledger, poll, running, settled
from worker.classify.artefact import DEFAULT, read

CONNECTIONS = 32
BATCH = 1_000

pytestmark = pytest.mark.newsgroups


@pytest.fixture(scope="module")
def posts(newsgroups: Path) -> list[str]:
    """The official test posts whose text can be sent: not empty, and without NUL."""
    found = fetch_20newsgroups(subset="test", data_home=newsgroups, download_if_missing=False)
    return [text for text in found.data if text and "\0" not in text]


@pytest.fixture(scope="module")
def predicted(posts: list[str]) -> list[str]:
    """What the shipped model says of each post, offline and all at once."""
    return [each.category for each in read(DEFAULT).classify(posts)]


async def send_singly(url: str, posts: list[str]) -> list[str]:
    """Send each post by itself over many connections; return the ids in the posts' order."""
    waiting = iter(enumerate(posts))
    ids = [""] * len(posts)

    async def send(session: aiohttp.ClientSession) -> None:
        for index, post in waiting:
            body = {"content": post, "source": "single"}
            async with session.post(f"{url}/v1/documents", json=body) as response:
                assert response.status == 202, await response.text()
                ids[index] = (await response.json())["id"]

    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(send(session) for _ in range(CONNECTIONS)))
    return ids


def send_in_batches(client: httpx2.Client, posts: list[str]) -> list[str]:
    """Send the posts a thousand at a time; return the ids in the posts' order."""
    ids: list[str] = []
    for start in range(0, len(posts), BATCH):
        body = [{"content": post, "source": "batch"} for post in posts[start : start + BATCH]]
        response = client.post("/v1/documents/batch", json=body)
        assert response.status_code == 202, response.text
        ids += [each["id"] for each in response.json()["documents"]]
    return ids


def categories(client: httpx2.Client, source: str) -> dict[str, str]:
    """Walk all pages of a source's documents; return the category of each id."""
    found: dict[str, str] = {}
    query: dict[str, str | int] = {"source": source, "limit": 250}
    while True:
        page = client.get("/v1/documents", params=query).json()
        for each in page["data"]:
            assert each["id"] not in found, "a page repeated a document"
            found[each["id"]] = each["category"]
        if not page["has_more"]:
            return found
        query["cursor"] = page["next_cursor"]


def check_all(api: Api, posts: list[str], predicted: list[str]) -> None:
    """Send every post singly and in batches, and see each come out as predicted."""
    with api.client(60) as client:
        sent = {
            "single": asyncio.run(send_singly(api.url, posts)),
            "batch": send_in_batches(client, posts),
        }
        account = settled(client, accepted=2 * len(posts), seconds=180)
        assert account["stored"] == 2 * len(posts)
        for source, ids in sent.items():
            assert len(set(ids)) == len(posts)
            assert categories(client, source) == dict(zip(ids, predicted, strict=True))


@pytest.mark.rabbitmq
def test_all_posts_over_rabbitmq(
    tmp_path: Path,
    database_url: str,
    broker_url: str,
    processes: ExitStack,
    posts: list[str],
    predicted: list[str],
) -> None:
    api = Api(tmp_path / "api", database_url, broker_url)
    worker = Worker(tmp_path / "worker", database_url, broker_url, WORKER_CONCURRENCY="2")
    running(processes, api, worker)
    check_all(api, posts, predicted)


def test_all_posts_over_the_spool_with_a_worker_killed_three_times(
    tmp_path: Path,
    database_url: str,
    processes: ExitStack,
    posts: list[str],
    predicted: list[str],
) -> None:
    broker_url = f"spool://{tmp_path}/spool"
    api = Api(tmp_path / "api", database_url, broker_url)
    first, second = (
        Worker(tmp_path / name, database_url, broker_url, WORKER_NAME=name)
        for name in ("first", "second")
    )
    running(processes, api, first, second)
    # The killing is done here and the checks in a thread: a process ends with the thread that
    # started it.
    with ThreadPoolExecutor(1) as thread, api.client() as client:
        checks = thread.submit(check_all, api, posts, predicted)
        for part in (1, 2, 3):
            wanted = 2 * len(posts) * part // 5
            poll(lambda: ledger(client)["stored"], partial(le, wanted), seconds=120)
            first.kill()
            first.start()
        checks.result()
