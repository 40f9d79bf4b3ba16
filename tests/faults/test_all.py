"""Everything at once, twice of what there should be one of, a long night, a random mix."""

import random
import signal
import time
from typing import Any
from uuid import uuid4

import pytest

from local.rabbitmq import RabbitMQ
from tests.faults.broker import control
from tests.faults.conftest import Case
from tests.faults.site import Site, rss
from tests.faults.test_processes import more
from tests.stream import LONG_PAUSE, PAUSE_SECONDS, Stream, Text

pytestmark = pytest.mark.rabbitmq

BACKLOG = 100_000
MEGABYTE = 1 << 20


@pytest.mark.broker
@pytest.mark.fault("everything killed with -9 at once and started again")
def test_everything_is_killed(site: Site, case: Case) -> None:
    site.add_api()
    site.add_worker()
    site.add_beat()

    def kill_all(site: Site, _: Stream) -> None:
        for program in site.programs:
            site.kill_only(program)
        site.rabbitmq.kill()
        site.postgres.kill()
        site.postgres.start()
        site.rabbitmq.start()
        site.postgres.wait_ready()
        site.rabbitmq.wait_ready()

    case.run(site, kill_all)


@pytest.mark.fault("two beats")
def test_two_beats(site: Site, case: Case) -> None:
    """Both fold the ledger every second, entries of a second already, and one is killed."""
    site.add_api()
    site.add_worker("--fold-after", "1")
    site.add_worker("--fold-after", "1")
    first = site.add_beat()
    site.add_beat()

    def kill_one(site: Site, stream: Stream) -> None:
        more(site, stream, case.documents // 4)
        site.kill(first)
        site.kill(site.workers[0])
        more(site, stream, case.documents // 4)

    case.run(site, kill_one)
    assert site.query("SELECT sum(documents) > 0 FROM ledger_producers") == [(True,)]


@pytest.mark.fault("100,000 documents queued while all workers are down")
def test_a_long_night(site: Site, case: Case) -> None:
    api = site.add_api()
    worker = site.add_worker()

    def sleep_long(site: Site, stream: Stream) -> None:
        site.remove(worker)
        before = rss(api), memory(site.rabbitmq)
        while len(stream.accepted) < BACKLOG:
            number = len(stream.accepted)
            stream.send(
                [Text(str(uuid4()), f"queued by night {number} {at} " * 8) for at in range(1_000)]
            )
            site.supervise()
        after = rss(api), memory(site.rabbitmq)
        for name, then, now in zip(("API", "RabbitMQ"), before, after, strict=True):
            figures.append((now - then) / MEGABYTE)
            remarks.append(f"{name} grew by {figures[-1]:.0f} MB")
        site.add_worker().wait_ready()

    figures: list[float] = []
    remarks: list[str] = []
    # What is accepted next waits behind all that.
    case.run(site, sleep_long, remarks, seconds=240, recovery=240)
    assert figures[0] < 100
    assert figures[1] < 400


def memory(broker: RabbitMQ) -> int:
    """Return the bytes that a node says it uses."""
    (node,) = broker.api("GET", "nodes")
    return int(node["mem_used"])


@pytest.mark.fault("a random mix for ten minutes")
def test_a_random_mix(site: Site, case: Case, pytestconfig: pytest.Config) -> None:
    seed = pytestconfig.getoption("--seed") or random.SystemRandom().randrange(1, 1 << 31)
    seconds = pytestconfig.getoption("--mix-seconds")
    site.add_api()
    site.add_api()
    site.add_worker()
    site.add_worker()
    site.add_beat()
    choose = random.Random(seed)

    def mix(site: Site, stream: Stream) -> None:
        stream.pause = LONG_PAUSE
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            fault = choose.choice(FAULTS)
            fault(site, choose)
            more(site, stream, choose.randrange(1, 400))
        stream.pause = PAUSE_SECONDS

    case.run(site, mix, [f"`--seed {seed}` repeats it"], seconds=240)


def _child(site: Site, choose: random.Random) -> None:
    children = site.children(choose.choice(site.workers))
    if children:
        choose.choice(children).kill()


def _program(site: Site, choose: random.Random) -> None:
    site.kill(choose.choice(site.programs))


def _stop(site: Site, choose: random.Random) -> None:
    site.signal(choose.choice(site.workers), signal.SIGTERM)


def _broker(site: Site, choose: random.Random) -> None:
    choose.choice([site.rabbitmq.kill, site.rabbitmq.stop])()
    site.last(choose.uniform(0, 5))
    site.rabbitmq.start()
    site.rabbitmq.wait_ready()


def _alarm(site: Site, choose: random.Random) -> None:
    control(site.rabbitmq, "set_vm_memory_high_watermark", "absolute", "1")
    site.last(choose.uniform(0, 5))
    control(site.rabbitmq, "set_vm_memory_high_watermark", "0.6")


def _database(site: Site, choose: random.Random) -> None:
    choose.choice([site.postgres.kill, site.postgres.stop])()
    site.last(choose.uniform(0, 10))
    site.postgres.start()
    site.postgres.wait_ready()


def _everything(site: Site, choose: random.Random) -> None:
    for program in site.programs:
        site.kill_only(program)
    site.rabbitmq.kill()
    site.postgres.kill()
    site.postgres.start()
    site.rabbitmq.start()
    site.postgres.wait_ready()
    site.rabbitmq.wait_ready()


FAULTS: tuple[Any, ...] = (_child, _program, _stop, _broker, _alarm, _database, _everything)
