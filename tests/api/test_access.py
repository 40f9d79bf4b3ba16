"""Keys and scopes, on a real API that asks for them."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from api.app import create_app
from api.settings import ApiSettings
from shared.access import Scope, Secret
from shared.db import Database
from shared.store import keys as store
from shared.store.keys import Wanted
from tests.stack import Api, poll

PUBLIC = {"/livez", "/health", "/readyz", "/metrics"}
"""What everybody may ask: it tells of no document. The proxy keeps some of it inside."""

Operation = tuple[str, str, Scope]


def operations() -> list[Operation]:
    """Return method, path and scope of every operation that is not public."""
    settings = ApiSettings(
        database_url="postgresql://nowhere/",
        broker_url="amqp://nowhere",
    )
    found = []
    for path, methods in create_app(settings).openapi()["paths"].items():
        for method, operation in methods.items():
            if path in PUBLIC:
                assert "security" not in operation, f"{method} {path} is public"
                continue
            assert "security" in operation, f"{method} {path} has no scope, and is not public"
            [[(_, [scope])]] = [each.items() for each in operation["security"]]
            found.append((method.upper(), path, Scope(scope)))
    return found


OPERATIONS = operations()


class Keys:
    """Keys of all kinds, in the database of an API."""

    def __init__(self, database_url: str) -> None:
        url = database_url.replace("postgresql:", "postgresql+psycopg2:")
        self.database = Database(url, pool_size=1, statement_seconds=10, application="tests")

    def make(self, *scopes: Scope, name: str = "somebody", seconds: float | None = None) -> str:
        """Make a key, which expires so many seconds from now."""
        return self.make_both(*scopes, name=name, seconds=seconds)[1]

    def make_both(
        self, *scopes: Scope, name: str = "somebody", seconds: float | None = None
    ) -> tuple[UUID, str]:
        end = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
        secret = Secret.new()
        with self.database.transaction() as session:
            return store.create(session, Wanted(name, scopes, end), secret).id, secret.value

    def make_revoked(self, *scopes: Scope) -> str:
        key_id, key = self.make_both(*scopes)
        with self.database.transaction() as session:
            assert store.revoke(session, key_id)
        return key


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, module_broker_url: str
) -> Iterator[httpx2.Client]:
    """A client of an API that asks for keys; it sends none by itself."""
    folder = tmp_path_factory.mktemp("guarded")
    with (
        Api(folder, module_database_url, module_broker_url, AUTH="on") as api,
        api.client() as client,
    ):
        poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, 15)
        yield client


@pytest.fixture(scope="module")
def keys(module_database_url: str) -> Iterator[Keys]:
    keys = Keys(module_database_url)
    yield keys
    keys.database.close()


def ask(client: httpx2.Client, method: str, path: str, authorization: str | None) -> Any:
    path = re.sub(r"\{[a-z_]+\}", str(uuid4()), path)
    headers = {} if authorization is None else {"Authorization": authorization}
    return client.request(method, path, headers=headers)


@pytest.mark.parametrize(("method", "path", "scope"), OPERATIONS, ids=str)
def test_every_route_asks_for_its_scope(
    guarded: httpx2.Client, keys: Keys, method: str, path: str, scope: Scope
) -> None:
    others = [each for each in Scope if each not in {scope, Scope.ADMIN}]
    refused = {
        "none": None,
        "another scheme": "Basic c29tZWJvZHk6a2V5",
        "no key": "Bearer",
        "wrong": f"Bearer {Secret.new().value}",
        "expired": f"Bearer {keys.make(scope, seconds=-1)}",
        "revoked": f"Bearer {keys.make_revoked(scope)}",
    }
    for kind, authorization in refused.items():
        response = ask(guarded, method, path, authorization)
        assert response.status_code == 401, kind
        assert response.headers["Content-Type"] == "application/problem+json"
        challenge = response.headers["WWW-Authenticate"]
        assert challenge.startswith('Bearer realm="postroom"')
        has_one = kind in {"wrong", "expired", "revoked"}
        assert ('error="invalid_token"' in challenge) is has_one, kind

    response = ask(guarded, method, path, f"Bearer {keys.make(*others)}")
    assert response.status_code == 403
    challenge = response.headers["WWW-Authenticate"]
    assert f'error="insufficient_scope", scope="{scope}"' in challenge

    for fine in (scope, Scope.ADMIN):
        response = ask(guarded, method, path, f"Bearer {keys.make(fine)}")
        assert response.status_code not in {401, 403}, response.text
        assert response.status_code < 500


def test_the_shortcut_takes_the_scope_as_well(guarded: httpx2.Client, keys: Keys) -> None:
    document = {"content": "a text"}
    for authorization, status in (
        (None, 401),
        (f"Bearer {keys.make(Scope.DOCUMENTS_READ)}", 403),
        (f"Bearer {keys.make(Scope.DOCUMENTS_WRITE)}", 202),
    ):
        headers = {} if authorization is None else {"Authorization": authorization}
        for _ in range(3):  # from the second one on the key is known
            response = guarded.post("/v1/documents", json=document, headers=headers)
            assert response.status_code == status


@pytest.mark.parametrize("path", sorted(PUBLIC - {"/metrics"}))
def test_health_is_public(guarded: httpx2.Client, path: str) -> None:
    assert guarded.get(path).status_code == 200
