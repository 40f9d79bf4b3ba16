"""Ticks while the database is away: none is a fault of its own, and it is said once."""

from typing import Any

import pytest
import structlog

from shared.db import Database
from worker.app import runtime
from worker.tasks.fold_ledger import fold_ledger
from worker.tasks.index_documents import index_documents
from worker.tasks.purge_tombstones import purge_tombstones


@pytest.mark.parametrize("tick", [fold_ledger, purge_tombstones, index_documents])
def test_ticks_pass_while_the_database_is_away(
    tick: Any, module_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Database(
        "postgresql+psycopg2://nobody@127.0.0.1:1/nothing",
        pool_size=1,
        statement_seconds=1,
        application="postroom-test",
    )
    url = module_database_url.replace("postgresql://", "postgresql+psycopg2://")
    back = Database(url, pool_size=1, statement_seconds=9, application="postroom-test")
    with structlog.testing.capture_logs() as logs:
        for database in (away, away, away, back, back, away, back):
            monkeypatch.setattr(runtime, "database", database)
            tick.run()
    back.close()
    assert [each["event"] for each in logs] == 2 * [
        "upkeep waits for the database",
        "upkeep goes on: the database is back",
    ]
