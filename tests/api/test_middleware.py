"""The request's id, without a server."""

import asyncio
import re
from typing import Any

import pytest
import structlog

from api.middleware import RequestId


def ask(*headers: tuple[bytes, bytes]) -> tuple[str, str, Any]:
    """Return the id in the answer, the one that the app sees, and the one in its log lines."""
    seen: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"]["request_id"])
        seen.append(structlog.contextvars.get_contextvars().get("request_id"))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody asked for the body")

    scope = {"type": "http", "headers": list(headers)}
    asyncio.run(RequestId(app)(scope, receive, send))
    ((name, value),) = sent[0]["headers"]
    assert name == b"x-request-id"
    return value.decode(), seen[0], seen[1]


@pytest.mark.parametrize("sent", [b"a", b"!~", b"x" * 128])
def test_a_fine_id_is_kept(sent: bytes) -> None:
    assert ask((b"x-request-id", sent)) == (sent.decode(),) * 3


@pytest.mark.parametrize(
    "sent", [b"", b" ", b"a b", b"a\nb", b"a\n", b"\0", b"\x7f", b"\xe4", b"x" * 129]
)
def test_another_id_is_replaced(sent: bytes) -> None:
    answered, seen, logged = ask((b"x-request-id", sent))
    assert answered == seen == logged
    assert re.fullmatch("[0-9a-f]{32}", answered)


def test_each_request_has_an_id_of_its_own() -> None:
    assert ask()[0] != ask()[0]
    assert "request_id" not in structlog.contextvars.get_contextvars()


def test_what_is_no_request_passes() -> None:
    passed: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    scope = {"type": "lifespan"}
    asyncio.run(RequestId(app)(scope, None, None))  # type: ignore[arg-type]  # neither is used
    assert passed == [{"type": "lifespan"}]
