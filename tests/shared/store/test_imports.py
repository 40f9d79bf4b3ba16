from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.db import Database
from shared.store import imports
from shared.store.imports import Status, Upload

Sql = Callable[..., list[Any]]


@pytest.fixture
def import_of(database: Database, sql: Sql) -> Callable[..., UUID]:
    """Make an import that was heard of so many days ago, and return its id."""

    def make(status: Status, days: float, rejects: int = 0) -> UUID:
        key = str(uuid4())
        with database.transaction() as session:
            upload = Upload(uuid4(), "", key, {}, uuid4(), None)
            made = imports.begin(session, upload).id
        sql(
            "UPDATE imports SET status = :status, updated_at = now() - make_interval(secs => :s)"
            " WHERE id = CAST(:id AS uuid)",
            status=status,
            s=86_400 * days,
            id=str(made),
        )
        sql(
            "INSERT INTO import_rejects SELECT CAST(:id AS uuid), n, '[]', 'x', false"
            " FROM generate_series(1, :rejects) n",
            id=str(made),
            rejects=rejects,
        )
        return made

    return make


@pytest.fixture
def purge(database: Database) -> Callable[..., int]:
    def run(limit: int) -> int:
        with database.transaction() as session:
            return imports.purge(session, 30, limit)

    return run


def test_old_imports_are_purged_with_their_rejects(
    import_of: Callable[..., UUID], purge: Callable[..., int], sql: Sql
) -> None:
    ended = (Status.DONE, Status.CANCELLED, Status.FAILED, Status.INTERRUPTED)
    for status in ended:
        import_of(status, 30.1, rejects=2)
    kept = {import_of(status, 29.9, rejects=2) for status in ended}
    kept |= {import_of(status, 99, rejects=2) for status in (Status.RECEIVING, Status.PROCESSING)}
    assert [purge(5) for _ in range(3)] == [5, 5, 2]
    assert {row.id for row in sql("SELECT id FROM imports")} == kept
    assert {row.import_id for row in sql("SELECT import_id FROM import_rejects")} == kept
    assert purge(5) == 0


def test_an_import_that_goes_on_is_not_purged(
    database: Database, import_of: Callable[..., UUID], purge: Callable[..., int], sql: Sql
) -> None:
    going_on = import_of(Status.INTERRUPTED, 99, rejects=1)
    with database.transaction() as session:
        assert imports.cancel(session, going_on) is not None  # as whoever goes on: it has the row
        assert purge(5) == 0
    assert len(sql("SELECT FROM import_rejects")) == 1
