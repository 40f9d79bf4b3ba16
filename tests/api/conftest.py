"""A real API process, without a worker: what is accepted stays in the broker."""

from collections.abc import Iterator

import httpx2
import pytest

from tests.shared.store.conftest import database, sender
from tests.stack import Api, poll, processes

__all__ = ["database", "processes", "sender"]


@pytest.fixture(scope="module")
def api(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, module_broker_url: str
) -> Iterator[Api]:
    """The API that the tests of one module share: never stop it."""
    with Api(tmp_path_factory.mktemp("api"), module_database_url, module_broker_url) as server:
        yield server


@pytest.fixture(scope="module")
def client(api: Api) -> Iterator[httpx2.Client]:
    """A client of the API, which has declared its queues."""
    with api.client() as client:
        poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, seconds=15)
        yield client
