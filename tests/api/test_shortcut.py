"""The plainest documents take a way of their own, and nobody can tell."""

import json
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest

from api.shortcut import ASKING
from local.ports import LOOPBACK, free_ports
from tests.stack import Api, running

pytestmark = pytest.mark.rabbitmq

DOCUMENTS = "/v1/documents"
PLAIN = "application/json"
# Means the same, and is not plain any more.
USUAL = "application/json; charset=utf-8"

VOLATILE = {"location", "x-request-id"}


def send(client: httpx2.Client, kind: str, content: bytes, **headers: str) -> httpx2.Response:
    return client.post(DOCUMENTS, content=content, headers={"Content-Type": kind, **headers})


def told(response: httpx2.Response) -> tuple[int, list[tuple[str, str]], dict[str, Any]]:
    """Return status, headers and body, without what differs from request to request."""
    headers = [
        (name, "" if name in VOLATILE else value)
        for name, value in response.headers.items()
        if name != "date"
    ]
    body = response.json()
    for name in ("id", "revision", "task_id", "accepted_at", "request_id"):
        assert body.pop(name, "?")
    return response.status_code, headers, body


@pytest.mark.parametrize(
    "content",
    [
        b'{"content": "fine"}',
        b'{"content": "fine", "id": "0198f3c2-7a3b-7cc2-a1f0-4d3f0c2f6b11", "label": null}',
        '{"content": "schön", "source": "s", "external_id": "e", "metadata": {"a": [1]}}'.encode(),
        b" \n" + b'{"content": "' + b"x" * 200_000 + b'"}',
        b"",
        b"null",
        b"{",
        b"\xff",
        b'{"content": ""}',
        b'{"content": NaN}',
        b'{"content": "a\\u0000"}',
        b'{"contents": "a", "more": 1}',
        b'{"content": "' + b"x" * (1 << 20) + b'y"}',
        b"[" * 100_000,
    ],
    ids=lambda content: f"{content[:30]!r}",
)
def test_the_answers_are_the_same(client: httpx2.Client, content: bytes) -> None:
    assert told(send(client, PLAIN, content)) == told(send(client, USUAL, content))


def test_both_write_the_same_document(client: httpx2.Client) -> None:
    content = b'{"content": "fine", "source": "s", "external_id": "same"}'
    answers = [send(client, kind, content).json() for kind in (PLAIN, USUAL)]
    assert answers[0]["id"] == answers[1]["id"]
    assert answers[0]["revision"] < answers[1]["revision"]


def test_the_clients_request_id_is_kept(client: httpx2.Client) -> None:
    sent = uuid4().hex
    response = send(client, PLAIN, b'{"content": "fine"}', **{"X-Request-Id": sent})
    assert response.headers["X-Request-Id"] == sent
    response = send(client, PLAIN, b'{"content": "fine"}', **{"X-Request-Id": "not fine"})
    assert len(response.headers["X-Request-Id"]) == 32


@pytest.mark.parametrize("kind", [PLAIN, USUAL])
def test_a_refusal_is_logged_with_its_request(
    database_url: str, tmp_path: Path, processes: ExitStack, kind: str
) -> None:
    nowhere = f"amqp://guest:guest@{LOOPBACK}:{free_ports(1)[0]}//"
    api = Api(tmp_path, database_url, nowhere, LOG_LEVEL="DEBUG")
    running(processes, api)
    client = processes.enter_context(api.client())
    response = send(client, kind, b'{"content": "fine"}', **{"X-Request-Id": "mine"})
    assert response.status_code == 503
    lines = [json.loads(line) for line in api.logged().splitlines() if "request refused" in line]
    assert [each["request_id"] for each in lines] == ["mine"]


def test_every_header_that_asks_for_something_takes_the_usual_way(client: httpx2.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"][DOCUMENTS]["post"]
    headers = {each["name"].lower().encode() for each in operation["parameters"]}
    assert headers
    assert headers <= ASKING


def test_a_body_in_pieces_and_one_that_ends_early(api: Api, client: httpx2.Client) -> None:
    address = urlsplit(api.url)
    head = f"POST {DOCUMENTS} HTTP/1.1\r\nHost: x\r\nContent-Type: {PLAIN}\r\n"
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"{head}Content-Length: 19\r\n\r\n".encode())
        connection.sendall(b'{"content": ')
        connection.sendall(b'"fine"}')
        assert connection.recv(100).startswith(b"HTTP/1.1 202 ")
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() + b'{"content": "fine"}')
        connection.shutdown(socket.SHUT_WR)
        assert b" 202 " not in connection.recv(100)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        connection.sendall(b'13\r\n{"content": "fine"}\r\n0\r\n\r\n')
        assert connection.recv(100).startswith(b"HTTP/1.1 202 ")
    assert "Traceback" not in api.logged()
