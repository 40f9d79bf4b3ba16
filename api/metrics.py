"""What Prometheus is told: the account, the queues, and what this process has measured."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from api.meters import REGISTRY
from api.schemas.account import LedgerOut

MEDIA_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_OUTCOMES: Final = ("stored", "unchanged", "superseded", "refused", "failed", "dead")


@dataclass(frozen=True, slots=True)
class State:
    """What is told.

    Attributes:
        account: None while the database does not answer: old figures would look like new ones.
        backlog: messages that waited when the broker was last asked.
        backlog_limit: how many may.
        broker_confirms: whether the last message that was published was confirmed.
        waiting: messages that wait in each queue, of those that the broker could be asked about.
    """

    account: LedgerOut | None
    backlog: int
    backlog_limit: int
    broker_confirms: bool
    waiting: Mapping[str, int]


def render(state: State) -> bytes:
    """Return the metrics in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told(state))
    return generate_latest(registry) + generate_latest(REGISTRY)


class _Told(Collector):
    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        yield from _of_process(self._state)
        if self._state.account is not None:
            yield from _of_account(self._state.account)


def _of_process(state: State) -> Iterator[Metric]:
    up = state.account is not None
    yield _gauge("database_up", "whether the database answers", up)
    yield _gauge("broker_confirms", "whether the last publish was confirmed", state.broker_confirms)
    yield _gauge("backlog_messages", "messages that wait in the queue ingest", state.backlog)
    yield _gauge("backlog_limit_messages", "over it nothing is accepted", state.backlog_limit)
    queues = GaugeMetricFamily(
        "postroom_queue_messages", "messages that no worker has taken", labels=["queue"]
    )
    for queue, messages in state.waiting.items():
        queues.add_metric([queue], messages)
    yield queues


def _of_account(account: LedgerOut) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "postroom_accepted_documents", "documents that were promised to be kept", account.accepted
    )
    processed = GaugeMetricFamily(
        "postroom_processed_documents", "what became of accepted documents", labels=["outcome"]
    )
    for outcome in _OUTCOMES:
        processed.add_metric([outcome], getattr(account, outcome))
    yield processed
    yield _gauge("in_flight_documents", "accepted, not accounted for yet", account.in_flight)
    lost, unsure = account.unaccounted.documents, account.may_have_promised.documents
    yield _gauge("unaccounted_documents", "of those in flight: lost", lost)
    yield _gauge("unaccounted_messages", "messages that are lost", account.unaccounted.messages)
    text = "of those in flight: perhaps accepted by a process just before it was killed"
    yield _gauge("may_have_promised_documents", text, unsure)
    yield _gauge("void_documents", "publishing failed, nobody was promised them", account.void)
    yield _gauge(
        "dead_letters", "messages and documents that wait for a person", account.dead_letters
    )
    if account.checked_at is not None:
        text = "when it was last certain what is lost"
        yield _gauge("ledger_checked_timestamp_seconds", text, account.checked_at.timestamp())


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"postroom_{name}", text, float(value))
