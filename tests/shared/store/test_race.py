import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import TextClause, text

from local.server import wait_until
from shared.db import Database
from shared.store import documents, ledger
from shared.store.ledger import AlreadyAccounted
from tests.shared.store.race import Difference, race
from tests.shared.store.samples import Sender, document_id, put

WAITING = """
    SELECT query FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND datname = current_database()
"""


def waits(sql: Callable[..., list[Any]], statement: str) -> bool:
    """Say whether somebody waits for a lock in such a statement."""
    return any(statement in row.query for row in sql(WAITING))


def test_concurrent_writers_leave_what_the_reference_says(database_url: str) -> None:
    coverage = race(database_url, rounds=5)
    # What the race is worth: it met duplicates, deletes, wrong hints and folds, and looked often.
    assert min(coverage.duplicates, coverage.deletes, coverage.hints_wrong) > 5
    assert min(coverage.folded, coverage.snapshots, coverage.buried, coverage.replays) > 20
    assert coverage.replays_in_vain > 5


def test_writers_whose_connections_are_killed_leave_the_same(database_url: str) -> None:
    coverage = race(database_url, rounds=1, seed=100, kills=True)
    assert coverage.kills > 5


@pytest.mark.parametrize(
    ("where", "statement", "mutant"),
    [
        pytest.param(
            documents,
            "_LOCK",
            text(str(documents._LOCK).replace("FOR UPDATE", "")),
            id="rows are not locked",
        ),
        pytest.param(
            ledger,
            "_RECORD",
            text(str(ledger._RECORD).replace("done @>", "false AND done @>")),
            id="folded messages are not recognised",
        ),
    ],
)
def test_the_race_notices_when(
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    statement: str,
    mutant: TextClause,
) -> None:
    assert str(getattr(where, statement)) != str(mutant)
    monkeypatch.setattr(where, statement, mutant)
    with pytest.raises(Difference):
        race(database_url, rounds=40, seed=200)


def test_a_duplicate_is_recognised_while_its_entry_is_being_folded(
    database: Database, sender: Sender, sql: Callable[..., list[Any]]
) -> None:
    """The duplicate's insert waits for the fold; its check must see what the fold committed."""
    envelope = sender.account.number(1)
    write = put(document_id(1), 10, "alpha")
    sender.deliver(envelope, write)
    answers: list[str] = []

    def deliver_again() -> None:
        try:
            answers.append(sender.deliver(envelope, write))
        except AlreadyAccounted:
            answers.append("already accounted")

    duplicate = threading.Thread(target=deliver_again)
    with database.transaction() as session:
        assert ledger.fold(session, 0) == 1
        duplicate.start()
        assert wait_until(lambda: waits(sql, "INSERT INTO ledger ("), 10)
    duplicate.join(10)
    assert answers == ["already accounted"]
    assert sender.totals().stored == 1
    assert sender.counts("category") == {"alpha": 1}


def test_two_folders_take_each_what_the_other_has_not(
    database: Database,
    sender: Sender,
    sql: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(5):
        sender.send(put(document_id(number), 10, "alpha"))
    monkeypatch.setattr(ledger, "_FOLD_LIMIT", 2)
    folded: list[int] = []
    with database.transaction() as first:
        assert ledger.fold(first, 0) == 2
        second = threading.Thread(target=lambda: folded.append(sender.fold()))
        second.start()
        # It took other entries, and waits for the row of the counts that the first one holds.
        assert wait_until(lambda: waits(sql, "INSERT INTO counts"), 10)
    second.join(10)
    assert folded == [2]
    assert sender.fold() == 1
    assert sender.counts("category") == {"alpha": 5}
    assert sender.totals().stored == 5
