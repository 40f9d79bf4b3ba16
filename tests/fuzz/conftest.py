"""The running API, its worker and its servers, for whoever throws things at it."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.keys import make_admin
from tests.stack import Api, Worker, poll, processes, running

__all__ = ["processes"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--examples", type=int, default=3, help="fuzzing: cases for each operation")


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, module_broker_url: str
) -> Iterator[Api]:
    """An API that stores what it is sent."""
    folder = tmp_path_factory.mktemp("site")
    api = Api(folder / "api", module_database_url, module_broker_url, AUTH="on")
    api.key = make_admin(module_database_url)
    worker = Worker(folder / "worker", module_database_url, module_broker_url)
    with ExitStack() as stack:
        running(stack, api, worker)
        with api.client() as client:
            poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, 15)
        yield api
