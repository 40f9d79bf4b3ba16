"""What a key may do in a minute: counted by one process, and by several together."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from api.rates import Rates
from shared.access import Caller, Limits, Scope
from shared.errors import DatabaseUnavailable
from tests.keys import Keys, bearer
from tests.stack import Api, poll, running


class Clock:
    """Says what it is told."""

    def __init__(self) -> None:
        self.time = 6_000.0  # a minute begins

    def __call__(self) -> float:
        return self.time


async def away(_: Any) -> Any:
    raise DatabaseUnavailable("away")


def limited(requests: int | None, size: int | None) -> Caller:
    return Caller("somebody", frozenset({Scope.ADMIN}), uuid4(), Limits(requests, size))


def test_requests_are_counted_by_the_minute() -> None:
    clock = Clock()
    rates, caller, other = Rates(away, clock), limited(3, None), limited(3, None)
    found = [rates.count(caller, 1_000) for _ in range(4)]
    assert [each and each.exceeded for each in found] == [False, False, False, True]
    clock.time += 59.5
    last = rates.count(caller, 0)
    assert last
    assert last.exceeded
    assert last.seconds == 1
    assert last.headers == {
        "RateLimit-Policy": '"requests";q=3;w=60',
        "RateLimit": '"requests";r=0;t=1',
    }
    assert not (rates.count(other, 0) or last).exceeded
    clock.time += 1
    assert not (rates.count(caller, 0) or last).exceeded


def test_who_sends_more_bytes_than_are_left_waits_for_them() -> None:
    clock = Clock()
    rates, caller = Rates(away, clock), limited(None, 100)

    def fits(size: int) -> bool:
        found = rates.count(caller, size)
        assert found
        return not found.exceeded

    assert fits(250)  # two minutes and a half
    assert not fits(1)
    clock.time += 60
    assert not fits(1)
    clock.time += 60
    assert fits(1)
    rates.add(caller, 49)  # as it comes in
    assert not fits(1)
    clock.time += 3_600
    assert fits(100)


def test_without_limits_nothing_is_counted() -> None:
    rates = Rates(away)
    assert rates.count(Caller("somebody", frozenset(), uuid4()), 1) is None
    asyncio.run(rates.refresh())  # asks nobody


def test_while_the_database_is_away_each_process_counts_for_itself() -> None:
    rates, caller = Rates(away, Clock()), limited(2, None)
    assert not (found := rates.count(caller, 0)) or not found.exceeded
    with pytest.raises(DatabaseUnavailable):
        asyncio.run(rates.refresh())
    again = rates.count(caller, 0)
    assert again
    assert again.headers["RateLimit"].startswith('"requests";r=0;')


# --- Real processes ------------------------------------------------------------------------------

REQUESTS = 40
BYTES = 100_000


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, module_broker_url: str
) -> Iterator[list[httpx2.Client]]:
    """Clients of two API processes on one database."""
    with ExitStack() as stack:
        clients = []
        for name in ("one", "two"):
            folder = tmp_path_factory.mktemp(name)
            api = Api(folder, module_database_url, module_broker_url, AUTH="on")
            running(stack, api)
            clients.append(stack.enter_context(api.client()))
        yield clients


@pytest.fixture
def keys(module_database_url: str) -> Iterator[Keys]:
    keys = Keys(module_database_url)
    yield keys
    keys.close()


def left(response: httpx2.Response, what: str) -> int:
    found = re.search(rf'"{what}";r=(\d+)', response.headers["RateLimit"])
    assert found
    return int(found[1])


def test_a_key_is_limited_and_others_are_not(pair: list[httpx2.Client], keys: Keys) -> None:
    client = pair[0]
    _, key = keys.make_both(Scope.DOCUMENTS_WRITE, limits=Limits(REQUESTS, None))
    document = {"content": "a text"}
    # The minute may end meanwhile, once: then it begins anew.
    responses = [
        client.post("/v1/documents", json=document, headers=bearer(key))
        for _ in range(2 * REQUESTS + 1)
    ]
    assert {each.status_code for each in responses} == {202, 429}
    assert responses[0].headers["RateLimit-Policy"] == f'"requests";q={REQUESTS};w=60'
    refused = next(each for each in responses if each.status_code == 429)
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert left(refused, "requests") == 0
    other = keys.make(Scope.DOCUMENTS_WRITE)
    response = client.post("/v1/documents", json=document, headers=bearer(other))
    assert response.status_code == 202
    assert "RateLimit" not in response.headers


def test_all_processes_count_together(pair: list[httpx2.Client], keys: Keys) -> None:
    one, two = pair
    _, key = keys.make_both(Scope.DOCUMENTS_READ, limits=Limits(1_000_000, BYTES))

    def ask(client: httpx2.Client) -> int:
        response = client.get("/v1/categories", headers=bearer(key))
        assert response.status_code == 200
        return left(response, "requests")

    asked = 0

    def by_others() -> int:
        """Return how many requests, by what one process says, were admitted by the other one."""
        nonlocal asked
        asked += 1
        ask(one)
        return 1_000_000 - ask(two) - asked

    assert poll(by_others, lambda found: found > 0, 30) > 0


def test_bodies_of_any_length_are_counted(pair: list[httpx2.Client], keys: Keys) -> None:
    _, key = keys.make_both(Scope.DOCUMENTS_WRITE, limits=Limits(None, BYTES))
    body = b'{"content":"' + b"x" * 3 * BYTES + b'"}'

    def chunks() -> Iterator[bytes]:
        yield body

    headers = bearer(key) | {"Content-Type": "application/json"}
    first = pair[0].post("/v1/documents", content=chunks(), headers=headers)
    assert first.status_code == 202
    assert "Content-Length" not in first.request.headers
    second = pair[0].post("/v1/documents", content=body, headers=headers)
    assert second.status_code == 429


def test_limits_are_given_with_the_key(pair: list[httpx2.Client], keys: Keys) -> None:
    client, admin = pair[0], bearer(keys.make(Scope.ADMIN))
    wanted = {"name": "crawler", "scopes": ["classify"], "requests_per_minute": 7}
    made = client.post("/v1/keys", json=wanted, headers=admin).json()
    assert (made["requests_per_minute"], made["bytes_per_minute"]) == (7, None)
    rotated = client.post(f"/v1/keys/{made['id']}/rotate", json={}, headers=admin).json()
    assert rotated["requests_per_minute"] == 7
    for wrong in (0, -1, 1.5, "7", 2**60):
        response = client.post(
            "/v1/keys", json=wanted | {"requests_per_minute": wrong}, headers=admin
        )
        assert response.status_code == 422
        assert response.json()["errors"][0]["pointer"] == "/requests_per_minute"
