"""Whoever is killed on the spool: what was accepted is stored, and once. RabbitMQ: tests/faults."""

import pytest

from tests.end_to_end.conftest import Pipe
from tests.stack import OUTCOMES, ledger, poll, revisions, settled
from tests.stream import streaming

pytestmark = pytest.mark.parametrize("pipe", ["spool"], indirect=True)


def test_the_workers_are_killed(pipe: Pipe) -> None:
    start = ledger(pipe.client)["accepted"]
    with streaming(pipe.api.url) as stream:
        for _ in range(2):
            stream.wait(more=200)
            for worker in pipe.workers:
                worker.kill()
            stream.wait(more=200)
            pipe.start_workers()
    assert not stream.uncertain
    account = settled(pipe.client, start + len(stream.accepted), seconds=60)
    assert account["dead"] == account["failed"] == 0
    found = revisions(pipe.client)
    assert {key: found[key] for key in stream.latest()} == {
        key: promise.revision for key, promise in stream.latest().items()
    }


def test_the_api_is_killed(pipe: Pipe) -> None:
    start = ledger(pipe.client)
    with streaming(pipe.api.url) as stream:
        for _ in range(2):
            stream.wait(more=200)
            pipe.api.kill()
            pipe.api.start()
            pipe.api.wait_ready()
        stream.wait(more=200)
    assert stream.uncertain
    poll(lambda: stream.broken(revisions(pipe.client)), lambda broken: not broken, seconds=60)
    # What was on its way when the API died may have arrived, or be a gap in its numbers.
    account, uncertain = ledger(pipe.client), stream.uncertain.total()
    new = sum(account[name] - start[name] for name in OUTCOMES)
    assert len(stream.accepted) <= new <= len(stream.accepted) + uncertain
    assert account["in_flight"] <= uncertain
