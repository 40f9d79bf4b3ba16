import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import pytest
from celery.exceptions import Reject
from sqlalchemy import text

from local.ports import free_ports
from shared.account import Account
from shared.db import Database, Session
from shared.errors import DatabaseUnavailable
from shared.messages import Document, Envelope
from shared.revision import DAY, microseconds_now
from shared.store import documents as store
from shared.store import ledger
from tests.shared.store.samples import document_id, open_empty
from worker.app import runtime
from worker.classify.halving import classify
from worker.classify.model import Prediction
from worker.patience import Patience, Stopping
from worker.tasks import ingest as module
from worker.tasks.fold_ledger import fold_ledger
from worker.tasks.ingest import ingest
from worker.tasks.purge_tombstones import purge_tombstones

ONE, TWO = document_id(1), document_id(2)


class PoisonError(Exception):
    pass


class FakeModel:
    """Sorts texts by their first word, and cannot bear the word `poison`."""

    version = "fake-1"

    def __init__(self, error: type[BaseException] = PoisonError) -> None:
        self.error = error
        self.batches: list[int] = []
        self.seen: list[str] = []

    def classify(self, texts: Sequence[str]) -> list[Prediction]:
        self.batches.append(len(texts))
        if any("poison" in each for each in texts):
            raise self.error("secret " * 200)
        self.seen += texts
        return [Prediction(each.split(maxsplit=1)[0], 0.5) for each in texts]


def texts_with_poison(*places: int, count: int = 8) -> list[str]:
    return ["poison" if at in places else f"text{at}" for at in range(count)]


def categories(texts: Sequence[str], model: FakeModel) -> list[str | None]:
    return [each.category for each in classify(model, texts)]  # type: ignore[arg-type]  # stands in


# --- Halving -------------------------------------------------------------------------------------


def test_texts_are_classified_all_at_once() -> None:
    model = FakeModel()
    assert categories(texts_with_poison(), model) == [f"text{at}" for at in range(8)]
    assert model.batches == [8]


def test_nothing_is_not_classified() -> None:
    model = FakeModel()
    assert categories([], model) == []
    assert model.batches == []


@pytest.mark.parametrize("places", [(0,), (3,), (7,), (0, 7), (2, 3), (0, 1, 2, 3, 4, 5, 6, 7)])
def test_bad_texts_are_found_and_their_neighbours_classified(places: tuple[int, ...]) -> None:
    model = FakeModel()
    found = categories(texts_with_poison(*places), model)
    assert found == [None if at in places else f"text{at}" for at in range(8)]
    assert len(model.batches) <= 15


def test_one_bad_text_in_a_thousand_costs_few_tries() -> None:
    model = FakeModel()
    found = categories(texts_with_poison(500, count=1000), model)
    assert found.count(None) == 1
    assert len(model.batches) <= 21


def test_what_cannot_be_classified_says_why_in_short() -> None:
    (prediction,) = classify(FakeModel(), ["poison"])  # type: ignore[arg-type]  # stands in
    assert prediction.error is not None
    assert prediction.error["type"] == "/problems/not-classified"
    assert prediction.error["detail"].startswith("PoisonError: secret")
    assert len(prediction.error["detail"]) <= 500
    assert prediction.model_version == "fake-1"


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit])
def test_what_is_not_the_texts_fault_is_no_reason_to_halve(error: type[BaseException]) -> None:
    model = FakeModel(error)
    with pytest.raises(error):
        categories(texts_with_poison(3), model)
    assert model.batches == [8]


# --- The task, with a real database --------------------------------------------------------------


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    model = FakeModel()
    monkeypatch.setattr(runtime, "_model", model)
    return model


@pytest.fixture
def database(module_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    database = open_empty(module_database_url)
    monkeypatch.setattr(runtime, "database", database)
    yield database
    database.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Stopping:
    stopping = Stopping()
    brief = Patience(stopping, initial=0.001, maximum=0.001, give_back=0.1)
    monkeypatch.setattr(runtime, "patience", brief)
    return stopping


@pytest.fixture
def account() -> Account:
    return Account(UUID(int=7, version=4))


def document(key: str, content: str, stamp: int | None = None, **more: Any) -> Document:
    made: Document = {
        "id": key,
        "stamp": stamp or microseconds_now(),
        "accepted_at": "2026-11-21T10:00:00+00:00",
        "content": content,
    }
    return made | more  # type: ignore[return-value]  # keys of Document


def deliver(
    envelope: Envelope,
    documents: object,
    *,
    redelivered: bool = False,
    headers: dict[str, Any] | None = None,
) -> None:
    ingest.push_request(
        id=envelope.task_id,
        headers=envelope.headers() if headers is None else headers,
        delivery_info={"redelivered": redelivered},
    )
    try:
        ingest.run(documents=documents)
    finally:
        ingest.pop_request()


def requeued(rejected: Any) -> bool:
    return bool(rejected.value.requeue)


def totals(database: Database) -> ledger.Totals:
    with database.transaction() as session:
        return ledger.totals(session)


def rows(database: Database) -> dict[str, tuple[str | None, str, str | None]]:
    with database.transaction() as session:
        found = session.execute(text("SELECT id::text, category, status, task_id FROM documents"))
        return {row.id: (row.category, row.status, row.task_id) for row in found}


def test_a_message_is_classified_stored_and_accounted_for(
    database: Database, model: FakeModel, account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    envelope = account.number(2)
    deliver(envelope, [document(ONE, "alpha private"), document(TWO, "beta private")])
    assert rows(database) == {
        ONE: ("alpha", "stored", envelope.task_id),
        TWO: ("beta", "stored", envelope.task_id),
    }
    assert (totals(database).accepted, totals(database).stored) == (2, 2)
    assert model.batches == [2]
    output = "".join(capsys.readouterr())
    assert envelope.task_id in output
    assert "private" not in output


def test_a_bad_document_is_stored_as_failed_and_its_neighbours_are_stored(
    database: Database, model: FakeModel, account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = texts_with_poison(2, 5)
    deliver(account.number(8), [document(document_id(at), each) for at, each in enumerate(texts)])
    found = rows(database)
    assert [found[document_id(at)][0] for at in range(8)] == [
        None if at in (2, 5) else f"text{at}" for at in range(8)
    ]
    assert [found[document_id(at)][1] for at in range(8)].count("failed") == 2
    assert (totals(database).stored, totals(database).failed) == (6, 2)
    with database.transaction() as session:
        failed = store.get(session, UUID(document_id(2)))
    assert failed is not None
    assert failed.content == "poison"
    assert failed.error is not None
    assert failed.error["title"] == "The document could not be classified"
    assert "secret" not in "".join(capsys.readouterr())


def test_a_redelivery_changes_nothing_and_ends_well(
    database: Database, model: FakeModel, account: Account
) -> None:
    envelope = account.number(1)
    for redelivered in (False, True, True):
        deliver(envelope, [document(ONE, "alpha", stamp=10**18)], redelivered=redelivered)
    assert totals(database).stored == totals(database).accepted == 1
    assert model.seen == ["alpha"]  # the hint of a redelivery spares the classifier


def test_each_content_is_classified_once(
    database: Database, model: FakeModel, account: Account
) -> None:
    deliver(
        account.number(3),
        [document(ONE, "alpha"), document(TWO, "alpha"), document(document_id(3), "beta")],
    )
    assert sorted(model.seen) == ["alpha", "beta"]
    assert totals(database).stored == 3


def test_a_content_that_is_stored_already_is_not_classified_again(
    database: Database, model: FakeModel, account: Account
) -> None:
    deliver(account.number(1), [document(ONE, "alpha")])
    deliver(account.number(1), [document(ONE, "alpha", may_exist=True)])
    deliver(account.number(1), [document(ONE, "alpha", may_exist=True, source="mail")])
    assert model.seen == ["alpha"]
    assert (totals(database).stored, totals(database).unchanged) == (2, 1)


@pytest.mark.parametrize("hint", [None, b"", store.hash_content("beta")])
def test_a_hint_that_is_wrong_is_put_right(
    database: Database,
    model: FakeModel,
    account: Account,
    monkeypatch: pytest.MonkeyPatch,
    hint: bytes | None,
) -> None:
    """Of a row that is not there, or whose content is another by now."""
    deliver(account.number(1), [document(ONE, "alpha")])
    monkeypatch.setattr(store, "known", lambda *_: {ONE: hint, TWO: hint})
    deliver(account.number(2), [document(key, "beta", may_exist=True) for key in (ONE, TWO)])
    assert {key: row[0] for key, row in rows(database).items()} == {ONE: "beta", TWO: "beta"}
    assert model.seen == ["alpha", "beta"]


def test_a_row_that_vanishes_again_and_again_is_no_dead_letter(
    database: Database, model: FakeModel, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tombstone may be purged between the insert that met it and the lock."""
    lock = store._lock
    vanished: list[int] = []

    def lock_nothing(session: Session, ids: Sequence[str]) -> dict[str, Any]:
        vanished.append(1)
        return {} if len(vanished) < 4 else lock(session, ids)

    deliver(account.number(1), [document(ONE, "alpha")])
    monkeypatch.setattr(store, "_lock", lock_nothing)
    deliver(account.number(1), [document(ONE, "beta", may_exist=True)])
    assert rows(database)[ONE][0] == "beta"
    assert model.seen == ["alpha", "beta"]


# --- What cannot be ingested ---------------------------------------------------------------------

OLDEST = runtime.settings.tombstone_days * DAY


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        (None, "documents"),
        ({}, "documents"),
        ([], "at least 1 item"),
        ([document(ONE, "alpha")] * 2, "2 documents, 1 announced"),
        ([{"id": ONE}], "0.stamp"),
        ([document(ONE, "alpha", stamp=1)], "tombstone"),
        ([document(ONE, "alpha", stamp=microseconds_now() - OLDEST)], "tombstone"),
    ],
)
def test_an_unreadable_message_is_a_dead_letter(
    database: Database, model: FakeModel, account: Account, documents: object, reason: str
) -> None:
    with pytest.raises(Reject, match=reason) as rejected:
        deliver(account.number(1), documents)
    assert not requeued(rejected)
    assert rows(database) == {}
    assert totals(database).accepted == 0
    assert model.batches == []


def test_a_message_younger_than_every_purged_tombstone_is_taken(
    database: Database, model: FakeModel, account: Account
) -> None:
    stamp = microseconds_now() - OLDEST + 60_000_000
    deliver(account.number(1), [document(ONE, "alpha", stamp=stamp)])
    assert totals(database).stored == 1


@pytest.mark.parametrize("change", [{"version": 99}, {"seq": "x"}, {"producer_id": None}])
def test_unreadable_headers_are_a_dead_letter(
    database: Database, model: FakeModel, account: Account, change: dict[str, Any]
) -> None:
    envelope = account.number(1)
    with pytest.raises(Reject) as rejected:
        deliver(envelope, [document(ONE, "alpha")], headers=envelope.headers() | change)
    assert not requeued(rejected)


# --- While the database is away ------------------------------------------------------------------


def test_a_database_that_stays_away_sends_the_message_back(
    model: FakeModel, account: Account, impatient: Stopping, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql+psycopg2://nobody@127.0.0.1:{free_ports(1)[0]}/nothing"
    nowhere = Database(url, pool_size=1, statement_seconds=1, application="postroom-test")
    monkeypatch.setattr(runtime, "database", nowhere)
    with pytest.raises(Reject) as rejected:
        deliver(account.number(1), [document(ONE, "alpha")])
    assert requeued(rejected)
    assert model.batches == [1]  # however many tries there were


def test_a_database_that_comes_back_has_its_message(
    database: Database,
    model: FakeModel,
    account: Account,
    impatient: Stopping,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transaction = database.transaction
    tries: list[int] = []

    @contextlib.contextmanager
    def flaky() -> Iterator[Session]:
        tries.append(1)
        if len(tries) < 4:
            raise DatabaseUnavailable("away")
        with transaction() as session:
            yield session
            if len(tries) == 5:
                raise DatabaseUnavailable("gone before the commit")

    monkeypatch.setattr(database, "transaction", flaky)
    deliver(account.number(1), [document(ONE, "alpha", may_exist=True)])
    monkeypatch.undo()
    assert totals(database).stored == 1
    assert model.batches == [1]


# --- The ticks -----------------------------------------------------------------------------------


def test_the_fold_tick_folds_what_is_old(
    database: Database, model: FakeModel, account: Account
) -> None:
    deliver(account.number(1), [document(ONE, "alpha")])
    with database.transaction() as session:
        session.execute(text("UPDATE ledger SET committed_at = now() - interval '61 seconds'"))
    fold_ledger.run()
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM ledger")) == 0
        assert session.scalar(text("SELECT count(*) FROM ledger_producers")) == 1


def test_the_purge_tick_purges_all_that_is_old_in_batches(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.tasks import purge_tombstones as purging  # noqa: PLC0415

    monkeypatch.setattr(purging, "_BATCH", 2)
    with database.transaction() as session:
        for number in range(6):
            store.delete(session, UUID(document_id(number)), 10)
        session.execute(
            text("UPDATE documents SET updated_at = '2020-01-01' WHERE id <> :id"), {"id": ONE}
        )
    purge_tombstones.run()
    assert set(rows(database)) == {ONE}


def test_the_task_is_ours() -> None:
    assert module.ingest is ingest
    assert ingest.name == "documents.ingest"
