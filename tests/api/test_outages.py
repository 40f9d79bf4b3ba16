"""The API without the broker or the database: it says so in time, and recovers by itself."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psutil
import pytest

from local.install import advice
from local.ports import free_ports
from local.postgres import DATABASE, Postgres
from local.rabbitmq import Ports, RabbitMQ, find_rabbitmq
from local.server import Server, family
from tests.conftest import migrate
from tests.stack import Api, answers, ledger, poll, running

pytestmark = pytest.mark.rabbitmq

DOCUMENTS = "/v1/documents"

# The promises are 2 and 5 seconds; the rest is for machines that are busy.
BROKER_SECONDS = 2 + 2
DATABASE_SECONDS = 5 + 2


def post(client: httpx2.Client) -> httpx2.Response:
    return client.post(DOCUMENTS, json={"content": "fine"})


def check_refused(response: httpx2.Response, seconds: float) -> None:
    assert response.status_code == 503, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Retry-After"] == "1"
    assert response.elapsed.total_seconds() < seconds


def readiness(client: httpx2.Client) -> dict[str, Any]:
    """Return what `/readyz` says, once its status is seen to agree."""
    response = client.get("/readyz")
    state: dict[str, Any] = response.json()
    fine = state["broker"] == state["database"] == "ok"
    assert response.status_code == (200 if fine else 503)
    assert state["status"] == ("ok" if fine else "unavailable")
    return state


class Sender:
    """Sends single documents and remembers how many were accepted."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client
        self.accepted = 0

    def until_accepted(self) -> None:
        """Send until a document is accepted, as a client that heeds `Retry-After` would."""
        poll(lambda: post(self.client).status_code, lambda status: status == 202, seconds=30)
        self.accepted += 1

    def at_once(self, count: int) -> None:
        """Send documents at once; each must be refused in time."""
        with ThreadPoolExecutor(count) as threads:
            for response in threads.map(lambda _: post(self.client), range(count)):
                check_refused(response, BROKER_SECONDS)


def need_rabbitmq() -> None:
    if not find_rabbitmq():
        pytest.skip(f"there is no RabbitMQ; to get it: {advice('rabbitmq')}")


def suspend(server: Server) -> list[psutil.Process]:
    members = [member for pid in server.pids() for member in family(pid)]
    for member in members:
        member.suspend()
    return members


def resume(members: list[psutil.Process]) -> None:
    for member in members:
        member.resume()


def test_without_the_broker(database_url: str, tmp_path: Path, processes: ExitStack) -> None:
    need_rabbitmq()
    (tmp_path / "rabbitmq").mkdir()
    rabbitmq = RabbitMQ(tmp_path / "rabbitmq", Ports(*free_ports(4)))
    api = Api(tmp_path / "api", database_url, rabbitmq.url)
    running(processes, api)
    client = processes.enter_context(api.client())
    sender = Sender(client)
    broker_is_away(sender)
    running(processes, rabbitmq)
    sender.until_accepted()

    rabbitmq.stop()
    broker_is_away(sender)
    rabbitmq.start()
    sender.until_accepted()

    rabbitmq.kill()
    broker_is_away(sender)
    rabbitmq.start()
    sender.until_accepted()

    members = suspend(rabbitmq)
    try:
        broker_is_away(sender)
    finally:
        resume(members)
    sender.until_accepted()

    # Refused documents count as void, or as accepted where they arrived after all: as those do
    # that a hanging broker took. No worker runs, so all that was accepted is still in flight.
    account = poll(
        lambda: ledger(client), lambda account: account["accepted"] >= sender.accepted, seconds=10
    )
    assert account["in_flight"] == account["accepted"]
    assert account["void"] >= 16


def broker_is_away(sender: Sender) -> None:
    client = sender.client
    check_refused(post(client), BROKER_SECONDS)
    sender.at_once(16)
    batch = client.post(f"{DOCUMENTS}/batch", json=[{"content": "fine"}])
    check_refused(batch, BROKER_SECONDS)
    check_refused(client.put(f"{DOCUMENTS}/{uuid4()}", json={"content": "a"}), BROKER_SECONDS)
    state = readiness(client)
    assert state["broker"] != "ok"
    assert state["database"] == "ok"
    assert client.get("/livez").status_code == client.get("/health").status_code == 200
    assert client.get(DOCUMENTS).status_code == 200


def test_without_the_database(broker_url: str, tmp_path: Path, processes: ExitStack) -> None:
    postgres = Postgres(tmp_path / "postgres", free_ports(1)[0])
    postgres.prepare()
    api = Api(tmp_path / "api", postgres.url, broker_url)
    running(processes, api)
    client = processes.enter_context(api.client())
    sender = Sender(client)
    poll(lambda: readiness(client)["broker"], lambda broker: broker == "ok", seconds=15)
    database_is_away(sender)
    running(processes, postgres)
    migrate(postgres.create_database(DATABASE))
    database_is_back(sender)

    postgres.stop()
    database_is_away(sender)
    postgres.start()
    database_is_back(sender)

    postgres.kill()
    database_is_away(sender)
    postgres.start()
    database_is_back(sender)

    members = suspend(postgres)
    try:
        database_is_away(sender)
    finally:
        resume(members)
    database_is_back(sender)


def database_is_away(sender: Sender) -> None:
    client = sender.client
    # Nothing that is accepted needs the database.
    assert post(client).status_code == 202
    sender.accepted += 1
    calls = [
        ("GET", DOCUMENTS),
        ("GET", f"{DOCUMENTS}/{uuid4()}"),
        ("DELETE", f"{DOCUMENTS}/{uuid4()}"),
        ("GET", "/v1/categories"),
        ("GET", "/v1/ledger"),
    ]
    with ThreadPoolExecutor(len(calls)) as threads:
        for response in threads.map(lambda call: client.request(*call), calls):
            check_refused(response, DATABASE_SECONDS)
    state = readiness(client)
    assert state["database"] != "ok"
    assert state["broker"] == "ok"
    assert client.get("/livez").status_code == client.get("/health").status_code == 200


def database_is_back(sender: Sender) -> None:
    client = sender.client
    poll(lambda: readiness(client)["status"], lambda status: status == "ok", seconds=30)
    assert client.get(DOCUMENTS).status_code == 200
    # What was accepted meanwhile is known as soon as the next mark is written.
    poll(lambda: ledger(client)["accepted"], lambda sum_: sum_ == sender.accepted, seconds=10)


def test_starts_before_the_migrations(
    empty_database_url: str, broker_url: str, tmp_path: Path, processes: ExitStack
) -> None:
    api = Api(tmp_path / "api", empty_database_url, broker_url)
    running(processes, api)
    client = processes.enter_context(api.client())
    state = poll(lambda: readiness(client), lambda state: state["broker"] == "ok", seconds=15)
    assert "alembic upgrade head" in state["database"]
    assert post(client).status_code == 202
    check_refused(client.get(DOCUMENTS), DATABASE_SECONDS)
    migrate(empty_database_url)
    assert readiness(client)["status"] == "ok"
    poll(lambda: ledger(client)["accepted"], lambda accepted: accepted == 1, seconds=10)


def test_stops_with_all_that_it_promised(
    database_url: str, broker_url: str, tmp_path: Path, processes: ExitStack
) -> None:
    """On SIGTERM the requests under way are answered, and the last mark is written."""
    api = Api(tmp_path / "api", database_url, broker_url)
    running(processes, api)
    client = processes.enter_context(api.client())
    poll(lambda: readiness(client)["status"], lambda status: status == "ok", seconds=15)

    def send(_: int) -> int:
        try:
            return post(client).status_code
        except httpx2.TransportError:
            return 0

    with ThreadPoolExecutor(8) as threads:
        sent = [threads.submit(send, number) for number in range(400)]
        poll(lambda: sum(each.done() for each in sent), lambda done: done > 50, seconds=30)
        api.stop()
        accepted = [each.result() for each in sent].count(202)
    assert not answers(f"{api.url}/livez")
    assert accepted >= 50
    api.start()
    api.wait_ready()
    account = poll(lambda: ledger(client), lambda each: each["accepted"] >= accepted, seconds=5)
    assert account["accepted"] == accepted


@pytest.mark.parametrize("wrong", [{"API_PORT": "0"}, {"BROKER_URL": "redis://localhost"}])
def test_a_wrong_setting_ends_it_at_once_with_one_line(
    tmp_path: Path, processes: ExitStack, wrong: dict[str, str]
) -> None:
    api = Api(tmp_path, "postgresql://localhost/none", "amqp://localhost")
    api.env.update(wrong)
    processes.callback(api.kill)
    api.start()
    poll(api.logged, lambda text: text.endswith("\n"), seconds=15)
    (line,) = api.logged().splitlines()
    assert line.startswith(f"postroom: wrong settings: {next(iter(wrong))}: ")
