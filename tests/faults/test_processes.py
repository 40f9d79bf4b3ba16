"""Processes that are killed, told to stop, out of memory, out of time."""

import signal

import pytest

from tests.faults.conftest import Case
from tests.faults.site import Site
from tests.faults.stream import Stream

pytestmark = pytest.mark.rabbitmq


def begin(site: Site, *options: str, **env: str) -> None:
    site.add_api()
    site.add_worker(*options, **env)


def more(site: Site, stream: Stream, documents: int = 100) -> None:
    """Wait until some more documents were accepted."""
    aim = len(stream.accepted) + documents
    site.wait(lambda: len(stream.accepted) >= aim, 60, "more documents accepted")


@pytest.mark.quick
@pytest.mark.broker
@pytest.mark.fault("kill -9 of a prefork child, three times")
def test_a_child_is_killed(site: Site, case: Case) -> None:
    begin(site)

    def kill_child(site: Site, stream: Stream) -> None:
        for _ in range(3):
            site.wait(lambda: site.children(site.workers[0]), 30, "a child")[0].kill()
            more(site, stream, case.documents // 20)

    case.run(site, kill_child)


@pytest.mark.quick
@pytest.mark.broker
@pytest.mark.fault("kill -9 of the worker, twice")
def test_the_worker_is_killed(site: Site, case: Case) -> None:
    begin(site)

    def kill_worker(site: Site, stream: Stream) -> None:
        for _ in range(2):
            site.kill(site.workers[0])
            more(site, stream)
            site.wait(site.workers[0].ready, 30, "the worker again")

    case.run(site, kill_worker)


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
