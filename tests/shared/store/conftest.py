from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

from shared.db import Database
from tests.shared.store.samples import Sender, open_empty


@pytest.fixture
def database(module_database_url: str) -> Iterator[Database]:
    """A database without rows."""
    database = open_empty(module_database_url)
    yield database
    database.close()


@pytest.fixture
def sender(database: Database) -> Sender:
    return Sender(database)


@pytest.fixture
def sql(database: Database) -> Callable[..., list[Any]]:
    """Run one statement in a transaction of its own; return its rows, if it has any."""

    def run(statement: str, **values: object) -> list[Any]:
        with database.transaction() as session:
            result: Any = session.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    return run
