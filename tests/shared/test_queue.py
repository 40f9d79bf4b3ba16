from collections.abc import Iterator

import orjson
import pytest
from kombu import Connection, Queue
from uuid_utils.compat import uuid7

from local.ports import free_ports
from local.rabbitmq import RabbitMQ
from shared import queue
from shared.account import Account
from shared.errors import BrokerUnavailable
from shared.messages import DELIVERY_LIMIT, FOLD_LEDGER, INGEST, Message
from shared.queue import QUEUES, Publisher, celery_app, declare
from tests.shared.broker import depth, take_all, task_ids

pytestmark = pytest.mark.rabbitmq


def publish(publisher: Publisher, message: Message = INGEST, documents: int = 2) -> str:
    payload = {"documents": [{"id": "one"}, {"id": "two"}]}
    return publisher.publish(
        message, payload, documents=documents, summary="2 documents one, …"
    ).task_id


@pytest.fixture
def publisher(broker_url: str) -> Iterator[Publisher]:
    publisher = Publisher(celery_app(broker_url), Account(uuid7()))
    yield publisher
    publisher.close()


def test_a_published_message_is_in_its_queue_with_all_that_its_reader_needs(
    broker_url: str, publisher: Publisher
) -> None:
    publisher.declare()
    envelope = publisher.publish(
        INGEST, {"documents": [{"id": "one"}]}, documents=1, summary="1 document one"
    )
    (message,) = take_all(broker_url, "ingest")
    headers = message.headers
    assert headers["task"] == "documents.ingest"
    assert headers["id"] == envelope.task_id == f"{publisher.account.producer_id}.1"
    assert envelope.headers().items() <= headers.items()
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("1 document one", "")
    assert headers["ignore_result"] is True
    assert headers["eta"] is headers["expires"] is None
    assert message.content_type == "application/json"
    assert message.properties["delivery_mode"] == 2
    body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
    assert orjson.loads(body)[:2] == [[], {"documents": [{"id": "one"}]}]
    assert publisher.account.mark().voids == ()


def test_messages_are_numbered_and_count_their_documents(
    broker_url: str, publisher: Publisher
) -> None:
    publisher.declare()
    ids = [publish(publisher, documents=number) for number in (2, 3)]
    messages = list(take_all(broker_url, "ingest"))
    assert [message.headers["id"] for message in messages] == ids
    assert [message.headers["seq"] for message in messages] == [1, 2]
    assert [message.headers["documents"] for message in messages] == [2, 3]
    assert [message.headers["through"] for message in messages] == [2, 5]


def test_each_message_goes_to_its_own_queue(broker_url: str, publisher: Publisher) -> None:
    publisher.declare()
    publish(publisher, FOLD_LEDGER)
    assert {name: depth(broker_url, name) for name in QUEUES} == {
        "ingest": 0,
        "bulk": 0,
        "classify": 0,
        "maintain": 1,
        "dead": 0,
    }


def test_declaring_again_and_from_elsewhere_agrees(broker_url: str, publisher: Publisher) -> None:
    publisher.declare()
    publisher.declare()
    other = celery_app(broker_url)
    with other.connection_for_write() as connection:
        declare(connection)
    assert publisher.declared
    publisher.check()


def test_a_queue_with_other_arguments_is_said_and_not_worked_around(
    broker_url: str, publisher: Publisher
) -> None:
    with Connection(broker_url) as connection, connection.channel() as channel:
        Queue("ingest", durable=True)(channel).queue_declare()
    with pytest.raises(BrokerUnavailable, match="PRECONDITION_FAILED"):
        publisher.declare()
    assert not publisher.declared


def test_the_queue_for_ticks_of_an_earlier_version_is_made_anew(broker_url: str) -> None:
    with Connection(broker_url) as connection:
        with connection.channel() as channel:
            classic = {"x-message-ttl": 60_000}
            Queue("maintain", durable=True, queue_arguments=classic)(channel).queue_declare()
        declare(connection)
        declare(connection)
    assert depth(broker_url, "maintain") == 0


def test_the_documents_queue_keeps_what_it_promises(
    rabbitmq: RabbitMQ, broker_url: str, publisher: Publisher
) -> None:
    publisher.declare()
    vhost = broker_url.rpartition("/")[2]
    made = rabbitmq.api("GET", f"queues/{vhost}/ingest")
    assert made["type"] == "quorum"
    assert made["durable"]
    assert made["arguments"]["x-delivery-limit"] == DELIVERY_LIMIT
    assert made["arguments"]["x-overflow"] == "reject-publish"
    assert made["arguments"]["x-dead-letter-routing-key"] == "dead"
    assert made["arguments"]["x-dead-letter-strategy"] == "at-least-once"
    names = {each["name"] for each in rabbitmq.api("GET", f"queues/{vhost}")}
    assert names == set(QUEUES)


def test_a_message_without_a_queue_is_refused_and_its_number_void(
    broker_url: str, publisher: Publisher
) -> None:
    with pytest.raises(BrokerUnavailable, match="NO_ROUTE"):
        publish(publisher)
    assert publisher.account.mark().voids == ((1, 2),)
    with pytest.raises(BrokerUnavailable):
        publisher.check()
    publisher.declare()
    publisher.check()
    assert publish(publisher).endswith(".2")
    assert depth(broker_url, "ingest") == 1


def test_a_publish_that_was_refused_asks_for_the_queues_to_be_declared_again(
    publisher: Publisher,
) -> None:
    publisher.declared = True
    with pytest.raises(BrokerUnavailable):
        publish(publisher)
    assert not publisher.declared


def test_a_full_queue_refuses_and_keeps_what_it_confirmed(
    rabbitmq: RabbitMQ, broker_url: str, publisher: Publisher
) -> None:
    vhost = broker_url.rpartition("/")[2]
    limit = {"pattern": "^ingest$", "definition": {"max-length": 3}, "apply-to": "queues"}
    rabbitmq.api("PUT", f"policies/{vhost}/full", limit)
    publisher.declare()
    confirmed: list[str] = []
    with pytest.raises(BrokerUnavailable):
        # A quorum queue's limit is soft by a few messages.
        confirmed.extend(publish(publisher) for _ in range(50))
    voids = {seq for seq, _ in publisher.account.mark().voids}
    assert voids == {len(confirmed) + 1}
    assert set(confirmed) <= set(task_ids(broker_url, "ingest"))
    assert len(confirmed) >= 3
    publish(publisher)  # there is room again


def test_a_broker_that_is_not_there_is_unavailable(unused_url: str) -> None:
    publisher = Publisher(celery_app(unused_url), Account(uuid7()))
    for call in (publisher.declare, publisher.check, lambda: publish(publisher)):
        with pytest.raises(BrokerUnavailable):
            call()
    assert publisher.account.mark().voids == ((1, 2),)
    publisher.close()


class Enough(Exception):
    """Ends what would try for ever."""


def test_who_waits_for_a_broker_tries_again_every_few_seconds(
    unused_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers, beat and Flower, which name no pauses."""
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _: None)
    pauses: list[float] = []

    def note(_: Exception, pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 8:
            raise Enough

    with celery_app(unused_url).connection_for_read() as connection, pytest.raises(Enough):
        connection.ensure_connection(note)
    assert pauses == [1, 2, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_password_is_unavailable_and_not_told(rabbitmq: RabbitMQ, password: str) -> None:
    url = rabbitmq.url.replace(rabbitmq.password, password)
    publisher = Publisher(celery_app(url), Account(uuid7()))
    with pytest.raises(BrokerUnavailable) as refused:
        publish(publisher)
    assert "ACCESS_REFUSED" in str(refused.value)
    publisher.close()


@pytest.fixture
def unused_url() -> str:
    return f"amqp://nobody:nothing@127.0.0.1:{free_ports(1)[0]}//"


def test_a_payload_that_is_no_json_is_an_error_of_ours_and_void(
    broker_url: str, publisher: Publisher
) -> None:
    publisher.declare()
    with pytest.raises(Exception, match="not JSON serializable"):
        publisher.publish(INGEST, {"documents": object()}, documents=1, summary="")
    assert publisher.account.mark().voids == ((1, 1),)
    assert depth(broker_url, "ingest") == 0
    publish(publisher)


# --- The breaker, with a clock of ours -----------------------------------------------------------


class Fault(Exception):
    pass


class FakeClock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(queue, "monotonic", clock)
    return clock


def attempt(breaker: queue._Breaker, *, fault: bool = False, slow: bool = False) -> None:
    with breaker.attempt() as current:
        current.failed = slow
        if fault:
            raise Fault


def test_the_breaker_refuses_for_a_second_after_a_slow_failure(clock: FakeClock) -> None:
    breaker = queue._Breaker()
    with pytest.raises(Fault):
        attempt(breaker, fault=True, slow=True)
    clock.now += 0.99
    with pytest.raises(BrokerUnavailable):
        attempt(breaker)
    clock.now += 0.02
    attempt(breaker)
    attempt(breaker)


def test_a_quick_failure_leaves_the_breaker_closed(clock: FakeClock) -> None:
    breaker = queue._Breaker()
    for _ in range(3):
        with pytest.raises(Fault):
            attempt(breaker, fault=True)
    attempt(breaker)


def test_one_probe_goes_through_while_the_others_are_refused(clock: FakeClock) -> None:
    breaker = queue._Breaker()
    with pytest.raises(Fault):
        attempt(breaker, fault=True, slow=True)
    clock.now += 1.01
    with breaker.attempt(), pytest.raises(BrokerUnavailable):
        attempt(breaker)
    attempt(breaker)


def test_a_probe_that_fails_however_quickly_keeps_the_breaker_open(clock: FakeClock) -> None:
    breaker = queue._Breaker()
    with pytest.raises(Fault):
        attempt(breaker, fault=True, slow=True)
    for _ in range(3):
        clock.now += 1.01
        with pytest.raises(Fault):
            attempt(breaker, fault=True)
        with pytest.raises(BrokerUnavailable):
            attempt(breaker)


def test_a_probe_that_never_ends_blocks_the_others_for_two_seconds_only(clock: FakeClock) -> None:
    breaker = queue._Breaker()
    with pytest.raises(Fault):
        attempt(breaker, fault=True, slow=True)
    clock.now += 1.01
    with breaker.attempt():
        clock.now += 2.01
        attempt(breaker)
