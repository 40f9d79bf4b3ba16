"""Preconditions: decided in the transaction of the write, and once only."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import Any
from uuid import UUID

import pytest

from shared.db import Database
from shared.decide import UNSET, Patch
from shared.errors import PreconditionFailed
from shared.messages import Envelope
from shared.models import Document
from shared.store import documents, ledger
from shared.store.documents import MetadataTooLarge, Write
from shared.store.ledger import AlreadyAccounted
from tests.shared.store.samples import Sender, document_id, put

A, B = document_id(1), document_id(2)


def conditional(write: Write, **condition: Any) -> Write:
    return replace(write, put=replace(write.put, **condition))


def row(sender: Sender, key: str) -> Document:
    found = sender.get(key)
    assert found is not None
    return found


class TestIfMatch:
    def test_the_revision_that_is_stored(self, sender: Sender) -> None:
        sender.send(put(A, 10, "space one"))
        assert sender.send(conditional(put(A, 20, "space two"), if_match=10)) == "s"
        assert sender.send(conditional(put(A, 30, "space three"), if_match=10)) == "p"
        assert row(sender, A).content == "space two"
        assert sender.totals().refused == 1

    @pytest.mark.parametrize("condition", [{"if_match": 10}, {"if_match": "*"}])
    def test_without_a_row(self, sender: Sender, condition: dict[str, Any]) -> None:
        assert sender.send(conditional(put(A, 20, "space"), **condition)) == "p"
        assert sender.get(A) is None

    def test_a_tombstone_is_no_document(self, sender: Sender) -> None:
        sender.send(put(A, 10, "space"))
        revision = sender.delete(A, 20)
        write = put(A, 30, "space")
        assert sender.send(conditional(write, if_match=revision)) == "p"
        assert sender.send(conditional(write, if_match="*")) == "p"
        assert sender.send(conditional(write, if_none_match=True)) == "c"

    def test_the_hint_changes_nothing(self, sender: Sender) -> None:
        sender.send(put(A, 10, "space one"))
        write = conditional(put(A, 20, "space two"), if_match=10)
        assert sender.send(write, known=[A]) == "s"
        assert sender.send(write, known=[A]) == "p"

    def test_in_a_message_with_others(self, sender: Sender) -> None:
        """Each document has its own letter, those of one id one after the other."""
        letters = sender.send(
            conditional(put(A, 10, "space one"), if_none_match=True),
            conditional(put(A, 20, "space two"), if_none_match=True),
            conditional(put(A, 30, "space three"), if_match=10),
            conditional(put(B, 40, "space four"), if_match="*"),
            put(B, 50, "space five"),
        )
        assert letters == "cpspc"
        assert row(sender, A).content == "space three"


class TestCreateOnly:
    def test_there_is_a_row(self, sender: Sender) -> None:
        write = conditional(put(A, 20, "space"), create_only=True)
        assert sender.send(write) == "c"
        sender.send(put(A, 30, "autos"))
        assert sender.send(write) == "u"
        assert sender.send(conditional(put(A, 40, "guns"), create_only=True)) == "u"
        assert row(sender, A).content == "autos"

    def test_a_tombstone_is_a_row(self, sender: Sender) -> None:
        sender.delete(A, 10)
        assert sender.send(conditional(put(A, 20, "space"), create_only=True)) == "u"
        assert sender.get(A) is None


class TestRedelivery:
    def test_its_own_success_does_not_become_a_refusal(self, sender: Sender) -> None:
        sender.send(put(A, 10, "space one"))
        envelope = sender.account.number(1)
        write = conditional(put(A, 20, "space two"), if_match=10)
        assert sender.deliver(envelope, write) == "s"
        with pytest.raises(AlreadyAccounted):
            sender.deliver(envelope, write)
        assert letters(sender, envelope) == "s"

    def test_a_refusal_does_not_become_a_success(self, sender: Sender) -> None:
        envelope = sender.account.number(1)
        write = conditional(put(A, 20, "space two"), if_match=10)
        assert sender.deliver(envelope, write) == "p"
        sender.send(put(A, 10, "space one"))
        with pytest.raises(AlreadyAccounted):
            sender.deliver(envelope, write)
        assert row(sender, A).content == "space one"
        assert letters(sender, envelope) == "p"


def letters(sender: Sender, envelope: Envelope) -> str:
    with sender.database.transaction() as session:
        return ledger.outcomes(session, envelope.producer_id, [envelope.seq])[envelope.seq]


class TestRaces:
    def test_compare_and_set_counts_every_success_once(self, database: Database) -> None:
        """Four connections count documents up by compare-and-set; messages come twice, or late."""
        keys = [document_id(number) for number in range(3)]
        Sender(database).send(*(put(key, 10, "space 0") for key in keys))

        def count_up(seed: int) -> Counter[str]:
            random, sender = Random(seed), Sender(database)
            outcomes: Counter[str] = Counter()
            sent: list[tuple[Envelope, Write]] = []
            for _ in range(60):
                key = random.choice(keys)
                stored = row(sender, key)
                number = int((stored.content or "").split()[1])
                write = put(key, stored.revision + 1, f"space {number + 1}")
                write = conditional(write, if_match=stored.revision)
                envelope = sender.account.number(1)
                outcomes[sender.deliver(envelope, write)] += 1
                sent.append((envelope, write))
                for again in {-1, random.randrange(len(sent))}:
                    with pytest.raises(AlreadyAccounted):
                        sender.deliver(*sent[again])
            return outcomes

        with ThreadPoolExecutor(4) as threads:
            outcomes = sum(threads.map(count_up, range(4)), Counter[str]())
        sender = Sender(database)
        counted = sum(int((row(sender, key).content or "").split()[1]) for key in keys)
        assert outcomes["s"] == counted
        assert outcomes["p"] == 240 - counted > 0

    def test_of_those_who_create_one_wins(self, database: Database) -> None:
        def create(arguments: tuple[int, int]) -> str:
            number, writer = arguments
            write = put(document_id(number), 10 + writer, f"space {writer}")
            return Sender(database).send(conditional(write, if_none_match=True))

        with ThreadPoolExecutor(4) as threads:
            for number in range(40):
                racers = threads.map(create, [(number, writer) for writer in range(4)])
                assert Counter(racers) == {"c": 1, "p": 3}


class TestPatch:
    def patch(self, sender: Sender, key: str, op: Patch, **condition: Any) -> Document | None:
        with sender.database.transaction() as session:
            return documents.patch(session, UUID(key), op, 100, **condition)

    def test_both_registers(self, sender: Sender) -> None:
        sender.send(put(A, 10, "space one", metadata={"a": 1, "b": 2}))
        found = self.patch(sender, A, Patch({"a": None, "c": 3}, "sci.med"))
        assert found is not None
        assert (found.metadata_, found.category, found.revision) == (
            {"b": 2, "c": 3},
            "sci.med",
            100,
        )
        assert found.task_id == row(sender, A).task_id is not None
        assert sender.counts("category") == {"sci.med": 1}

    def test_a_full_write_from_before_keeps_the_patch(self, sender: Sender) -> None:
        sender.send(put(A, 10, "space one", metadata={"a": 1}))
        self.patch(sender, A, Patch({"b": 2}))
        assert sender.send(put(A, 50, "space two", metadata={"a": 5})) == "s"
        assert row(sender, A).metadata_ == {"a": 5, "b": 2}

    def test_nothing_to_change(self, sender: Sender) -> None:
        sender.send(put(A, 10, "space one"))
        found = self.patch(sender, A, Patch({}, UNSET))
        assert found is not None
        assert found.revision == 10

    def test_nothing_there(self, sender: Sender) -> None:
        assert self.patch(sender, A, Patch({"a": 1})) is None
        sender.delete(A, 10)
        assert self.patch(sender, A, Patch({"a": 1}), if_match=10) is None

    def test_another_revision(self, sender: Sender) -> None:
        sender.send(put(A, 10, "space one"))
        with pytest.raises(PreconditionFailed):
            self.patch(sender, A, Patch({"a": 1}), if_match=9)
        assert self.patch(sender, A, Patch({"a": 1}), if_match=10) is not None

    def test_metadata_that_would_be_too_large(self, sender: Sender) -> None:
        sender.send(put(A, 10, "space one", metadata={"a": "x" * 10_000}))
        with pytest.raises(MetadataTooLarge):
            self.patch(sender, A, Patch({"b": "x" * 10_000}))
        assert row(sender, A).revision == 10

    def test_a_delete_with_another_revision(self, sender: Sender) -> None:
        sender.send(put(A, 10, "space one"))
        with pytest.raises(PreconditionFailed), sender.database.transaction() as session:
            documents.delete(session, UUID(A), 100, 9)
        with pytest.raises(PreconditionFailed), sender.database.transaction() as session:
            documents.delete(session, UUID(B), 100, 10)
        with sender.database.transaction() as session:
            documents.delete(session, UUID(A), 100, 10)
        assert sender.get(A) is None
