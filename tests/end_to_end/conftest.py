"""API and workers as real processes, on RabbitMQ and on the spool folder."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx2
import pytest

from local.postgres import Postgres
from tests.conftest import fresh_name
from tests.stack import Api, Worker, poll, processes, running

__all__ = ["processes"]

BROKERS = (pytest.param("rabbitmq", marks=pytest.mark.rabbitmq), "spool")


@dataclass(frozen=True)
class Pipe:
    """The whole of Postroom; tests may stop and kill its parts, and start them again."""

    api: Api
    workers: tuple[Worker, ...]
    client: httpx2.Client

    def stop_workers(self) -> None:
        for worker in self.workers:
            worker.stop()

    def start_workers(self) -> None:
        for worker in self.workers:
            worker.start()
        for worker in self.workers:
            worker.wait_ready()


@pytest.fixture(scope="module", params=BROKERS)
def pipe(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres: Postgres,
    migrated_template: str,
) -> Iterator[Pipe]:
    """One worker with two children on RabbitMQ; two workers on the spool, which has no children."""
    folder = tmp_path_factory.mktemp(request.param)
    database_url = postgres.create_database(fresh_name(request), migrated_template)
    if request.param == "rabbitmq":
        broker_url = request.getfixturevalue("module_broker_url")
        names = ["one"]
    else:
        broker_url = f"spool://{folder / 'spool'}"
        names = ["one", "two"]
    api = Api(folder / "api", database_url, broker_url)
    workers = tuple(
        Worker(folder / name, database_url, broker_url, WORKER_NAME=name, WORKER_CONCURRENCY="2")
        for name in names
    )
    with ExitStack() as stack:
        running(stack, api, *workers)
        client = stack.enter_context(api.client())
        poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, seconds=15)
        yield Pipe(api, workers, client)
