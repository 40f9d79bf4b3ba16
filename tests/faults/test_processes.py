"""Processes that are killed, told to stop, out of memory, out of time."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.deadly import HANG
from tests.faults.batches import batch, happened
from tests.faults.conftest import Case
from tests.faults.site import Site
from tests.stream import Stream

pytestmark = pytest.mark.rabbitmq


def begin(site: Site, *options: str, **env: str) -> None:
    site.add_api()
    site.add_worker(*options, **env)


def more(site: Site, stream: Stream, documents: int = 100) -> None:
    """Wait until some more documents were accepted."""
    aim = len(stream.accepted) + documents
    site.wait(lambda: len(stream.accepted) >= aim, 60, "more documents accepted")


def at_work(site: Site, stream: Stream, harm: Path) -> None:
    """Let a child have a message, of 25 documents, that it never ends; who comes next will."""
    texts, _ = batch(f"{HANG}-1-times")
    stream.send(texts)
    happened(site, harm, HANG)


@pytest.mark.quick
@pytest.mark.broker
@pytest.mark.fault("kill -9 of a prefork child, three times")
def test_a_child_is_killed(site: Site, case: Case, harm: Path) -> None:
    begin(site, "--deadly", str(harm))

    def kill_child(site: Site, stream: Stream) -> None:
        at_work(site, stream, harm)
        for child in site.children(site.workers[0]):
            child.kill()
        more(site, stream, case.documents // 20)
        for _ in range(2):
            site.wait(lambda: site.children(site.workers[0]), 30, "a child")[0].kill()
            more(site, stream, case.documents // 20)

    case.run(site, kill_child)


@pytest.mark.quick
@pytest.mark.broker
@pytest.mark.fault("kill -9 of the worker, twice")
def test_the_worker_is_killed(site: Site, case: Case, harm: Path) -> None:
    begin(site, "--deadly", str(harm))

    def kill_worker(site: Site, stream: Stream) -> None:
        at_work(site, stream, harm)
        for _ in range(2):
            site.kill(site.workers[0])
            more(site, stream)
            site.wait(site.workers[0].ready, 30, "the worker again")

    case.run(site, kill_worker)


def test_what_a_worker_loses_is_named(site: Site, harm: Path) -> None:
    """One that acknowledges too early, as Celery's default does: the ledger says what it lost."""
    begin(site, "--deadly", str(harm), "--without", "acks_late")
    site.wait_ready()
    stream = Stream(site.background, [site.apis[0].url], seed=1, key=site.key)
    more(site, stream)
    at_work(site, stream, harm)
    site.kill(site.workers[0])
    more(site, stream)
    stream.until(0)
    site.wait(stream.ended, 30, "the end of the stream")

    def named() -> dict[str, Any] | None:
        account = site.ledger()
        return account if account and account["unaccounted"]["messages"] else None

    account = site.wait(named, 90, "what is lost")
    lost = account["unaccounted"]
    assert account["obstacle"] is None
    assert lost["documents"] == account["in_flight"] >= 25
    (gap,) = lost["producers"]
    missing = site.query("""
        SELECT producer_id::text, array_agg(number) FROM (
            SELECT producer_id, generate_series(1, seq) AS number FROM producers
            EXCEPT SELECT producer_id, seq FROM ledger) AS each
        GROUP BY producer_id""")
    numbers = [number for first, last in gap["numbers"] for number in range(first, last + 1)]
    assert [(gap["producer_id"], numbers)] == [(key, sorted(all_)) for key, all_ in missing]


@pytest.mark.fault("SIGTERM of the worker")
def test_the_worker_is_told_to_stop(site: Site, case: Case) -> None:
    begin(site)

    def stop_worker(site: Site, _: Stream) -> None:
        site.signal(site.workers[0], signal.SIGTERM)
        site.wait(site.workers[0]._ended, 20, "the worker's end")

    case.run(site, stop_worker)


@pytest.mark.fault("SIGTERM of the worker, twice")
def test_the_worker_is_told_to_stop_twice(site: Site, case: Case) -> None:
    begin(site)

    def stop_twice(site: Site, _: Stream) -> None:
        worker = site.workers[0]
        site.signal(worker, signal.SIGTERM)
        site.wait(lambda: "arm shutdown" in worker.logged() or worker._ended(), 20, "warm shutdown")
        if not worker._ended():
            site.signal(worker, signal.SIGTERM)
        site.wait(worker._ended, 20, "the worker's end")

    case.run(site, stop_twice)


@pytest.mark.quick
@pytest.mark.broker
@pytest.mark.fault("kill -9 of the API with requests open, twice")
def test_the_api_is_killed(site: Site, case: Case) -> None:
    begin(site)

    def kill_api(site: Site, stream: Stream) -> None:
        for _ in range(2):
            site.kill(site.apis[0])
            more(site, stream)

    case.run(site, kill_api)


@pytest.mark.fault("kill -9 of the API: a minute later nothing is called lost")
def test_what_a_dead_api_had_promised(site: Site, case: Case) -> None:
    """With its last mark a minute old: what is missing it may have promised, or not."""
    begin(site)
    case.run(site, lambda site, _: site.kill(site.apis[0]))

    def told_apart() -> bool:
        account = site.ledger()
        if account is None or account["obstacle"]:
            return False
        assert account["unaccounted"]["documents"] == 0, account
        return bool(account["in_flight"] == account["may_have_promised"]["documents"])

    site.last(65)
    site.wait(told_apart, 30, "the account of a dead producer")
