"""RabbitMQ restarted, killed, starved, silent, full; messages revoked."""

import httpx2
import pytest

from shared.queue import celery_app
from tests.faults.broker import control
from tests.faults.conftest import Case
from tests.faults.site import Site
from tests.stack import Flower
from tests.stream import LONG_PAUSE, PAUSE_SECONDS, Stream

pytestmark = [pytest.mark.rabbitmq, pytest.mark.broker]

REFUSED = 40
"""Requests that a fault has to refuse, so that it is known to be one."""


@pytest.fixture
def plain(site: Site) -> Site:
    """A site of one API and one worker."""
    site.add_api()
    site.add_worker()
    return site


def says_why(site: Site) -> None:
    """See that the API's log tells an alarm from a broker that is merely slow."""
    said = "BrokerBlocked" in site.apis[0].logged()
    assert said, "the log does not say that the broker is blocked"


def refused(site: Site, stream: Stream, requests: int = REFUSED) -> None:
    """Wait until some more requests were refused."""
    aim = stream.refused + requests
    site.wait(lambda: stream.refused >= aim, 60, "refused requests")


@pytest.mark.fault("RabbitMQ restarted")
def test_the_broker_is_restarted(plain: Site, case: Case) -> None:
    def restart(site: Site, stream: Stream) -> None:
        site.rabbitmq.stop()
        refused(site, stream)
        site.rabbitmq.start()
        site.rabbitmq.wait_ready()

    case.run(plain, restart)


@pytest.mark.fault("RabbitMQ killed with -9 and started again")
def test_the_broker_is_killed(plain: Site, case: Case) -> None:
    def kill(site: Site, stream: Stream) -> None:
        site.rabbitmq.kill()
        refused(site, stream)
        site.rabbitmq.start()
        site.rabbitmq.wait_ready()

    case.run(plain, kill)


@pytest.mark.fault("RabbitMQ's memory alarm")
def test_the_broker_is_short_of_memory(plain: Site, case: Case) -> None:
    def starve(site: Site, stream: Stream) -> None:
        control(site.rabbitmq, "set_vm_memory_high_watermark", "absolute", "1")
        try:
            refused(site, stream)
            says_why(site)
        finally:
            control(site.rabbitmq, "set_vm_memory_high_watermark", "0.6")

    case.run(plain, starve)


@pytest.mark.fault("RabbitMQ's disk alarm")
def test_the_broker_is_short_of_disk(plain: Site, case: Case) -> None:
    def starve(site: Site, stream: Stream) -> None:
        control(site.rabbitmq, "set_disk_free_limit", "100000GB")
        try:
            refused(site, stream)
            says_why(site)
        finally:
            control(site.rabbitmq, "set_disk_free_limit", "50MB")

    case.run(plain, starve)


@pytest.mark.fault("connections to RabbitMQ half-open for 60 s")
def test_the_line_to_the_broker_goes_silent(site: Site, case: Case) -> None:
    # These have a line of their own: they fold what is stored before its message comes again,
    # because nobody has heard it being acknowledged.
    site.add_worker("--fold-after", "1", WORKER_QUEUES="maintain", WORKER_CONCURRENCY="1")
    site.add_beat()
    _, line = site.proxies()
    site.add_api()
    site.add_worker()

    def go_silent(site: Site, stream: Stream) -> None:
        line.silence()
        stream.pause = LONG_PAUSE
        refused(site, stream)
        site.last(60)
        stream.pause = PAUSE_SECONDS
        line.speak(forget=True)  # as a router that was restarted

    case.run(site, go_silent)


@pytest.mark.fault("connections to RabbitMQ cut, three times")
def test_the_line_to_the_broker_is_cut(site: Site, case: Case) -> None:
    _, line = site.proxies()
    site.add_api()
    site.add_worker()

    def cut(site: Site, stream: Stream) -> None:
        for _ in range(3):
            line.cut()
            aim = len(stream.accepted) + 200
            site.wait(lambda: len(stream.accepted) >= aim, 30, "more documents")  # noqa: B023

    case.run(site, cut)


@pytest.mark.fault("queue full (reject-publish)")
def test_the_queue_is_full(plain: Site, case: Case) -> None:
    # The queue's own limit is a constant of gigabytes; of that and a policy's the lower holds.
    limit = {"pattern": "^ingest$", "definition": {"max-length": 20}, "apply-to": "queues"}

    def fill(site: Site, stream: Stream) -> None:
        site.rabbitmq.api("PUT", f"policies/{site.vhost}/small", limit)
        site.remove(site.workers[0])
        refused(site, stream)
        site.add_worker().wait_ready()
        site.rabbitmq.api("DELETE", f"policies/{site.vhost}/small")

    case.run(plain, fill)


@pytest.mark.fault("backlog at its limit, and then no word from RabbitMQ for 10 s")
def test_the_backlog_is_at_its_limit(site: Site, case: Case) -> None:
    """What the API knew last is that there is too much; it has to ask again by itself."""
    _, line = site.proxies()
    site.add_api(BACKLOG_LIMIT="20")
    site.add_worker()

    def fill(site: Site, stream: Stream) -> None:
        site.remove(site.workers[0])
        refused(site, stream)
        line.silence()
        site.last(10)
        line.speak(forget=True)
        site.add_worker().wait_ready()

    case.run(site, fill)


class WritableFlower(Flower):
    """Flower as an operator could start it against our advice: its buttons work."""

    def arguments(self) -> tuple[str, ...]:
        return tuple(each for each in super().arguments() if "read_only" not in each)


@pytest.mark.quick
@pytest.mark.fault("messages revoked, from Flower and by remote control")
def test_messages_are_revoked(plain: Site, case: Case) -> None:
    def revoke(site: Site, stream: Stream) -> None:
        flower = site.add(
            WritableFlower(site.folder / "flower", site.database_url, site.broker_url)
        )
        flower.wait_ready()
        ((producer, last),) = site.query("SELECT producer_id, max(seq) FROM ledger GROUP BY 1")
        coming = [f"{producer}.{seq}" for seq in range(last + 20, last + 200)]
        app = celery_app(site.broker_url)
        app.control.revoke(coming[10:])
        app.close()
        for task_id in coming[:10]:
            url = f"{flower.url}/api/task/revoke/{task_id}"
            answer = httpx2.post(url, timeout=10, trust_env=False)
            assert answer.status_code == 200, answer.text
        log = site.workers[0].logged
        for task_id in (coming[9], coming[-1]):
            site.wait(lambda: f"{task_id}" in log(), 20, "revoked at the worker")  # noqa: B023

        def passed() -> bool:
            return bool(site.query("SELECT max(seq) > %s FROM ledger", last + 220)[0][0])

        site.wait(passed, 60, "the revoked messages")

    case.run(plain, revoke)
