from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from shared.db import Database
from shared.decide import Outcome
from shared.store import ledger
from shared.store.ledger import AlreadyAccounted, Totals
from tests.shared.store.samples import Sender, document_id, put

Sql = Callable[..., list[Any]]
NOTHING = dict.fromkeys(asdict(Totals(0, 0, 0, 0, 0, 0, 0, 0, 0)), 0)


def expect(**parts: int) -> Totals:
    return Totals(**{**NOTHING, **parts})


def test_an_empty_account_is_all_zeros(sender: Sender) -> None:
    assert sender.totals() == expect()
    assert sender.counts("category") == {}


@pytest.mark.parametrize("folded", [False, True])
def test_every_outcome_is_counted_in_exactly_one_column(
    sender: Sender, database: Database, folded: bool
) -> None:
    envelope = sender.account.number(7)
    with database.transaction() as session:
        ledger.record(session, envelope, "".join(Outcome), {})
    if folded:
        sender.fold()
    assert sender.totals() == expect(
        accepted=7, stored=2, unchanged=1, superseded=1, refused=1, failed=1, dead=1
    )


def test_what_was_promised_and_not_stored_is_in_flight(sender: Sender) -> None:
    sender.send(put(document_id(1), 10, "alpha"))
    waiting = sender.account.number(5)
    assert sender.totals() == expect(accepted=1, stored=1)  # nobody has said so yet
    sender.mark()
    assert sender.totals() == expect(accepted=6, stored=1, in_flight=5)
    writes = [put(document_id(number), 20, "beta") for number in range(5)]
    sender.deliver(waiting, *writes)
    assert sender.totals() == expect(accepted=6, stored=6)


def test_a_later_message_tells_of_an_earlier_one_before_any_mark_does(sender: Sender) -> None:
    sender.account.number(3)
    sender.send(put(document_id(1), 10, "alpha"))
    assert sender.totals() == expect(accepted=4, stored=1, in_flight=3)


def test_producers_are_summed(database: Database) -> None:
    first, second = Sender(database), Sender(database)
    first.send(put(document_id(1), 10, "alpha"))
    second.account.number(2)
    second.mark()
    assert first.totals() == expect(accepted=3, stored=1, in_flight=2)


@pytest.mark.parametrize("folded", [False, True])
def test_a_void_message_is_not_accepted_unless_it_arrives_after_all(
    sender: Sender, folded: bool
) -> None:
    arrives, never = sender.account.number(1), sender.account.number(2)
    sender.account.void(arrives)
    sender.account.void(never)
    sender.mark()
    assert sender.totals() == expect(void=3)
    sender.deliver(arrives, put(document_id(1), 10, "alpha"))
    if folded:
        sender.fold()
    assert sender.totals() == expect(accepted=1, stored=1, void=2)


def test_a_void_that_arrived_before_its_mark_was_written_counts_as_accepted(
    sender: Sender,
) -> None:
    envelope = sender.account.number(1)
    sender.deliver(envelope, put(document_id(1), 10, "alpha"))
    sender.account.void(envelope)
    sender.mark()
    assert sender.totals() == expect(accepted=1, stored=1)


def test_marks_never_go_back(sender: Sender, database: Database, sql: Sql) -> None:
    sender.account.void(sender.account.number(2))
    old = sender.account.mark()
    sender.account.number(3)
    new = sender.account.mark(closed=True)
    for mark in (new, old, old):
        with database.transaction() as session:
            ledger.mark(session, mark)
    ((seq, through, closed),) = sql("SELECT seq, through, closed FROM producers")
    assert (seq, through, closed) == (2, 5, True)
    assert sender.totals() == expect(accepted=3, in_flight=3, void=2)


def test_an_entry_is_folded_once_it_is_older_than_asked(sender: Sender, sql: Sql) -> None:
    for number in range(3):
        sender.send(put(document_id(number), 10, "alpha"))
    sql("UPDATE ledger SET committed_at = now() - interval '59 seconds' WHERE seq = 1")
    sql("UPDATE ledger SET committed_at = now() - interval '61 seconds' WHERE seq = 2")
    assert sender.fold(ledger.FOLD_AFTER_SECONDS) == 1
    assert [row.seq for row in sql("SELECT seq FROM ledger ORDER BY seq")] == [1, 3]


def test_folding_in_batches_keeps_the_account_and_the_counts(
    sender: Sender, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_FOLD_LIMIT", 3)
    envelopes = [sender.account.number(1) for _ in range(8)]
    for number in (7, 0, 3, 1, 2, 6, 5):  # the fifth number is a gap
        write = put(document_id(number % 4), 10 + number, "alpha beta"[: 5 + number % 2 * 5])
        sender.deliver(envelopes[number], write)
    sender.delete(document_id(3), 100)
    sender.mark()
    account, counts = sender.totals(), sender.counts("status")
    assert account.in_flight == 1
    assert sum(counts.values()) == 3
    folded: list[int] = []
    while not folded or folded[-1]:
        folded.append(sender.fold())
        assert (sender.totals(), sender.counts("status")) == (account, counts)
    assert folded == [3, 3, 1, 0]
    ((done,),) = sql("SELECT CAST(done AS text) FROM ledger_producers")
    assert done == "{[1,5),[6,9)}"
    assert [tuple(row) for row in sql("SELECT kind, key, n FROM counts WHERE n <> 0")] != []
    assert sql("SELECT FROM ledger UNION ALL SELECT FROM count_deltas") == []


def test_a_folded_gap_can_still_be_filled_once(sender: Sender) -> None:
    gap = sender.account.number(1)
    sender.send(put(document_id(1), 10, "alpha"))
    sender.fold()
    assert sender.totals().in_flight == 1
    sender.deliver(gap, put(document_id(2), 10, "alpha"))
    sender.fold()
    assert sender.totals() == expect(accepted=2, stored=2)
    with pytest.raises(AlreadyAccounted):
        sender.deliver(gap, put(document_id(2), 10, "alpha"))


def test_counts_follow_every_change(sender: Sender) -> None:
    one, two = document_id(1), document_id(2)
    sender.send(put(one, 10, "alpha", source="mail"), put(two, 10, "alpha"))
    assert sender.counts("category") == {"alpha": 2}
    assert sender.counts("source") == {"mail": 1}
    sender.send(put(one, 20, "beta", source="ftp"))
    assert sender.counts("category") == {"alpha": 1, "beta": 1}
    assert sender.counts("source") == {"ftp": 1}
    sender.send(put(two, 20, "bad", label="human"))
    assert sender.counts("category") == {"beta": 1, "human": 1}
    assert sender.counts("status") == {"failed": 1, "stored": 1}
    sender.fold()
    sender.delete(two, 30)
    assert sender.counts("category") == {"beta": 1}
    assert sender.counts("status") == {"stored": 1}
    sender.fold()
    assert sender.counts("status") == {"stored": 1}
    sender.delete(document_id(9), 30)  # of an id not seen yet
    assert sender.counts("status") == {"stored": 1}


def test_counts_come_largest_first_then_by_name(sender: Sender) -> None:
    words = ["gamma", "beta", "beta", "alpha"]
    sender.send(*(put(document_id(at), 10, word) for at, word in enumerate(words)))
    assert list(sender.counts("category").items()) == [("beta", 2), ("alpha", 1), ("gamma", 1)]


@pytest.mark.parametrize("key", ['quote"', "ключ", "a.b", "", "{}", "null"])
def test_any_key_is_counted(sender: Sender, key: str) -> None:
    sender.send(put(document_id(1), 10, "alpha", source=key, label=key))
    assert sender.counts("source") == sender.counts("category") == {key: 1}
    sender.fold()
    assert sender.counts("source") == {key: 1}


def test_a_refused_duplicate_leaves_nothing_behind(sender: Sender, sql: Sql) -> None:
    envelope = sender.account.number(1)
    sender.deliver(envelope, put(document_id(1), 10, "alpha"))
    with pytest.raises(AlreadyAccounted):
        # The same number with another document: the number decides.
        sender.deliver(envelope, put(document_id(2), 10, "alpha"))
    assert [str(row.id) for row in sql("SELECT id FROM documents")] == [document_id(1)]


def test_the_same_number_of_another_producer_is_another_message(database: Database) -> None:
    first, second = Sender(database), Sender(database)
    assert first.send(put(document_id(1), 10, "alpha")) == "c"
    assert second.send(put(document_id(2), 10, "alpha")) == "c"
    assert uuid7() != first.account.producer_id != second.account.producer_id
