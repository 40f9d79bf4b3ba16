"""The publisher against a RabbitMQ of its own that is killed, stopped, frozen and starved."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest
from uuid_utils.compat import uuid7

from local.rabbitmq import RabbitMQ
from local.server import wait_until
from shared.account import Account
from shared.errors import BrokerUnavailable
from shared.messages import INGEST
from shared.queue import Publisher, celery_app
from tests.faults.broker import control, frozen
from tests.shared.broker import task_ids

pytestmark = [pytest.mark.rabbitmq, pytest.mark.broker, pytest.mark.quick]

THREADS = 16
LONGEST = 2.5
"""Seconds: the promise is about two, the machine may be busy."""


@pytest.fixture
def broker(own_rabbitmq: RabbitMQ) -> RabbitMQ:
    return own_rabbitmq


class Hammer:
    """Sixteen threads that publish over the publisher's four connections until told to stop."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.publisher = Publisher(celery_app(url), Account(uuid7()))
        assert wait_until(self._declared, 30)
        self.confirmed: list[str] = []
        self.refused: list[str] = []
        self.longest = self.longest_check = 0.0
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS + 1)
        self._threads = [self._pool.submit(self._publish) for _ in range(THREADS)]
        self._threads.append(self._pool.submit(self._check))

    def _declared(self) -> bool:
        try:
            self.publisher.declare()
        except BrokerUnavailable:
            return False
        return True

    def _publish(self) -> None:
        while not self._stop.wait(0.05):
            start = monotonic()
            try:
                envelope = self.publisher.publish(
                    INGEST, {"documents": ["x" * 500]}, documents=1, summary="1 document"
                )
            except BrokerUnavailable as error:
                self.refused.append(str(error))
            else:
                self.confirmed.append(envelope.task_id)
            self.longest = max(self.longest, monotonic() - start)

    def _check(self) -> None:
        """Ask what a readiness probe would ask."""
        while not self._stop.wait(0.2):
            start = monotonic()
            with contextlib.suppress(BrokerUnavailable):
                self.publisher.check()
            self.longest_check = max(self.longest_check, monotonic() - start)

    def wait_for(self, what: list[str], more: int) -> None:
        wanted = len(what) + more
        assert wait_until(lambda: len(what) >= wanted, 40), f"{len(what)} of {wanted}"

    def finish(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.result(10)
        self._pool.shutdown()
        self.publisher.close()

    def check(self) -> None:
        """Nothing confirmed is missing, and every number is confirmed or void."""
        queued = task_ids(self.url, "ingest")
        confirmed = set(self.confirmed)
        assert confirmed <= set(queued)
        mark = self.publisher.account.mark()
        producer = self.publisher.account.producer_id
        void = {f"{producer}.{seq}" for seq, _ in mark.voids}
        assert confirmed | void == {f"{producer}.{seq}" for seq in range(1, mark.seq + 1)}
        assert not confirmed & void
        assert set(queued) <= confirmed | void
        # A blocked broker takes what it refuses; the breaker keeps that to a few.
        assert len(set(queued) - confirmed) <= 60
        assert self.longest <= LONGEST
        assert self.longest_check <= LONGEST


def kill(broker: RabbitMQ, hammer: Hammer) -> None:
    broker.kill()
    hammer.wait_for(hammer.refused, 50)
    broker.start()


def stop(broker: RabbitMQ, hammer: Hammer) -> None:
    broker.stop()
    hammer.wait_for(hammer.refused, 50)
    broker.start()


def freeze(broker: RabbitMQ, hammer: Hammer) -> None:
    """Half-open: the kernel accepts everything, nobody answers."""
    with frozen(broker):
        end = monotonic() + 4
        hammer.wait_for(hammer.refused, 50)
        assert wait_until(lambda: monotonic() > end, 10)


def starve(broker: RabbitMQ, hammer: Hammer) -> None:
    """A memory alarm: every publishing connection is blocked."""
    control(broker, "set_vm_memory_high_watermark", "absolute", "1")
    hammer.wait_for(hammer.refused, 50)
    control(broker, "set_vm_memory_high_watermark", "0.6")


@pytest.mark.parametrize("fault", [stop, kill, freeze, starve])
def test_a_fault_loses_nothing_confirmed_and_hangs_nobody(
    broker: RabbitMQ, fault: Callable[[RabbitMQ, Hammer], None]
) -> None:
    hammer = Hammer(broker.url)
    try:
        hammer.wait_for(hammer.confirmed, 200)
        fault(broker, hammer)
        hammer.wait_for(hammer.confirmed, 200)  # by itself
    finally:
        hammer.finish()
    hammer.check()
