"""Imports while database, broker or the API itself are away: nothing is lost, nothing doubled."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from local.postgres import DATABASE, Postgres
from local.rabbitmq import RabbitMQ
from tests.api.test_imports import NDJSON, URL, Slow, has_accepted, has_status, import_of, lines
from tests.conftest import migrate
from tests.stack import Api, Worker, poll, processes, running

__all__ = ["processes"]

pytestmark = pytest.mark.rabbitmq

COUNT = 6_000


@dataclass
class Site:
    """A stack of one's own, whose parts may be stopped."""

    postgres: Postgres
    rabbitmq: RabbitMQ
    api: Api
    worker: Worker
    client: httpx2.Client

    def send(self, body: bytes, key: str) -> httpx2.Response:
        headers = {"Content-Type": NDJSON, "Idempotency-Key": key}
        return self.client.post(URL, content=body, headers=headers, timeout=90)

    def until_taken(self, body: bytes, key: str) -> dict[str, Any]:
        """Send until the whole body is taken, as a client that heeds `Retry-After` would."""
        response = poll(
            lambda: self.send(body, key), lambda answer: answer.status_code == 202, seconds=120
        )
        found: dict[str, Any] = response.json()
        return found

    def check(self, key: str, body: bytes) -> dict[str, Any]:
        """See that each line became one document, once all are processed."""
        done = poll(
            lambda: import_of(self.client, key), lambda found: found["status"] == "done", seconds=90
        )
        assert (done["accepted"], done["rejected"]) == (COUNT, 0)
        assert done["failed"] == done["dead"] == done["superseded"] == 0
        assert done["stored"] == COUNT
        contents = [each["content"] for each in self.documents()]
        assert len(contents) == len(set(contents)) == COUNT == body.count(b"\n")
        return done

    def documents(self) -> Iterator[dict[str, Any]]:
        cursor: dict[str, str] = {}
        while True:
            page = self.client.get("/v1/documents", params={"limit": 250, **cursor}).json()
            yield from page["data"]
            if not page["has_more"]:
                return
            cursor = {"cursor": page["next_cursor"]}


@pytest.fixture
def site(
    tmp_path: Path,
    processes: ExitStack,
    own_postgres: Postgres,
    own_rabbitmq: RabbitMQ,
    own_broker_url: str,
) -> Site:
    database_url = own_postgres.create_database(DATABASE)
    migrate(database_url)
    api = Api(tmp_path / "api", database_url, own_broker_url)
    worker = Worker(tmp_path / "worker", database_url, own_broker_url)
    running(processes, api, worker)
    client = processes.enter_context(api.client())
    poll(lambda: client.get("/readyz").status_code, lambda code: code == 200, seconds=30)
    return Site(own_postgres, own_rabbitmq, api, worker, client)


def test_the_broker_is_killed_in_the_middle(site: Site) -> None:
    """The upload waits for it, and says how to go on if that takes too long."""
    key, body = uuid4().hex, lines(COUNT, size=400)
    with Slow(site.api, body, key) as upload:
        upload.send(len(body) // 3)
        has_accepted(site.client, key, 1_000)
        site.rabbitmq.kill()
        rest = Thread(target=upload.send, args=(len(body),))
        rest.start()
        assert import_of(site.client, key)["status"] == "receiving"
        site.rabbitmq.start()
        rest.join()
        answer = upload.answer()
        assert b"202 Accepted" in answer or key.encode() in answer
    site.rabbitmq.wait_ready()
    site.until_taken(body, key)
    site.check(key, body)


def test_the_database_is_away_in_the_middle(site: Site) -> None:
    key, body = uuid4().hex, lines(COUNT, size=400)
    with Slow(site.api, body, key) as upload:
        upload.send(len(body) // 3)
        has_accepted(site.client, key, 1_000)
        site.postgres.kill()
        upload.send(len(body))
        site.postgres.start()
        answer = upload.answer()
        assert b"202 Accepted" in answer or key.encode() in answer
    site.until_taken(body, key)
    site.check(key, body)


def test_the_database_is_away_at_the_start(site: Site) -> None:
    key, body = uuid4().hex, lines(COUNT)
    site.postgres.stop()
    response = site.send(body, key)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    site.postgres.start()
    assert site.until_taken(body, key)["accepted"] == COUNT
    site.check(key, body)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_the_api_goes_in_the_middle(site: Site, how: str) -> None:
    """Killed, it leaves no word of its last second: those lines are sent twice, and stored once."""
    key, body = uuid4().hex, lines(COUNT, size=400)
    with Slow(site.api, body, key) as upload:
        upload.send(len(body) // 2)
        has_accepted(site.client, key, 1_000)
        if how == "stop":
            site.api.stop()
            answer = upload.answer()
            assert b"503 Service Unavailable" in answer
            assert key.encode() in answer
        else:
            site.api.kill()
    site.api.start()
    site.api.wait_ready()
    if how == "stop":
        cut = has_status(site.client, key, "interrupted")
        assert cut["error"] == "The API was stopped."
    site.until_taken(body, key)
    done = site.check(key, body)
    if how == "stop":
        assert done["unchanged"] == 0
