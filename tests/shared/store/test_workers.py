"""Workers say that they are there, leave, and are forgotten."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.db import Database
from shared.store import workers
from shared.store.workers import Worker

ONE = Worker(
    "one@host", 2, ["bulk", "ingest"], "1.0", "model-1", datetime(2026, 11, 22, tzinfo=UTC)
)


def known(database: Database) -> dict[str, bool]:
    """Return which workers are known, and whether they are alive."""
    with database.transaction() as session:
        return {each.row.hostname: each.alive for each in workers.known(session)}


def test_one_that_is_silent_is_dead_and_forgotten_after_a_day(
    database: Database, sql: Callable[..., list[Any]]
) -> None:
    with database.transaction() as session:
        for name in ("one@host", "two@host", "three@host"):
            workers.say(session, replace(ONE, hostname=name))
    sql("UPDATE workers SET seen_at = seen_at - interval '16 s' WHERE hostname = 'two@host'")
    sql("UPDATE workers SET seen_at = seen_at - interval '25 h' WHERE hostname = 'three@host'")
    assert known(database) == {"one@host": True, "two@host": False, "three@host": False}
    with database.transaction() as session:
        workers.purge(session)
        workers.say(session, replace(ONE, hostname="two@host", model_version="model-2"))
    assert known(database) == {"one@host": True, "two@host": True}
    assert sql("SELECT model_version FROM workers WHERE hostname = 'two@host'") == [("model-2",)]


def test_who_leaves_takes_nobody_along_who_has_its_name(database: Database) -> None:
    younger = replace(ONE, started_at=ONE.started_at + timedelta(hours=1))
    with database.transaction() as session:
        workers.say(session, ONE)
        workers.say(session, younger)
        workers.leave(session, ONE)
    assert known(database) == {"one@host": True}
    with database.transaction() as session:
        workers.leave(session, younger)
    assert known(database) == {}
