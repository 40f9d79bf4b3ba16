"""Keys and scopes, on a real API that asks for them."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import httpx2
import pytest

from api.app import create_app
from api.keyring import KNOWN_SECONDS, Keyring
from api.settings import ApiSettings
from local.ports import free_ports
from local.postgres import DATABASE, Postgres
from shared.access import Caller, Key, Scope, Secret
from shared.errors import DatabaseUnavailable
from shared.store import keys as store
from shared.store.keys import Wanted
from tests.conftest import migrate
from tests.keys import SECRET_KEY, Keys, bearer
from tests.stack import ROOT, Api, poll, running

PUBLIC = {"/livez", "/health", "/readyz", "/metrics", "/v1/token"}
"""What everybody may ask: it tells of no document. The proxy keeps some of it inside."""

Operation = tuple[str, str, Scope]


def operations() -> list[Operation]:
    """Return method, path and scope of every operation that is not public."""
    settings = ApiSettings(
        database_url="postgresql://nowhere/",
        broker_url="amqp://nowhere",
    )
    found = []
    with patch("api.app.configure_logs"):  # this process has other tests to log for
        schema = create_app(settings).openapi()
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if path in PUBLIC:
                assert "security" not in operation, f"{method} {path} is public"
                continue
            assert "security" in operation, f"{method} {path} has no scope, and is not public"
            key, token = operation["security"]
            assert key["key"] == token["token"]
            [scope] = key["key"]
            found.append((method.upper(), path, Scope(scope)))
    return found


OPERATIONS = operations()


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
    keys.close()


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


@pytest.mark.parametrize("path", sorted(PUBLIC - {"/metrics", "/v1/token"}))
def test_health_is_public(guarded: httpx2.Client, path: str) -> None:
    assert guarded.get(path).status_code == 200


# --- What becomes of keys ------------------------------------------------------------------------


@pytest.fixture
def admin(guarded: httpx2.Client, keys: Keys) -> Iterator[httpx2.Client]:
    """A client that sends a key for everything."""
    headers = bearer(keys.make(Scope.ADMIN, name="admin"))
    with httpx2.Client(base_url=guarded.base_url, headers=headers, trust_env=False) as client:
        yield client


def status_with(client: httpx2.Client, key: str) -> int:
    return client.get("/v1/categories", headers=bearer(key)).status_code


def test_a_key_is_made_told_once_listed_used_and_revoked(
    guarded: httpx2.Client, admin: httpx2.Client
) -> None:
    made = admin.post("/v1/keys", json={"name": "a reader", "scopes": ["documents:read"]})
    assert made.status_code == 201, made.text
    assert made.headers["Cache-Control"] == "no-store"
    key = made.json()
    secret = key.pop("key")
    assert secret.startswith(key["prefix"])
    assert len(secret) > 40

    assert status_with(guarded, secret) == 200  # at once
    listed = poll(
        lambda: next(
            each for each in admin.get("/v1/keys").json()["data"] if each["id"] == key["id"]
        ),
        lambda found: found["last_used_at"] is not None,
        5,
    )
    assert listed | {"last_used_at": None} == key
    assert secret not in admin.get("/v1/keys").text

    for _ in range(2):
        assert admin.delete(f"/v1/keys/{key['id']}").json()["revoked_at"]
    poll(lambda: status_with(guarded, secret), lambda status: status == 401, 5)
    assert admin.delete(f"/v1/keys/{uuid4()}").status_code == 404


def test_a_rotated_key_stays_valid_for_a_while(
    guarded: httpx2.Client, admin: httpx2.Client, keys: Keys
) -> None:
    key_id, old = keys.make_both(Scope.DOCUMENTS_READ, name="a reader")
    assert status_with(guarded, old) == 200
    answer = admin.post(f"/v1/keys/{key_id}/rotate", json={"overlap_seconds": 3.0})
    assert answer.status_code == 201, answer.text
    new = answer.json()
    assert (new["name"], new["scopes"]) == ("a reader", ["documents:read"])
    assert (status_with(guarded, new["key"]), status_with(guarded, old)) == (200, 200)
    poll(lambda: status_with(guarded, old), lambda status: status == 401, 3 + 5)
    assert status_with(guarded, new["key"]) == 200
    gone = admin.post(f"/v1/keys/{key_id}/rotate", json={"overlap_seconds": 3})
    assert gone.status_code == 404


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"scopes": ["classify"]}, "/name"),
        ({"name": "a", "scopes": []}, "/scopes"),
        ({"name": "a", "scopes": ["documents"]}, "/scopes/0"),
        (
            {"name": "a", "scopes": ["classify"], "expires_at": "2020-01-01T00:00:00Z"},
            "/expires_at",
        ),
        ({"name": "a", "scopes": ["classify"], "key": "mine"}, "/key"),
    ],
)
def test_a_wrong_key_is_refused_by_name(
    admin: httpx2.Client, wrong: dict[str, Any], pointer: str
) -> None:
    response = admin.post("/v1/keys", json=wrong)
    assert response.status_code == 422
    assert [each["pointer"] for each in response.json()["errors"]] == [pointer]


def test_keys_are_listed_in_pages(admin: httpx2.Client, keys: Keys) -> None:
    for _ in range(5):
        keys.make(Scope.CLASSIFY)
    page = admin.get("/v1/keys", params={"limit": 3})
    seen = [each["id"] for each in page.json()["data"]]
    page = admin.get(page.links["next"]["url"])
    seen += [each["id"] for each in page.json()["data"]]
    assert len(set(seen)) == 6
    whole = [each["id"] for each in admin.get("/v1/keys", params={"limit": 6}).json()["data"]]
    assert seen == whole


def test_two_callers_may_use_the_same_idempotency_key(guarded: httpx2.Client, keys: Keys) -> None:
    def accept(name: str) -> str:
        headers = {
            "Authorization": f"Bearer {keys.make(Scope.DOCUMENTS_WRITE, name=name)}",
            "Idempotency-Key": "order-1",
        }
        response = guarded.post("/v1/documents", json={"content": "a text"}, headers=headers)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    assert accept("one") == accept("one")  # with another key of the same caller
    assert accept("one") != accept("two")


def test_while_the_database_is_away_known_keys_stay_valid(
    broker_url: str, tmp_path: Path, processes: ExitStack
) -> None:
    postgres = Postgres(tmp_path / "postgres", free_ports(1)[0])
    running(processes, postgres)
    migrate(url := postgres.create_database(DATABASE))
    api = Api(tmp_path / "api", url, broker_url, AUTH="on")
    running(processes, api)
    client = processes.enter_context(api.client())
    keys = Keys(url)
    key_id, known = keys.make_both(Scope.DOCUMENTS_WRITE)
    unknown = keys.make(Scope.DOCUMENTS_WRITE)
    keys.close()

    def accept(key: str) -> httpx2.Response:
        return client.post("/v1/documents", json={"content": "a text"}, headers=bearer(key))

    poll(lambda: accept(known).status_code, lambda status: status == 202, 15)
    form = {"grant_type": "client_credentials", "client_id": str(key_id), "client_secret": known}
    # Nobody has used the other one yet, but all valid keys are looked at; a third one is made up.
    postgres.stop()
    assert accept(known).status_code == 202
    token = client.post("/v1/token", data=form)
    assert token.status_code == 200, token.text
    assert accept(token.json()["access_token"]).status_code == 202
    away = client.post("/v1/token", data=form | {"client_secret": Secret.new().value})
    assert (away.status_code, away.headers["Retry-After"]) == (503, "1")
    assert accept(unknown).status_code in {202, 503}
    away = accept(Secret.new().value)
    assert away.status_code == 503
    assert away.headers["Retry-After"]
    running(processes, postgres)
    poll(lambda: accept(Secret.new().value).status_code, lambda status: status == 401, 15)
    assert accept(known).status_code == 202


def test_known_keys_are_forgotten_when_the_database_stays_away() -> None:
    async def test() -> None:
        secret = Secret.new()
        key = Key(uuid4(), Caller("somebody", frozenset({Scope.CLASSIFY})), None)
        away = False

        async def run(_: object) -> dict[bytes, Key]:
            if away:
                raise DatabaseUnavailable("away")
            return {secret.digest: key}

        now = 1000.0
        keyring = Keyring(run, now=lambda: now)
        await keyring.refresh()
        away, now = True, now + KNOWN_SECONDS - 1
        with pytest.raises(DatabaseUnavailable):
            await keyring.refresh()
        assert await keyring.find(secret.digest) == await keyring.find(key.id) == key
        now += 2
        for handle in (secret.digest, key.id):
            assert keyring.known(handle) is None
            with pytest.raises(DatabaseUnavailable):
                await keyring.find(handle)

    asyncio.run(test())


# --- The command, and when keys are asked for -----------------------------------------------------


def command(url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {"DATABASE_URL": url, "AUTH": "on", "PYTHONPATH": str(ROOT)}  # all that it needs
    argv = (sys.executable, "-m", "api.keys", *arguments)
    return subprocess.run(argv, env=os.environ | env, capture_output=True, text=True, check=False)


def test_keys_are_made_listed_and_revoked_on_the_server(database_url: str) -> None:
    first = command(database_url, "create", "first", "admin", "--first")
    assert (first.returncode, first.stderr) == (0, "")
    assert re.fullmatch(r"pr_[A-Za-z0-9_-]{43}\n", first.stdout)
    again = command(database_url, "create", "first", "admin", "--first")
    assert (again.returncode, again.stdout) == (0, "")
    assert "there are keys already" in again.stderr
    assert command(database_url, "create", "b", "classify", "--days", "1.5").returncode == 0
    wrong = command(database_url, "create", "b", "documents")
    assert (wrong.returncode, "documents" in wrong.stderr) == (2, True)

    newest, oldest = command(database_url, "list").stdout.splitlines()
    assert re.search(r"  until 2\d{3}-.*  b: classify$", newest)
    assert re.search(r"  valid +first: admin$", oldest)
    assert first.stdout.strip() not in oldest
    key_id = oldest.split()[0]
    assert command(database_url, "revoke", key_id).returncode == 0
    assert "  revoked 2" in command(database_url, "list").stdout
    missing = command(database_url, "revoke", str(uuid4()))
    assert (missing.returncode, "there is no key" in missing.stderr) == (1, True)
    away = command("postgresql://postroom@127.0.0.1:9/postroom", "list")
    assert (away.returncode, "the database does not answer" in away.stderr) == (2, True)


@pytest.mark.parametrize(
    ("auth", "host", "asks"),
    [
        ("auto", "127.0.0.1", False),
        ("auto", "127.9.9.9", False),
        ("auto", "::1", False),
        ("auto", "localhost", False),
        ("auto", "0.0.0.0", True),  # listens nowhere
        ("auto", "::", True),
        ("auto", "example.org", True),
        ("on", "127.0.0.1", True),
        ("off", "0.0.0.0", False),
    ],
)
def test_keys_are_asked_for_beyond_loopback(auth: Any, host: str, *, asks: bool) -> None:
    settings = ApiSettings(
        database_url="postgresql://nowhere/",
        broker_url="amqp://nowhere",
        auth=auth,
        api_host=host,
        secret_key=SECRET_KEY,
    )
    assert settings.asks_for_keys is asks


def test_a_scope_of_a_newer_release_is_none_of_ours(keys: Keys) -> None:
    secret, new = Secret.new(), Secret.new()
    wanted = Wanted("somebody", [Scope.CLASSIFY, "of:tomorrow"])  # type: ignore[list-item]
    with keys.database.transaction() as session:
        old = store.create(session, wanted, secret)
        assert "of:tomorrow" in old.scopes
        rotated = store.rotate(session, old.id, new, timedelta(hours=1))
        assert rotated
        for each in (secret, new):
            key = store.find(session, each.digest)
            assert key
            assert key.caller.scopes == {Scope.CLASSIFY}
