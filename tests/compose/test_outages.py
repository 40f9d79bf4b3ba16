"""Whatever is killed, restarted or made anew while documents stream in: none is lost."""

import json
from typing import Any

import httpx2

from tests.compose.project import Project
from tests.stack import ledger, poll, revisions
from tests.stream import streaming


def restarts(stack: Project) -> int:
    return sum(each["RestartCount"] for each in stack.containers("worker"))


def kill_main_process(stack: Project) -> None:
    """Kill a worker as the kernel would for want of memory: it is not stopped, it ends."""
    before = restarts(stack)
    stack.execute("worker", "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")
    poll(lambda: restarts(stack), lambda count: count > before, seconds=30)


def asked(stack: Project) -> set[str]:
    """Return the addresses of the API's containers that nginx has asked."""
    lines = stack.compose("logs", "--no-log-prefix", "--no-color", "nginx").splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return {
        address.strip().rpartition(":")[0]
        for entry in entries
        for address in entry["upstream"].split(",")
    }


def addresses(containers: list[dict[str, Any]]) -> set[str]:
    return {
        network["IPAddress"]
        for container in containers
        for name, network in container["NetworkSettings"]["Networks"].items()
        if name.endswith("_edge")
    }


def test_nothing_accepted_is_lost_whatever_fails(stack: Project, client: httpx2.Client) -> None:
    start = processed(client)
    with streaming(stack.url, key=stack.key) as stream:
        stream.wait(more=200)
        stack.up("--scale=worker=3")
        assert len(stack.containers("worker")) == 3
        kill_main_process(stack)
        stream.wait(more=200)
        stack.compose("restart", "rabbitmq")
        stream.wait(more=200)
        stack.compose("restart", "db")
        stream.wait(more=200)
        stack.up("--force-recreate", "--no-deps", "api")
        stream.wait(more=200)
    assert not stream.unexpected

    # What was accepted in the last second is in no mark yet, and what had no answer may still
    # arrive: so both are asked until they agree.
    def even(account: dict[str, int]) -> bool:
        return account["in_flight"] == 0 and not stream.broken(revisions(client))

    account = poll(lambda: ledger(client), even, seconds=60)
    assert account["dead"] == account["failed"] == 0
    new = processed(client) - start
    assert len(stream.accepted) <= new <= len(stream.accepted) + stream.uncertain.total()


def processed(client: httpx2.Client) -> int:
    """Return how many documents the account knows the outcome of."""
    account = ledger(client)
    return account["accepted"] - account["in_flight"]


def test_two_apis_share_the_work(stack: Project) -> None:
    with streaming(stack.url, key=stack.key) as stream:
        stack.up("--scale=api=2")
        both = addresses(stack.containers("api"))
        assert len(both) == 2
        poll(lambda: asked(stack), lambda found: both <= found, seconds=30)
        stream.wait(more=200)
    assert not stream.unexpected
    with stack.client() as client:
        poll(lambda: stream.broken(revisions(client)), lambda broken: not broken, seconds=30)
