"""RabbitMQ is started, stopped and killed, on ports and a folder of its own."""

from typing import Any

import psutil
import pytest

from local.ports import is_open
from local.rabbitmq import RabbitMQ
from local.server import alive, family, wait_until

pytestmark = pytest.mark.rabbitmq
QUORUM = {"durable": True, "arguments": {"x-queue-type": "quorum"}}


def publish(server: RabbitMQ, queue: str, text: str) -> Any:
    message = {"properties": {"delivery_mode": 2}, "routing_key": queue, "payload": text}
    body = {**message, "payload_encoding": "string"}
    return server.api("POST", "exchanges/%2F/amq.default/publish", body)


def content(server: RabbitMQ, queue: str) -> list[str]:
    body = {"count": 10, "ackmode": "ack_requeue_true", "encoding": "auto"}
    return [found["payload"] for found in server.api("POST", f"queues/%2F/{queue}/get", body)]


def restart(server: RabbitMQ, end: str) -> None:
    getattr(server, end)()
    server.start()
    server.wait_ready()


def test_durable_queues_outlive_stop_and_kill(own_rabbitmq: RabbitMQ) -> None:
    own_rabbitmq.api("PUT", "queues/%2F/kept", QUORUM)
    # In this order: a quorum queue killed within a tenth of a second of its first declaration
    # stays without a leader (seen with 3.10.8).
    restart(own_rabbitmq, "stop")
    assert wait_until(lambda: publish(own_rabbitmq, "kept", "first") == {"routed": True}, 30)
    restart(own_rabbitmq, "kill")
    publish(own_rabbitmq, "kept", "second")
    assert wait_until(lambda: content(own_rabbitmq, "kept") == ["first", "second"], 30)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_no_process_stays(own_rabbitmq: RabbitMQ, end: str) -> None:
    before = [member for pid in own_rabbitmq.pids() for member in family(pid)]
    assert {"epmd", "beam.smp"} <= {process.name() for process in before}
    getattr(own_rabbitmq, end)()
    assert not [process for process in before if alive(process)]
    assert not is_open(own_rabbitmq.ports.epmd)


def test_it_listens_on_loopback_only(own_rabbitmq: RabbitMQ) -> None:
    processes = [member for pid in own_rabbitmq.pids() for member in family(pid)]
    addresses = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses <= {"127.0.0.1", "::1"}
    assert "127.0.0.1" in addresses


def test_it_takes_nothing_from_the_environment(
    own_rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RABBITMQ_NODENAME", "other@localhost")
    monkeypatch.setenv("ERL_EPMD_PORT", "1")
    restart(own_rabbitmq, "kill")
    assert own_rabbitmq.api("GET", "overview")["node"] == "postroom@localhost"


def test_a_virtual_host_is_apart(rabbitmq: RabbitMQ, broker_url: str) -> None:
    vhost = broker_url.rsplit("/", 1)[1]
    rabbitmq.api("PUT", f"queues/{vhost}/here", {"durable": True})
    assert [queue["name"] for queue in rabbitmq.api("GET", f"queues/{vhost}")] == ["here"]
    other = rabbitmq.create_vhost(f"{vhost}-other").rsplit("/", 1)[1]
    assert rabbitmq.api("GET", f"queues/{other}") == []
