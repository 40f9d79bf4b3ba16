"""Tokens, ours and those of an outside issuer, on a real API that asks for them."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr

from api.tokens import NAME, PURPOSE, SECONDS, Tokens
from api.verified import MAX_CHARACTERS
from shared.access import Caller, Key, Limits, Scope
from shared.secret_key import subkey
from tests.issuer import LocalIssuer, ec_key, rsa_key, signed
from tests.keys import SECRET_KEY, Keys, bearer
from tests.stack import Api, poll, running

GRANT = {"grant_type": "client_credentials"}
RSA, EC = rsa_key(), ec_key()
SIGNING_KEY = subkey(SecretStr(SECRET_KEY), PURPOSE)


@pytest.fixture(scope="module")
def issuer() -> Iterator[LocalIssuer]:
    with LocalIssuer() as issuer:
        issuer.publish(rsa=RSA, ec=EC)
        yield issuer


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory,
    module_database_url: str,
    module_broker_url: str,
    issuer: LocalIssuer,
) -> Iterator[httpx2.Client]:
    """A client of an API that asks for keys; it sends none by itself."""
    folder = tmp_path_factory.mktemp("guarded")
    settings = {"AUTH": "on", **issuer.env}
    with (
        Api(folder, module_database_url, module_broker_url, **settings) as api,
        api.client() as client,
    ):
        poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, 15)
        yield client


@pytest.fixture(scope="module")
def keys(module_database_url: str) -> Iterator[Keys]:
    keys = Keys(module_database_url)
    yield keys
    keys.close()


def ask(client: httpx2.Client, form: dict[str, str], **headers: str) -> httpx2.Response:
    return client.post("/v1/token", data=form, headers=headers)


def basic(name: object, secret: str) -> dict[str, str]:
    pair = f"{quote(str(name))}:{quote(secret)}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def issued(client: httpx2.Client, key_id: object, key: str, **form: str) -> str:
    response = ask(client, GRANT | form, **basic(key_id, key))
    assert response.status_code == 200, response.text
    return str(response.json()["access_token"])


def accept(client: httpx2.Client, token: str) -> httpx2.Response:
    """Send a document, by the shortcut."""
    return client.post("/v1/documents", json={"content": "a text"}, headers=bearer(token))


def read(client: httpx2.Client, token: str) -> httpx2.Response:
    return client.get("/v1/categories", headers=bearer(token))


# --- Ours ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["header", "body"])
def test_a_key_is_changed_into_a_token(guarded: httpx2.Client, keys: Keys, place: str) -> None:
    key_id, key = keys.make_both(Scope.DOCUMENTS_WRITE, Scope.CLASSIFY, name="crawler")
    if place == "header":
        response = ask(guarded, GRANT, **basic(key_id, key))
    else:
        response = ask(guarded, GRANT | {"client_id": str(key_id), "client_secret": key})
    assert response.status_code == 200, response.text
    assert response.headers["Cache-Control"] == "no-store"
    answer = response.json()
    token = answer.pop("access_token")
    assert answer == {
        "token_type": "Bearer",
        "expires_in": SECONDS,
        "scope": "classify documents:write",
    }
    claims = jwt.decode(token, SIGNING_KEY, algorithms=["HS256"], audience=NAME, issuer=NAME)
    assert (claims["sub"], claims["name"], claims["scope"]) == (
        str(key_id),
        "crawler",
        answer["scope"],
    )
    assert claims["exp"] - claims["iat"] == SECONDS
    assert key not in str(claims)
    for _ in range(3):
        assert accept(guarded, token).status_code == 202
    refused = read(guarded, token)
    assert refused.status_code == 403
    challenge = refused.headers["WWW-Authenticate"]
    assert 'error="insufficient_scope", scope="documents:read"' in challenge


def test_a_token_has_the_scopes_that_were_asked_for(guarded: httpx2.Client, keys: Keys) -> None:
    """Also of a key for everything: a client need not be trusted with more than it does."""
    for scopes in ((Scope.DOCUMENTS_READ, Scope.DOCUMENTS_WRITE), (Scope.ADMIN,)):
        key_id, key = keys.make_both(*scopes)
        token = issued(guarded, key_id, key, scope="documents:read")
        assert read(guarded, token).status_code == 200
        assert accept(guarded, token).status_code == 403
        assert read(guarded, issued(guarded, key_id, key)).status_code == 200


def test_callers_of_keys_and_their_tokens_are_the_same(guarded: httpx2.Client, keys: Keys) -> None:
    key_id, key = keys.make_both(Scope.DOCUMENTS_WRITE, name="one")
    found = set()
    for credential in (key, issued(guarded, key_id, key)):
        headers = {**bearer(credential), "Idempotency-Key": "order-1"}
        answer = guarded.post("/v1/documents", json={"content": "a text"}, headers=headers)
        assert answer.status_code == 202, answer.text
        found.add(answer.json()["id"])
    assert len(found) == 1


def test_tokens_share_the_limits_of_their_key(guarded: httpx2.Client, keys: Keys) -> None:
    key_id, key = keys.make_both(Scope.DOCUMENTS_WRITE, limits=Limits(None, 100))
    token = issued(guarded, key_id, key)
    large = {"content": "x" * 10_000}  # what it may send in more than an hour
    assert guarded.post("/v1/documents", json=large, headers=bearer(token)).status_code == 202
    for credential in (key, token, issued(guarded, key_id, key)):
        assert accept(guarded, credential).status_code == 429


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": ""}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        (GRANT | {"scope": "documents"}, "invalid_scope"),
        (GRANT | {"scope": "documents:read documents:write"}, "invalid_scope"),
        (GRANT | {"scope": "admin"}, "invalid_scope"),
        (GRANT | {"client_secret": "pr_x"}, "invalid_request"),  # and the header
        (GRANT | {str(number): "x" for number in range(30)}, "invalid_request"),
    ],
)
def test_a_wrong_request_is_refused(
    guarded: httpx2.Client, keys: Keys, form: dict[str, str], error: str
) -> None:
    key_id, key = keys.make_both(Scope.DOCUMENTS_READ)
    response = ask(guarded, form, **basic(key_id, key))
    assert (response.status_code, response.json()["error"]) == (400, error)
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert key not in response.text


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/json", b'{"grant_type": "client_credentials"}'),
        ("application/x-www-form-urlencoded", b"grant_type=client_credentials&grant_type=x"),
        ("application/x-www-form-urlencoded", b"grant_type=%ff"),
        ("application/x-www-form-urlencoded", b"grant_type=\xff"),
    ],
)
def test_what_is_no_form_is_refused(guarded: httpx2.Client, kind: str, content: bytes) -> None:
    response = guarded.post("/v1/token", content=content, headers={"Content-Type": kind})
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


def test_an_unknown_client_is_refused(guarded: httpx2.Client, keys: Keys) -> None:
    key_id, key = keys.make_both(Scope.DOCUMENTS_READ)
    wrong: list[tuple[dict[str, str], dict[str, str]]] = [
        ({}, {}),
        ({}, basic(uuid4(), key)),
        ({}, basic(key_id, keys.make(Scope.DOCUMENTS_READ))),
        ({}, basic(key_id, "")),
        ({}, basic(key_id, keys.make_revoked(Scope.DOCUMENTS_READ))),
        ({}, {"Authorization": "Basic ?"}),
        ({}, {"Authorization": "Basic /////w=="}),
        ({"client_id": str(key_id)}, {}),
        ({"client_id": str(key_id), "client_secret": key[:-1]}, bearer(key)),
    ]
    for form, headers in wrong:
        response = ask(guarded, GRANT | form, **headers)
        assert (response.status_code, response.json()["error"]) == (401, "invalid_client"), form
        assert response.headers["WWW-Authenticate"].startswith("Basic ")


def test_a_token_ends_with_its_key(guarded: httpx2.Client, keys: Keys) -> None:
    key_id, key = keys.make_both(Scope.DOCUMENTS_READ, Scope.DOCUMENTS_WRITE)
    token = issued(guarded, key_id, key)
    assert accept(guarded, token).status_code == 202
    admin = bearer(keys.make(Scope.ADMIN))
    assert guarded.delete(f"/v1/keys/{key_id}", headers=admin).status_code == 200
    refused = poll(lambda: accept(guarded, token), lambda each: each.status_code == 401, 5)
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    assert read(guarded, token).status_code == 401
    assert ask(guarded, GRANT, **basic(key_id, key)).json()["error"] == "invalid_client"


def test_a_token_is_valid_no_longer_than_its_key(guarded: httpx2.Client, keys: Keys) -> None:
    key_id, key = keys.make_both(Scope.DOCUMENTS_READ, seconds=3)
    answer = ask(guarded, GRANT, **basic(key_id, key)).json()
    assert 1 <= answer["expires_in"] <= 4
    assert read(guarded, answer["access_token"]).status_code == 200
    poll(lambda: read(guarded, answer["access_token"]).status_code, lambda code: code == 401, 8)


def test_where_nobody_is_asked_there_are_no_tokens(client: httpx2.Client) -> None:
    response = ask(client, GRANT)
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


def test_tokens_of_the_former_secret_are_taken_while_it_is_named() -> None:
    old, new = SecretStr("o" * 32), SecretStr("n" * 32)
    key = Key(uuid4(), Caller("somebody", frozenset({Scope.CLASSIFY})), None)
    token = Tokens([old]).issue(key, [Scope.CLASSIFY]).token
    grant = Tokens([new, old]).read(token)
    assert grant is not None
    assert (grant.key_id, grant.scopes) == (key.id, frozenset({Scope.CLASSIFY}))
    assert Tokens([new]).read(token) is None
    assert Tokens([new]).read(Tokens([new, old]).issue(key, []).token)


# --- Forgeries -----------------------------------------------------------------------------------


def part(value: object) -> bytes:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def forged(header: object, claims: object, key: bytes) -> str:
    """Return a token signed with HMAC, whatever its header says."""
    signed = part(header) + b"." + part(claims)
    return b".".join((signed, part(hmac.digest(key, signed, hashlib.sha256)))).decode()


HS256 = {"alg": "HS256", "typ": "JWT"}
RS256 = {"alg": "RS256", "typ": "JWT", "kid": "rsa"}
PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

Forge = Callable[[LocalIssuer, dict[str, Any]], str]


def other(name: str, key: Any, **claims: Any) -> Forge:
    def forge(issuer: LocalIssuer, _: dict[str, Any]) -> str:
        return signed(key, name, issuer.claims(**claims))

    return forge


def ours(*missing: str, **changed: Any) -> Forge:
    def forge(_: LocalIssuer, claims: dict[str, Any]) -> str:
        kept = {name: value for name, value in claims.items() if name not in missing}
        return forged(HS256, kept | changed, SIGNING_KEY)

    return forge


def long_ago() -> int:
    return int(time.time()) - 3_600


def to_come() -> int:
    return int(time.time()) + 3_600


FORGERIES: dict[str, Forge] = {
    "garbage": lambda *_: "garbage",
    "dots": lambda *_: "..",
    "parts of garbage": lambda *_: "a.b.c",
    "no text": lambda *_: "\xe9.\xe9.\xe9",
    "nested": lambda *_: f"{part(b'[' * 6_000).decode()}.e30.e30",
    "a list for a header": lambda _, claims: forged([], claims, SIGNING_KEY),
    "a list of algorithms": lambda _, claims: forged({"alg": ["HS256"]}, claims, SIGNING_KEY),
    "no algorithm": lambda _, claims: forged({"typ": "JWT"}, claims, SIGNING_KEY),
    "none": lambda _, claims: forged({"alg": "none"}, claims, b"").rpartition(".")[0] + ".",
    "none, signed": lambda _, claims: forged({"alg": "none"}, claims, SIGNING_KEY),
    "None": lambda _, claims: forged({"alg": "None"}, claims, SIGNING_KEY),
    "another HMAC": lambda _, claims: forged({"alg": "HS512"}, claims, SIGNING_KEY),
    "RS256 with our secret": lambda _, claims: forged(RS256, claims, SIGNING_KEY),
    "RS256 of theirs with our secret": lambda issuer, _: forged(
        RS256, issuer.claims(), SIGNING_KEY
    ),
    "HS256 with their public key": lambda issuer, _: forged(
        HS256 | {"kid": "rsa"}, issuer.claims(), PEM
    ),
    "HS256 with their public key, binary": lambda issuer, _: forged(
        HS256 | {"kid": "rsa"}, issuer.claims(), DER
    ),
    "ours with their public key": lambda _, claims: forged(HS256, claims, PEM),
    "the secret itself": lambda _, claims: forged(HS256, claims, SECRET_KEY.encode()),
    "no secret": lambda _, claims: forged(HS256, claims, b""),
    "another purpose": lambda _, claims: forged(
        HS256, claims, subkey(SecretStr(SECRET_KEY), "something else")
    ),
    "changed": lambda _, claims: ".".join(
        (
            forged(HS256, claims, SIGNING_KEY).partition(".")[0],
            part(claims | {"name": "somebody else"}).decode(),
            forged(HS256, claims, SIGNING_KEY).rpartition(".")[2],
        )
    ),
    "expired": lambda _, claims: forged(HS256, claims | {"exp": long_ago()}, SIGNING_KEY),
    "not yet": lambda _, claims: forged(HS256, claims | {"nbf": to_come()}, SIGNING_KEY),
    "another audience": ours(aud="somebody"),
    "another issuer": ours(iss="somebody"),
    "no such key": ours(sub=str(uuid4())),
    **{f"no {name}": ours(name) for name in ("exp", "aud", "iss", "sub")},
    "huge": ours(more="x" * MAX_CHARACTERS),
    "theirs, another key": other("rsa", rsa_key()),
    "theirs, another curve key": other("ec", ec_key()),
    "theirs, the other key's name": other("ec", RSA),
    "theirs, unknown key": other("unheard-of", rsa_key()),
    "theirs, expired": lambda issuer, _: issuer.token("rsa", exp=long_ago()),
    "theirs, not yet": lambda issuer, _: issuer.token("rsa", nbf=to_come()),
    "theirs, issued tomorrow": lambda issuer, _: issuer.token("ec", iat=to_come()),
    "theirs, another audience": other("rsa", RSA, aud=["somebody"]),
    "theirs, another issuer": other("rsa", RSA, iss="https://elsewhere"),
    "theirs, as if ours": other("rsa", RSA, iss=NAME, aud=NAME),
    **{
        f"theirs, no {name}": other("rsa", RSA, **{name: None})
        for name in ("exp", "aud", "iss", "sub")
    },
    "theirs, no name": other("rsa", RSA, sub=""),
    "theirs, a long name": other("rsa", RSA, sub="x" * 300),
    "theirs, a name with NUL": other("rsa", RSA, sub="a\0b"),
    "theirs, endless": lambda issuer, _: issuer.token("rsa", exp=float("inf")),
    "theirs, no time": other("rsa", RSA, exp=[1]),
    "theirs, huge": other("rsa", RSA, more="x" * MAX_CHARACTERS),
    "theirs, PS256": lambda issuer, _: jwt.encode(
        issuer.claims(), RSA, "PS256", headers={"kid": "rsa"}
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_token_is_refused(
    guarded: httpx2.Client, keys: Keys, issuer: LocalIssuer, forgery: str
) -> None:
    key_id, key = keys.make_both(Scope.ADMIN)
    real = issued(guarded, key_id, key)
    claims = jwt.decode(real, options={"verify_signature": False})
    assert accept(guarded, forged(HS256, claims, SIGNING_KEY)).status_code == 202  # made well
    token = FORGERIES[forgery](issuer, claims)
    authorization = {b"Authorization": f"Bearer {token}".encode("latin-1")}
    for method, path, document in (
        ("GET", "/v1/categories", None),
        ("POST", "/v1/documents", {"content": "a text"}),
    ):
        response = guarded.request(method, path, json=document, headers=authorization)
        assert response.status_code == 401, response.text
        assert response.headers["Content-Type"] == "application/problem+json"
        assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]


def test_an_expired_token_is_refused_though_it_was_known(
    guarded: httpx2.Client, keys: Keys, issuer: LocalIssuer
) -> None:
    key_id, key = keys.make_both(Scope.DOCUMENTS_WRITE)
    claims = jwt.decode(issued(guarded, key_id, key), options={"verify_signature": False})
    soon = forged(HS256, claims | {"exp": int(time.time()) + 2}, SIGNING_KEY)
    assert accept(guarded, soon).status_code == 202
    poll(lambda: accept(guarded, soon).status_code, lambda status: status == 401, 5)
    # Clocks may differ by half a minute: what ended 28 seconds ago is good for two more.
    ending = issuer.token("rsa", scope="documents:write", exp=int(time.time()) - 28)
    assert accept(guarded, ending).status_code == 202
    poll(lambda: accept(guarded, ending).status_code, lambda status: status == 401, 5)


# --- Those of an outside issuer ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rsa", "ec"])
@pytest.mark.parametrize(
    "scopes",
    [
        {"scope": "openid documents:write email"},
        {"scope": None, "scp": ["documents:write", 7, "x"]},
        {"scope": None, "scp": "documents:write"},
        {"scope": None, "scopes": ["documents:write"]},
    ],
    ids=str,
)
def test_an_outside_issuers_token_is_taken(
    guarded: httpx2.Client, issuer: LocalIssuer, name: str, scopes: dict[str, Any]
) -> None:
    token = issuer.token(name, **scopes)
    for _ in range(3):
        assert accept(guarded, token).status_code == 202
    assert read(guarded, token).status_code == 403


@pytest.mark.parametrize("scopes", [{"scope": None}, {"scope": "email"}, {"scope": {"admin": 1}}])
def test_without_a_scope_of_ours_it_is_good_for_nothing(
    guarded: httpx2.Client, issuer: LocalIssuer, scopes: dict[str, Any]
) -> None:
    assert read(guarded, issuer.token("rsa", **scopes)).status_code == 403


def test_while_the_issuers_keys_cannot_be_had_nobody_is_turned_away_for_good(
    tmp_path: Path, module_database_url: str, module_broker_url: str, processes: ExitStack
) -> None:
    away = LocalIssuer()  # never started
    away.publish(rsa=RSA)
    api = Api(tmp_path, module_database_url, module_broker_url, AUTH="on", **away.env)
    running(processes, api)
    with api.client() as client:
        for response in (read(client, away.token("rsa")), accept(client, away.token("rsa"))):
            assert response.status_code == 503, response.text
            assert response.headers["Content-Type"] == "application/problem+json"
            assert response.headers["Retry-After"]
        assert read(client, "garbage").status_code == 401
        poll(api.logged, lambda text: "IssuerUnavailable" in text, 5)


def test_the_documentation_shows_both_ways(guarded: httpx2.Client) -> None:
    schema = guarded.get("/openapi.json").json()
    schemes = schema["components"]["securitySchemes"]
    assert (schemes["key"]["type"], schemes["key"]["scheme"]) == ("http", "bearer")
    flow = schemes["token"]["flows"]["clientCredentials"]
    assert flow["tokenUrl"] == "/v1/token"
    assert flow["scopes"].keys() == set(Scope)
    assert schema["paths"]["/v1/ledger"]["get"]["security"] == [
        {"key": ["documents:read"]},
        {"token": ["documents:read"]},
    ]
