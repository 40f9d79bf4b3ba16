"""Which numbers of which producers are missing, and how many documents they carried."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shared.db import Database
from shared.messages import Envelope
from shared.store import ledger
from shared.store.ledger import Gap, Missing
from tests.shared.store.samples import Sender, document_id, put

Sql = Callable[..., list[Any]]


def gaps(sender: Sender) -> list[Gap]:
    with sender.database.transaction() as session:
        return ledger.gaps(session)


def missing(sender: Sender, found: list[Gap]) -> list[Missing]:
    with sender.database.transaction() as session:
        return ledger.missing(session, found)


def number(sender: Sender, documents: int, *, confirmed: bool = True) -> Envelope:
    envelope = sender.account.number(documents)
    if confirmed:
        sender.account.confirm(envelope)
    return envelope


def arrive(sender: Sender, envelope: Envelope) -> None:
    ids = [document_id(envelope.seq * 100 + each) for each in range(envelope.documents)]
    sender.deliver(envelope, *(put(each, 10, "alpha") for each in ids))


def dies(sql: Sql) -> None:
    sql("UPDATE producers SET marked_at = now() - interval '61 seconds'")


def test_without_gaps_nothing_is_missing(sender: Sender) -> None:
    arrive(sender, number(sender, 2))
    sender.mark()
    assert gaps(sender) == []
    sender.fold()
    sender.mark(closed=True)
    assert gaps(sender) == []
    assert missing(sender, []) == []


@pytest.mark.parametrize("folded", [False, True])
def test_the_missing_are_named_with_their_documents(sender: Sender, folded: bool) -> None:
    envelopes = [number(sender, documents) for documents in (1, 2, 3, 4, 5, 6)]
    sender.account.void(envelopes[4])
    for seq in (1, 3):
        arrive(sender, envelopes[seq - 1])
    sender.mark()
    (found,) = gaps(sender)
    assert (found.seq, found.through) == (6, 21)
    assert (found.promised, found.unsure) == ("{[2,3),[4,5),[6,7)}", "{}")
    arrive(sender, envelopes[5])
    if folded:
        sender.fold()
    (lost,) = missing(sender, [found])
    assert (lost.promised, lost.documents) == ("{[2,3),[4,5)}", 6)
    assert (lost.unsure, lost.unsure_documents) == ("{}", 0)
    assert sender.totals().in_flight == 6
    assert (lost.closed, lost.silent) == (False, False)


def test_what_is_being_published_was_promised_to_nobody_yet(sender: Sender) -> None:
    pending = number(sender, 7, confirmed=False)
    number(sender, 2)
    sender.mark()
    (found,) = gaps(sender)
    assert (found.promised, found.unsure) == ("{[2,3)}", "{}")
    (lost,) = missing(sender, [found])
    assert (lost.promised, lost.documents) == ("{[2,3)}", 2)
    sender.account.void(pending)
    sender.mark()
    (still,) = missing(sender, [found])
    assert (still.promised, still.documents) == ("{[2,3)}", 2)


@pytest.mark.parametrize("folded", [False, True])
def test_what_a_killed_producer_may_have_promised_is_told_apart(
    sender: Sender, sql: Sql, folded: bool
) -> None:
    """It had said 3, of which it was publishing 2; then came 4, 5 and 6, and only 5 is there."""
    number(sender, 1)
    number(sender, 20, confirmed=False)
    number(sender, 3)
    sender.mark()
    later = [number(sender, documents) for documents in (40, 5, 60)]
    arrive(sender, later[1])
    assert gaps(sender)[0].unsure == "{}"  # it may still publish them
    dies(sql)
    (found,) = gaps(sender)
    assert (found.promised, found.unsure) == ("{[1,2),[3,4)}", "{[2,3),[4,5)}")
    (lost,) = missing(sender, [found])
    assert (lost.documents, lost.unsure_documents) == (4, 60)
    assert (lost.silent, lost.closed) == (True, False)
    if folded:  # what was after the mark has no sum of its own any more
        sender.fold()
        (lost,) = missing(sender, [found])
        assert (lost.documents, lost.unsure_documents) == (4, 20)
    assert lost.documents + lost.unsure_documents <= sender.totals().in_flight == 64


def test_a_producer_killed_before_its_first_mark(sender: Sender) -> None:
    number(sender, 2)
    arrive(sender, number(sender, 3))
    assert gaps(sender) == []  # it is young
    sender.fold()
    (found,) = gaps(sender)
    assert (found.seq, found.promised, found.unsure) == (0, "{}", "{[1,2)}")
    (lost,) = missing(sender, [found])
    assert (lost.marked_at, lost.silent, lost.documents) == (None, True, 0)


@pytest.mark.parametrize("folded", [False, True])
def test_what_arrives_after_all_is_missing_no_longer(sender: Sender, folded: bool) -> None:
    late = number(sender, 2)
    sender.mark()
    found = gaps(sender)
    arrive(sender, late)
    if folded:
        sender.fold()
    assert missing(sender, found) == []


def test_a_message_without_documents_is_missing_like_any_other(sender: Sender) -> None:
    number(sender, 0)
    sender.mark(closed=True)
    (lost,) = missing(sender, gaps(sender))
    assert (lost.promised, lost.documents, lost.closed) == ("{[1,2)}", 0, True)


def test_each_producer_for_itself(database: Database) -> None:
    senders = [Sender(database) for _ in range(3)]
    for documents, each in enumerate(senders, start=1):
        number(each, documents)
        each.mark()
    arrive(senders[1], Envelope(senders[1].account.producer_id, 1, 2, 2))
    lost = missing(senders[0], gaps(senders[0]))
    assert {each.producer_id: each.documents for each in lost} == {
        senders[0].account.producer_id: 1,
        senders[2].account.producer_id: 3,
    }


def test_folding_at_the_same_time_hides_and_invents_nothing(sender: Sender) -> None:
    """Every third number never arrives. Whatever is folded when, no snapshot says otherwise."""
    envelopes = [number(sender, 1 + seq % 3) for seq in range(240)]
    sender.mark()
    lost = [each for each in envelopes if each.seq % 3 == 0]
    expected = {each.seq for each in lost}
    documents = sum(each.documents for each in lost)
    for each in envelopes:
        if each.seq % 3:
            arrive(sender, each)
    found = gaps(sender)
    with ThreadPoolExecutor(4) as threads, pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger, "_FOLD_LIMIT", 5)
        folding = [threads.submit(lambda: [sender.fold() for _ in range(30)]) for _ in range(2)]
        looks = 0
        while not all(each.done() for each in folding) or looks < 5:
            ((seen,),) = [missing(sender, found)]
            assert set(seqs(seen.promised)) == expected
            assert seen.documents == documents
            assert gaps(sender)[0].promised == found[0].promised
            looks += 1
        assert sum(sum(each.result()) for each in folding) == 160


def seqs(numbers: str) -> list[int]:
    runs = [run.strip("[)").split(",") for run in numbers.strip("{}").split("),")]
    return [seq for first, end in runs for seq in range(int(first), int(end))]
