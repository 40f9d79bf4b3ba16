from dataclasses import replace
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from shared.db import Database
from shared.decide import Patch, Prediction, Reclassify
from shared.store import documents, events
from shared.store.events import Event, Kind
from shared.store.ledger import AlreadyAccounted
from tests.shared.store.samples import Sender, document_id, put

ONE = document_id(1)
TWO = document_id(2)


def history(database: Database, key: str) -> list[tuple[str, dict[str, object]]]:
    """Return kind and details of a document's events, oldest first."""
    with database.transaction() as session:
        rows, has_more = events.page(session, UUID(key), None, 100)
    assert not has_more
    return [(row.kind, row.details) for row in reversed(rows)]


def reclassify(sender: Sender, key: str, revision: int, prediction: Prediction) -> None:
    with sender.database.transaction() as session:
        operation = Reclassify(revision, prediction)
        documents.reclassify(session, sender.account.number(0), {key: operation})


def test_ordinary_writes_leave_no_events(sender: Sender, database: Database) -> None:
    sender.send(put(ONE, 10, "alpha", label="human"), put(TWO, 11, "alpha"))
    sender.send(put(ONE, 20, "beta"), put(TWO, 11, "alpha"), put(TWO, 5, "beta"), known=[ONE, TWO])
    assert history(database, ONE) == history(database, TWO) == []


def test_a_change_of_the_label_is_an_event(sender: Sender, database: Database) -> None:
    sender.send(put(ONE, 10, "alpha"))
    labelled = replace(put(ONE, 20, "alpha", label="human"), request_id="request-1")
    sender.send(labelled, known=[ONE])
    sender.send(
        put(ONE, 15, "alpha", label="late"), put(ONE, 30, "alpha", label="human"), known=[ONE]
    )
    sender.send(put(ONE, 40, "alpha", label=None), known=[ONE])
    assert history(database, ONE) == [
        ("label", {"before": None, "label": "human"}),
        ("label", {"before": "human", "label": None}),
    ]
    with database.transaction() as session:
        (latest, first), _ = events.page(session, UUID(ONE), None, 10)
    assert (first.revision, first.task_id) == (20, f"{sender.account.producer_id}.2")
    assert (first.request_id, latest.request_id) == ("request-1", None)


def test_a_label_that_comes_with_a_new_document_is_none(sender: Sender, database: Database) -> None:
    sender.delete(ONE, 10)
    sender.send(put(ONE, 20, "alpha", label="human"), known=[ONE])
    assert [kind for kind, _ in history(database, ONE)] == ["delete"]


def test_a_failure_is_an_event_that_does_not_quote_the_text(
    sender: Sender, database: Database
) -> None:
    sender.send(put(ONE, 10, "bad"), put(TWO, 11, "alpha"))
    sender.send(put(TWO, 20, "bad"), known=[TWO])
    failure = {"title": "The document could not be classified", "model_version": "model-1"}
    assert history(database, ONE) == history(database, TWO) == [("failure", failure)]


def test_a_row_that_was_there_after_all_leaves_its_events_once(
    sender: Sender, database: Database
) -> None:
    sender.send(put(ONE, 10, "alpha"))
    sender.send(put(ONE, 20, "bad"))  # not hinted at: decided as new, then as it is
    assert [kind for kind, _ in history(database, ONE)] == ["failure"]


def test_a_message_that_is_rolled_back_leaves_no_events(sender: Sender, database: Database) -> None:
    envelope = sender.account.number(1)
    sender.deliver(envelope, put(ONE, 10, "bad"))
    with pytest.raises(AlreadyAccounted):
        sender.deliver(envelope, put(ONE, 20, "bad"), known=[ONE])
    assert len(history(database, ONE)) == 1


def test_a_replay_is_an_event_where_it_wrote_something(sender: Sender, database: Database) -> None:
    sender.send(put(TWO, 20, "beta"))
    letter = uuid7()
    envelope = replace(sender.account.number(2), replays=letter)
    outcomes = sender.deliver(envelope, put(ONE, 10, "alpha"), put(TWO, 10, "alpha"), known=[TWO])
    assert outcomes == "cx"
    assert history(database, ONE) == [("replay", {"dead_letter": str(letter)})]
    assert history(database, TWO) == []


def test_a_new_classification_is_an_event_if_it_changed_something(
    sender: Sender, database: Database
) -> None:
    sender.send(put(ONE, 10, "alpha"), put(TWO, 11, "bad"))
    reclassify(sender, ONE, 10, Prediction("alpha", 0.5, "model-2"))
    reclassify(sender, ONE, 10, Prediction("beta", 0.5, "model-2"))
    reclassify(sender, ONE, 10, Prediction(None, None, "model-3", {"title": "It failed"}))
    reclassify(sender, ONE, 9, Prediction("gamma", 0.5, "model-3"))  # superseded
    reclassify(sender, TWO, 11, Prediction("beta", 0.5, "model-2"))
    changed = {"predicted_category": "beta", "model_version": "model-2"}
    assert history(database, ONE) == [
        ("reclassify", {"before": "alpha", **changed}),
        ("failure", {"title": "It failed", "model_version": "model-3"}),
    ]
    assert history(database, TWO)[1:] == [("reclassify", {"before": None, **changed})]


@pytest.mark.parametrize("stored", [False, True])
def test_a_delete_is_an_event_and_doing_it_again_is_none(
    sender: Sender, database: Database, stored: bool
) -> None:
    if stored:
        sender.send(put(ONE, 10, "alpha"))
    revision = sender.delete(ONE, 20)
    sender.delete(ONE, 30)
    assert history(database, ONE) == [("delete", {})]
    with database.transaction() as session:
        (event,), _ = events.page(session, UUID(ONE), None, 10)
        write = events.latest_write(session, UUID(ONE))
    assert event.revision == revision
    assert write
    assert write.deleted
    assert write.task_id is None


def test_events_go_with_their_tombstone(sender: Sender, database: Database) -> None:
    sender.send(put(ONE, 10, "bad"), put(TWO, 10, "bad"))
    sender.delete(ONE, 20)
    assert sender.purge(days=-2) == 1
    assert history(database, ONE) == []
    assert len(history(database, TWO)) == 1
    with database.transaction() as session:
        assert events.latest_write(session, UUID(ONE)) is None


def test_events_are_written_in_their_order_and_paged_backwards(
    sender: Sender, database: Database
) -> None:
    sender.send(put(ONE, 10, "alpha"))
    with database.transaction() as session:
        events.record(session, [])
        found = [Event(ONE, Kind.PATCH, number, {"keys": ["a"]}, "r") for number in range(5)]
        events.record(session, found)
    before, revisions = None, []
    while True:
        with database.transaction() as session:
            rows, has_more = events.page(session, UUID(ONE), before, 2)
        revisions += [row.revision for row in rows]
        if not has_more:
            break
        before = rows[-1].id
    assert revisions == [4, 3, 2, 1, 0]


def test_a_patch_leaves_keys_within_bounds_and_the_label(
    sender: Sender, database: Database
) -> None:
    sender.send(put(ONE, 10, "alpha", metadata={"a": "secret"}))
    patch = {"k" * 500: "secret", **{str(number): None for number in range(100)}}
    for number, op in enumerate((Patch(patch, label="human"), Patch({}, label="human"), Patch({}))):
        with database.transaction() as session:
            documents.patch(session, UUID(ONE), op, 20 + number, request_id="request-1")
    (kind, details), label = history(database, ONE)
    assert (kind, label) == ("patch", ("label", {"before": None, "label": "human"}))
    keys = details["keys"]
    assert isinstance(keys, list)
    assert keys[:2] == ["k" * 100, "0"]
    assert len(keys) == 50
    with database.transaction() as session:
        rows, _ = events.page(session, UUID(ONE), None, 10)
    assert {(row.revision, row.request_id) for row in rows} == {(20, "request-1")}
