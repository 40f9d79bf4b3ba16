"""Lost is what is missing though the broker has nothing; whatever else is missing is on its way."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection

from api.evidence import Evidence
from local.rabbitmq import RabbitMQ
from shared.account import Account
from shared.db import Database
from shared.errors import BrokerUnavailable, DatabaseUnavailable
from shared.inventory import Disk, Inventory, inventory
from shared.messages import INGEST, Envelope
from shared.queue import QUEUES, Gauge, Publisher, celery_app, declare
from tests.shared.broker import wait_for_depth
from tests.shared.store.samples import Sender, document_id, put
from tests.stack import poll


@dataclass
class FakeInventory:
    """Queues that the test fills; its figures may be ten seconds old."""

    lag: float = 10
    pause: float = 1
    queues: Collection[str] = ()
    away: bool = False

    def empty(self, queues: Collection[str]) -> bool:
        if self.away:
            raise BrokerUnavailable("away")
        return not set(queues) & set(self.queues)

    def disks(self) -> list[Disk]:
        raise BrokerUnavailable("nobody looks at them here")


class Looker:
    """Steps through time, a second a step."""

    def __init__(self, database: Database) -> None:
        self.time = 0.0
        self.inventory = FakeInventory()
        self.evidence = Evidence(database, self.inventory, lambda: self.time)

    def look(self, seconds: int) -> list[str]:
        """Look for some seconds; return the numbers that are called lost then."""
        for _ in range(seconds):
            self.time += 1
            self.evidence.step()
        return [each.promised for each in self.evidence.verdict.found]


@pytest.fixture
def looker(database: Database) -> Looker:
    return Looker(database)


def promise(sender: Sender, documents: int) -> Envelope:
    envelope = sender.account.number(documents)
    sender.account.confirm(envelope)
    sender.mark()
    return envelope


def test_an_even_account_needs_no_broker(looker: Looker) -> None:
    looker.inventory.away = True
    assert looker.look(1) == []
    assert looker.evidence.verdict.obstacle is None
    assert looker.evidence.verdict.checked_at is not None


def test_a_loss_shows_once_the_figures_cannot_be_older_than_it(
    looker: Looker, sender: Sender
) -> None:
    promise(sender, 3)
    assert looker.look(20) == []
    assert looker.evidence.verdict.checked_at is None
    assert looker.look(1) == ["{[1,2)}"]
    verdict = looker.evidence.verdict
    assert (verdict.obstacle, verdict.found[0].documents) == (None, 3)
    assert looker.look(100) == ["{[1,2)}"]  # and stays


@pytest.mark.parametrize("queue", ["ingest", "bulk", "dead"])
def test_nothing_is_lost_while_a_queue_has_messages(
    looker: Looker, sender: Sender, queue: str
) -> None:
    promise(sender, 3)
    looker.inventory.queues = [queue]
    assert looker.look(300) == []
    assert looker.evidence.verdict.checked_at is None
    looker.inventory.queues = []
    assert looker.look(60) == ["{[1,2)}"]


def test_a_message_that_just_became_a_dead_letter_is_not_lost(
    looker: Looker, sender: Sender
) -> None:
    promise(sender, 3)
    assert looker.look(12) == []  # `ingest` was empty once
    looker.inventory.queues = ["dead"]
    assert looker.look(100) == []


def test_what_came_after_the_gaps_were_written_down_is_not_judged_with_them(
    looker: Looker, sender: Sender
) -> None:
    promise(sender, 3)
    looker.look(15)
    promise(sender, 4)  # is in no queue either, but the figures may be older
    assert looker.look(9) == ["{[1,2)}"]
    assert looker.look(25) == ["{[1,3)}"]


def test_what_arrives_meanwhile_is_not_lost(looker: Looker, sender: Sender) -> None:
    envelope = promise(sender, 1)
    looker.look(15)
    sender.deliver(envelope, put(document_id(1), 10, "alpha"))
    assert looker.look(20) == []
    assert looker.evidence.verdict.obstacle is None


def test_what_arrives_after_all_is_called_lost_no_longer(
    looker: Looker, sender: Sender, database: Database
) -> None:
    envelope = promise(sender, 1)
    assert looker.look(24) == ["{[1,2)}"]
    with database.transaction() as session:
        assert len(looker.evidence.verdict.still(session)) == 1
    sender.deliver(envelope, put(document_id(1), 10, "alpha"))
    with database.transaction() as session:
        assert looker.evidence.verdict.still(session) == []
    assert looker.look(30) == []


def test_documents_are_counted_before_their_entries_are_folded(
    looker: Looker, sender: Sender, database: Database
) -> None:
    promise(sender, 5)
    looker.look(24)
    later = promise(sender, 1)
    promise(sender, 7)  # on its way for long
    sender.deliver(later, put(document_id(1), 10, "alpha"))
    sender.fold()
    looker.inventory.queues = ["ingest"]
    assert looker.look(200) == ["{[1,2)}"]
    with database.transaction() as session:
        (lost,) = looker.evidence.verdict.still(session)
    assert lost.documents == 5


def test_without_an_answer_nothing_is_lost_and_the_reason_is_said(
    looker: Looker, sender: Sender
) -> None:
    promise(sender, 3)
    looker.inventory.away = True
    assert looker.look(100) == []
    assert looker.evidence.verdict.obstacle == "away"
    assert not looker.evidence.step()


def test_who_has_nobody_to_ask_is_told_so_at_each_look(database: Database, sender: Sender) -> None:
    promise(sender, 3)
    evidence = Evidence(database, inventory("amqp://nowhere.invalid", ""))
    for _ in range(3):
        assert not evidence.step()
        assert "BROKER_API_URL" in str(evidence.verdict.obstacle)
    assert evidence.verdict.checked_at is None


def test_a_database_that_was_away_is_asked_anew(
    looker: Looker, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    promise(sender, 3)
    looker.look(15)
    with monkeypatch.context() as patched:
        patched.setattr(looker.evidence, "_read", away)
        with pytest.raises(DatabaseUnavailable):
            looker.look(20)
    assert looker.look(15) == []
    assert looker.look(10) == ["{[1,2)}"]


def away(_: object) -> list[Any]:
    raise DatabaseUnavailable("away")


# --- On real brokers -----------------------------------------------------------------------------


class Pipe:
    """A publisher, and a consumer that takes messages and does nothing with them."""

    def __init__(self, url: str, database: Database, looks: Inventory) -> None:
        self.url = url
        self.database = database
        self.account = Account(Sender(database).account.producer_id)
        self.app = celery_app(url)
        with Connection(url) as connection:
            declare(connection)
        self.publisher = Publisher(self.app, self.account)
        self.evidence = Evidence(database, looks)

    def publish(self, documents: int) -> Envelope:
        payload: dict[str, Any] = {"documents": []}
        return self.publisher.publish(INGEST, payload, documents=documents, summary="")

    def mark(self) -> None:
        sender = Sender(self.database)
        sender.account = self.account
        sender.mark()

    def lost(self) -> list[str]:
        self.evidence.step()
        return [each.promised for each in self.evidence.verdict.found]

    def never_lost(self, seconds: float) -> None:
        with pytest.raises(AssertionError, match="not within"):
            poll(self.lost, lambda lost: lost != [], seconds)
        assert self.evidence.verdict.checked_at is None

    def purge(self) -> None:
        with Connection(self.url) as connection, connection.channel() as channel:
            QUEUES["ingest"](channel).purge()

    def check(self, hold: float, find: float) -> None:
        """A message that waits, is held, or comes back from the dead is not lost; a purged is."""
        self.publish(2)
        self.publish(3)
        self.mark()
        self.never_lost(hold)  # it waits
        consumer = Connection(self.url)
        channel: Any = consumer.channel()
        held = [channel.basic_get("ingest") for _ in range(2)]
        assert all(held)
        wait_for_depth(self.url, "ingest", 0)
        self.never_lost(hold)  # with a slow worker
        consumer.collect()  # which dies
        del channel, held
        wait_for_depth(self.url, "ingest", 2)
        self.never_lost(hold / 4)
        self.purge()
        assert poll(self.lost, lambda lost: lost != [], find) == ["{[1,3)}"]
        (missing,) = self.evidence.verdict.found
        assert (missing.producer_id, missing.documents) == (self.account.producer_id, 5)


def test_on_the_spool(tmp_path: Path, database: Database) -> None:
    url = f"spool://{tmp_path / 'spool'}"
    Pipe(url, database, inventory(url, "")).check(hold=1, find=5)


@pytest.mark.rabbitmq
def test_on_rabbitmq(rabbitmq: RabbitMQ, broker_url: str, database: Database) -> None:
    looks = inventory(broker_url, rabbitmq.api_url)
    # As long as the figures may be old, they are, so a message held must outlast that.
    Pipe(broker_url, database, looks).check(hold=looks.lag + 2, find=3 * looks.lag)


@pytest.mark.rabbitmq
def test_the_management_api_that_says_no(rabbitmq: RabbitMQ, broker_url: str) -> None:
    for url, reason in {
        rabbitmq.api_url.replace(rabbitmq.password, "wrong"): "401",
        rabbitmq.api_url: "does not know all queues",
        f"http://127.0.0.1:{rabbitmq.ports.epmd}/api": "management API",
        "": "BROKER_API_URL",
    }.items():
        with pytest.raises(BrokerUnavailable, match=reason):
            inventory(broker_url, url).empty(["ingest"])


def test_the_gauge_counts_what_waits(tmp_path: Path) -> None:
    url = f"spool://{tmp_path / 'spool'}"
    app = celery_app(url)
    gauge = Gauge(app)
    with pytest.raises(BrokerUnavailable):
        gauge.waiting()
    with Connection(url) as connection:
        declare(connection)
    publisher = Publisher(app, Account(uuid4()))
    assert gauge.waiting() == 0
    publisher.publish(INGEST, {"documents": []}, documents=1, summary="")
    assert gauge.waiting() == 1
