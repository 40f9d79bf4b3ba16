from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.db import Database
from shared.store import ledger, stats
from shared.store.stats import STEP, Span
from tests.shared.store.samples import Sender, document_id, put

Sql = Callable[..., list[Any]]

START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime.now(UTC) + timedelta(days=2)


def totals(
    database: Database, span: Span = "minute", category: str | None = None
) -> dict[tuple[str, str], int]:
    """Return all that was ever counted, by category and outcome, whatever the time."""
    found: Counter[tuple[str, str]] = Counter()
    with database.transaction() as session:
        for line in stats.series(session, span, START, END, category):
            found[line.category, line.outcome] += sum(line.counts)
    return dict(found)


def send_all_kinds(sender: Sender) -> None:
    """Have two created, one replaced, unchanged, superseded, failed; two are dead."""
    one, two, bad = document_id(1), document_id(2), document_id(3)
    sender.send(put(one, 10, "alpha"), put(two, 11, "beta", label="human"))
    sender.send(put(one, 20, "beta"), put(two, 21, "beta"), put(two, 5, "alpha"), known=[one, two])
    sender.send(put(bad, 30, "bad"))
    with sender.database.transaction() as session:
        ledger.record(session, sender.account.number(2), "dd", {})


ALL_KINDS = {
    ("alpha", "stored"): 1,
    ("beta", "stored"): 1,
    ("human", "stored"): 1,
    ("human", "unchanged"): 1,
    ("human", "superseded"): 1,
    ("", "stored"): 3,
    ("", "unchanged"): 1,
    ("", "superseded"): 1,
    ("", "failed"): 1,
    ("", "dead"): 2,
}


@pytest.mark.parametrize("span", STEP)
@pytest.mark.parametrize("folded", [False, True])
def test_every_document_is_counted_once_under_its_category(
    sender: Sender, database: Database, span: Span, folded: bool
) -> None:
    send_all_kinds(sender)
    if folded:
        assert sender.fold() == 4
    assert totals(database, span) == ALL_KINDS
    for category in ("human", ""):
        expected = {key: n for key, n in ALL_KINDS.items() if key[0] == category}
        assert totals(database, span, category) == expected


def test_what_is_folded_and_what_is_not_add_up(sender: Sender, database: Database) -> None:
    sender.send(put(document_id(1), 10, "alpha"))
    sender.fold()
    sender.send(put(document_id(2), 10, "alpha"))
    assert totals(database) == {("alpha", "stored"): 2, ("", "stored"): 2}
    sender.fold()
    assert totals(database) == {("alpha", "stored"): 2, ("", "stored"): 2}


def test_all_that_was_ever_counted_is_what_the_ledger_says(
    sender: Sender, database: Database
) -> None:
    send_all_kinds(sender)
    sender.fold()
    send_all_kinds(sender)
    sender.account.number(5)  # on its way
    sender.mark()
    account = sender.totals()
    assert account.in_flight == 5
    for span in STEP:
        processed = account.accepted - account.in_flight
        assert sum(totals(database, span, "").values()) == processed


def test_a_replay_takes_its_documents_from_the_dead(sender: Sender, database: Database) -> None:
    dead = sender.account.number(2)
    with database.transaction() as session:
        ledger.record(session, dead, "dd", {})
    envelope = sender.account.number(0)
    with database.transaction() as session:
        ledger.record(session, envelope, "cc", {}, categories={("alpha", "c"): 2}, revived=2)
    sender.fold()
    assert totals(database) == {("alpha", "stored"): 2, ("", "stored"): 2}
    assert sum(totals(database, category="").values()) == sender.totals().accepted


def test_entries_of_a_worker_that_does_not_say_categories_count_without(
    sender: Sender, database: Database, sql: Sql
) -> None:
    sender.send(put(document_id(1), 10, "alpha"))
    sql("UPDATE ledger SET categories = DEFAULT")
    sender.fold()
    assert totals(database) == {("", "stored"): 1}


def test_times_are_whole_intervals_in_utc(sender: Sender, database: Database, sql: Sql) -> None:
    sql("SET timezone = 'Asia/Kathmandu'")  # on the one connection that the pool hands out
    times = ("2026-03-01 23:59:59.9+00", "2026-03-02 00:00:00+00", "2026-03-02 01:30:10+00")
    for number, at in enumerate(times):
        sender.send(put(document_id(number), 10, "alpha"))
        sql("UPDATE ledger SET committed_at = :at WHERE seq = :seq", at=at, seq=number + 1)
        if number:  # the last two are folded apart from the first, which is not
            continue
        sender.fold()
    expected: dict[Span, list[str]] = {
        "minute": ["2026-03-01T23:59", "2026-03-02T00:00", "2026-03-02T01:30"],
        "hour": ["2026-03-01T23:00", "2026-03-02T00:00", "2026-03-02T01:00"],
        "day": ["2026-03-01T00:00", "2026-03-02T00:00"],
    }
    for span, wanted in expected.items():
        with database.transaction() as session:
            (line,) = stats.series(session, span, START, END)
        found = sorted(START + place * STEP[span] for place in line.places)
        assert [f"{time:%Y-%m-%dT%H:%M}" for time in found] == wanted
        assert sum(line.counts) == 3


def test_a_series_begins_and_ends_where_it_shall(
    sender: Sender, database: Database, sql: Sql
) -> None:
    for number, folded in enumerate((True, True, True, False, False, False)):
        sender.send(put(document_id(number), 10, "alpha"))
        at = START + timedelta(minutes=number % 3)
        sql("UPDATE ledger SET committed_at = :at WHERE seq = :seq", at=at, seq=number + 1)
        if folded:
            sender.fold()
    with database.transaction() as session:
        start, end = START + timedelta(minutes=1), START + timedelta(minutes=2)
        found = stats.series(session, "minute", start, end)
    assert found == [("", "stored", [0], [2])]


def test_rates_are_of_the_last_minute(sender: Sender, database: Database, sql: Sql) -> None:
    sender.send(put(document_id(1), 10, "alpha"))
    sql("UPDATE ledger SET committed_at = committed_at - interval '61 s'")
    sender.send(put(document_id(2), 10, "alpha"), put(document_id(3), 10, "bad"))
    with database.transaction() as session:
        assert stats.rates(session) == stats.Rates(accepted=2, stored=1)


def test_what_is_stored_now_is_counted_by_its_largest_keys(
    sender: Sender, database: Database
) -> None:
    for number, (content, source) in enumerate(
        [("alpha", "mail"), ("alpha", "ftp"), ("beta", None), ("gamma", None), ("bad", "mail")]
    ):
        sender.send(put(document_id(number), 10, content, source=source))
        if number == 2:
            sender.fold()
    sender.delete(document_id(3), 20)
    with database.transaction() as session:
        found = stats.live(session, 1)
    assert found == {
        "category": stats.Live({"alpha": 2}, others=1),
        "source": stats.Live({"mail": 2}, others=1),
        "status": stats.Live({"stored": 3}, others=1),
    }


def test_fine_counts_are_purged_and_days_are_kept(
    sender: Sender, database: Database, sql: Sql
) -> None:
    ages = ("1 hour", "3 days", "91 days", "400 days")
    for number, age in enumerate(ages):
        sender.send(put(document_id(number), 10, "alpha"))
        sql(
            "UPDATE ledger SET committed_at = now() - CAST(:age AS interval) WHERE seq = :seq",
            age=age,
            seq=number + 1,
        )
    sender.fold()
    with database.transaction() as session:
        assert stats.purge(session) == (3 + 2) * 2
    kept = dict(sql("SELECT span, sum(n) FROM stats WHERE category = '' GROUP BY span"))
    assert kept == {"minute": 1, "hour": 2, "day": 4}


def test_a_purge_does_not_wait_for_a_fold(sender: Sender, database: Database, sql: Sql) -> None:
    sender.send(put(document_id(1), 10, "alpha"))
    sql("UPDATE ledger SET committed_at = now() - interval '3 days'")
    sender.fold()
    sender.send(put(document_id(2), 10, "alpha"))
    sql("UPDATE ledger SET committed_at = now() - interval '3 days'")
    with database.transaction() as folding:
        assert ledger.fold(folding, 0) == 1
        with database.transaction() as session:
            assert stats.purge(session) == 0
    with database.transaction() as session:
        assert stats.purge(session) == 2


def test_a_late_redelivery_is_not_counted_again(sender: Sender, database: Database) -> None:
    envelope = sender.account.number(1)
    sender.deliver(envelope, put(document_id(1), 10, "alpha"))
    sender.fold()
    with pytest.raises(ledger.AlreadyAccounted):
        sender.deliver(envelope, put(document_id(1), 10, "alpha"))
    assert totals(database) == {("alpha", "stored"): 1, ("", "stored"): 1}
