"""The task that classifies stored documents anew, with a real database."""

from typing import Any

import pytest
from celery.exceptions import Reject

from shared.account import Account
from shared.db import Database
from shared.messages import RECLASSIFY, Envelope
from tests.worker.test_ingest import (
    ONE,
    TWO,
    FakeModel,
    account,
    database,
    deliver,
    document,
    impatient,
    model,
    requeued,
    rows,
    totals,
)
from worker.app import runtime
from worker.patience import Stopping
from worker.tasks.reclassify import reclassify

__all__ = ["account", "database", "impatient", "model"]


def again(envelope: Envelope, items: object, headers: dict[str, Any] | None = None) -> None:
    reclassify.push_request(
        id=envelope.task_id, headers=headers or envelope.headers(), delivery_info={}
    )
    try:
        reclassify.run(items=items)
    finally:
        reclassify.pop_request()


STAMP = 10**16 * 2


def item(key: str, revision: int = STAMP) -> dict[str, Any]:
    return {"id": key, "content_revision": revision}


class BetterModel(FakeModel):
    """Can bear the word `poison`."""

    version = "fake-2"

    def classify(self, texts: Any) -> Any:
        return super().classify([each.replace("poison", "cure") for each in texts])


def test_failed_documents_are_classified_by_a_better_model(
    database: Database, model: FakeModel, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = account.number(2)
    deliver(first, [document(ONE, "poison", STAMP), document(TWO, "alpha", STAMP)])
    before = totals(database)
    assert rows(database)[ONE] == (None, "failed", first.task_id)
    again(account.number(0), [item(ONE), item(TWO, STAMP - 1)])
    assert rows(database)[ONE] == (None, "failed", first.task_id)  # by the same model

    better = BetterModel()
    monkeypatch.setattr(runtime, "_model", better)
    envelope = account.number(0)
    for _ in range(3):
        again(envelope, [item(ONE), item(TWO, STAMP - 1)])
    assert rows(database) == {
        ONE: ("cure", "stored", first.task_id),
        TWO: ("alpha", "stored", first.task_id),
    }
    assert set(better.seen) == {"cure"}
    assert totals(database) == before


def test_one_that_cannot_be_classified_takes_nobody_along(
    database: Database, model: FakeModel, account: Account
) -> None:
    deliver(account.number(2), [document(ONE, "poison", STAMP), document(TWO, "alpha", STAMP)])
    again(account.number(0), [item(ONE), item(TWO)])
    assert rows(database)[ONE][1] == "failed"
    assert rows(database)[TWO][:2] == ("alpha", "stored")


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        (None, "items"),
        ([], "items"),
        ([{"id": ONE}], "content_revision"),
        ([{"id": "x", "content_revision": 1}], "items: badly formed"),
        ([{"id": ONE, "content_revision": "1"}], "content_revision"),
    ],
)
def test_an_unreadable_message_is_a_dead_letter(
    database: Database, model: FakeModel, account: Account, items: object, reason: str
) -> None:
    with pytest.raises(Reject, match=reason) as rejected:
        again(account.number(0), items)
    assert not requeued(rejected)


@pytest.mark.parametrize("change", [{"version": 0}, {"documents": 1, "through": 1}])
def test_headers_that_are_wrong_are_a_dead_letter(
    database: Database, model: FakeModel, account: Account, change: dict[str, Any]
) -> None:
    envelope = account.number(0)
    with pytest.raises(Reject) as rejected:
        again(envelope, [item(ONE)], envelope.headers() | change)
    assert not requeued(rejected)


def test_while_the_database_is_away_the_message_goes_back(
    model: FakeModel, account: Account, impatient: Stopping, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg2://nobody@127.0.0.1:1/nothing"
    nowhere = Database(url, pool_size=1, statement_seconds=1, application="postroom-test")
    monkeypatch.setattr(runtime, "database", nowhere)
    with pytest.raises(Reject) as rejected:
        again(account.number(0), [item(ONE)])
    assert requeued(rejected)


def test_the_task_is_that_of_the_message() -> None:
    assert reclassify.name == RECLASSIFY.task
