"""A thousand requests while the broker is down, and requests while it is blocked or hangs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import psutil
import pytest

from local.rabbitmq import RabbitMQ
from tests.api.test_outages import resume, suspend
from tests.faults.broker import control
from tests.stack import Api, ledger, poll, running

pytestmark = pytest.mark.rabbitmq

DOCUMENTS = "/v1/documents"
CLIENTS = 25
SECONDS = 2.5
"""The promise is two; the rest is for machines that are busy."""

Fault = Callable[[RabbitMQ, ExitStack], None]


def stopped(broker: RabbitMQ, stack: ExitStack) -> None:
    broker.stop()
    stack.callback(broker.wait_ready)
    stack.callback(broker.start)


def killed(broker: RabbitMQ, stack: ExitStack) -> None:
    broker.kill()
    stack.callback(broker.wait_ready)
    stack.callback(broker.start)


def half_open(broker: RabbitMQ, stack: ExitStack) -> None:
    stack.callback(resume, suspend(broker))


def out_of_memory(broker: RabbitMQ, stack: ExitStack) -> None:
    stack.callback(control, broker, "set_vm_memory_high_watermark", "0.6")
    control(broker, "set_vm_memory_high_watermark", "absolute", "1")


class Crowd:
    """Clients that send documents of some KB, all at once, and look at each answer."""

    def __init__(self, api: Api, client: httpx2.Client) -> None:
        self.api = api
        self.client = client
        self.longest = 0.0

    def send(self, count: int) -> list[httpx2.Response]:
        body = {"content": "x" * 4_000}
        with ThreadPoolExecutor(CLIENTS) as threads:
            return list(threads.map(lambda _: self.client.post(DOCUMENTS, json=body), range(count)))

    def refused(self, count: int) -> None:
        for response in self.send(count):
            assert response.status_code == 503, response.text
            assert response.headers["Retry-After"] == "1"
            assert response.headers["Content-Type"] == "application/problem+json"
            self.longest = max(self.longest, response.elapsed.total_seconds())
        assert self.longest < SECONDS

    def memory(self) -> int:
        (pid,) = self.api.pids()
        return int(psutil.Process(pid).memory_info().rss)


def test_refusals_are_quick_and_cost_no_memory(
    own_rabbitmq: RabbitMQ,
    own_broker_url: str,
    database_url: str,
    tmp_path: Path,
    processes: ExitStack,
) -> None:
    api = Api(tmp_path / "api", database_url, own_broker_url)
    running(processes, api)
    client = processes.enter_context(api.client())
    crowd = Crowd(api, client)
    poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, seconds=15)
    accepted = [each.status_code for each in crowd.send(200)].count(202)
    assert accepted == 200

    with ExitStack() as fault:
        stopped(own_rabbitmq, fault)
        crowd.refused(200)  # what is made once is made by now
        before = crowd.memory()
        crowd.refused(1_000)
        assert crowd.memory() - before < 4 << 20
    print(f"longest refusal {crowd.longest:.2f} s")  # noqa: T201 - pytest shows it with -rP
    poll(lambda: client.post(DOCUMENTS, json={"content": "x"}).status_code, is_accepted, 15)

    for inject in (killed, half_open, out_of_memory):
        with ExitStack() as fault:
            inject(own_rabbitmq, fault)
            # A blocked broker says so after the first message only, which it takes.
            poll(lambda: crowd.send(1)[0].status_code, lambda status: status == 503, seconds=10)
            crowd.refused(100)
            assert client.get("/readyz").json()["database"] == "ok"
        poll(lambda: client.post(DOCUMENTS, json={"content": "x"}).status_code, is_accepted, 15)
    account = poll(lambda: ledger(client), lambda found: found["accepted"] >= accepted, seconds=5)
    assert account["accepted"] == account["in_flight"]
    # Said once as the broker goes and once as it comes, and not a line a second.
    assert api.logged().count("background work fails") <= 2 * 4


def is_accepted(status: int) -> bool:
    return status == 202
