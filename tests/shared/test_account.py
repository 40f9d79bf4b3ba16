import threading
from uuid import UUID

from shared.account import Account, Mark

PRODUCER = UUID("0198c0de-0000-7000-8000-000000000001")


def test_messages_are_numbered_from_one_and_documents_added_up() -> None:
    account = Account(PRODUCER)
    envelopes = [account.number(documents) for documents in (3, 1, 0)]
    assert [(each.seq, each.documents, each.through) for each in envelopes] == [
        (1, 3, 3),
        (2, 1, 4),
        (3, 0, 4),
    ]
    assert {each.producer_id for each in envelopes} == {PRODUCER}
    assert account.mark() == Mark(PRODUCER, 3, 4, (), ((1, 3), (2, 1), (3, 0)))


def test_a_void_leaves_with_one_mark_and_comes_back_if_that_was_not_written() -> None:
    account = Account(PRODUCER)
    first, second = account.number(2), account.number(5)
    account.void(first)
    mark = account.mark()
    assert mark.voids == ((1, 2),)
    assert account.mark().voids == ()
    account.void(second)
    account.unwritten(mark)
    assert account.mark(closed=True) == Mark(PRODUCER, 2, 7, ((1, 2), (2, 5)), closed=True)


def test_what_is_being_published_is_pending_until_it_is_confirmed_or_void() -> None:
    account = Account(PRODUCER)
    first, second, third = (account.number(documents) for documents in (1, 2, 3))
    account.confirm(second)
    assert account.mark().pending == ((1, 1), (3, 3))
    account.void(third)
    mark = account.mark()
    assert (mark.voids, mark.pending) == (((3, 3),), ((1, 1),))
    account.unwritten(mark)  # a void stays one
    account.confirm(first)
    assert account.mark() == Mark(PRODUCER, 3, 6, ((3, 3),))


def test_threads_never_share_a_number() -> None:
    account = Account(PRODUCER)
    seqs: list[int] = []

    def work() -> None:
        for _ in range(500):
            envelope = account.number(2)
            assert envelope.through == 2 * envelope.seq
            seqs.append(envelope.seq)
            account.void(envelope)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seqs) == list(range(1, 4001))
    assert len(account.mark().voids) == 4000
