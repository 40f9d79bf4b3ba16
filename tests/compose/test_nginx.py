"""nginx in front: what it refuses, what it adds, what nobody can talk it into."""

import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, HttpCredentials, expect

from local.ports import LOOPBACK, free_ports
from tests.browser import Seen, browser
from tests.compose.conftest import Started
from tests.compose.project import ROOT, Project, docker
from tests.keys import bearer
from tests.stack import poll, stored

__all__ = ["browser"]

DOCUMENTS = "/v1/documents"
PREFIX = "/postroom"
MEBIBYTE = 1 << 20


def problem(response: httpx2.Response, status: int) -> dict[str, Any]:
    """Return the body of an error, once it is seen to be one of ours."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["request_id"] == response.headers["X-Request-Id"]
    return body


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/flower/healthcheck"])
def test_what_asks_for_no_password_is_not_there(client: httpx2.Client, path: str) -> None:
    assert problem(client.get(path), 404)["instance"] == path


@pytest.mark.parametrize("path", ["//metrics", "/./metrics", "/x/../metrics", "/%6detrics"])
def test_nor_by_another_spelling(stack: Project, path: str) -> None:
    problem(raw(stack, path), 404)


@pytest.mark.parametrize("page", ["metrics", "healthcheck"])
@pytest.mark.parametrize("path", ["/flower//", "/flower/./", "/x/../flower/", "/flower/%2e/"])
def test_nor_flowers_by_another_spelling(stack: Project, path: str, page: str) -> None:
    assert raw(stack, path + page).status_code in {401, 404}


def raw(stack: Project, path: str) -> httpx2.Response:
    """Send `path` as it is, which clients would tidy up."""
    url = httpx2.URL(stack.url).copy_with(raw_path=path.encode())
    return httpx2.get(url, timeout=30, trust_env=False)


def test_a_client_cannot_talk_the_service_into_another_address(client: httpx2.Client) -> None:
    forged = {
        "Host": "evil.example",
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Prefix": "/evil",
        "X-Forwarded-Proto": "https",
        "Forwarded": "for=203.0.113.7;host=evil.example;proto=https",
    }
    response = client.post(DOCUMENTS, json={"content": "forged"}, headers=forged)
    assert response.headers["Location"] == f"{DOCUMENTS}/{response.json()['id']}"
    stored(client, response.json()["id"])
    for path in ("/docs", "/openapi.json", f"{DOCUMENTS}?limit=1", "/flower", "/rabbitmq"):
        answer = client.get(path, headers=forged)
        assert "evil" not in f"{answer.headers} {answer.text}"


@pytest.mark.parametrize("known_length", [True, False])
def test_a_body_that_is_too_big_is_refused(client: httpx2.Client, known_length: bool) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(9):
            yield b" " * MEBIBYTE

    body = b" " * 9 * MEBIBYTE if known_length else chunks()
    headers = {"Content-Type": "application/json"}
    problem(client.post(DOCUMENTS, content=body, headers=headers), 413)


def test_answers_are_packed_but_not_where_that_would_change_an_etag(
    client: httpx2.Client,
) -> None:
    assert client.get("/openapi.json").headers["Content-Encoding"] == "gzip"
    answer = client.post(DOCUMENTS, json={"content": "long enough to be packed " * 100}).json()
    stored(client, answer["id"])
    document = client.get(f"{DOCUMENTS}/{answer['id']}")
    assert "Content-Encoding" not in document.headers
    assert document.headers["ETag"].startswith('"')


def test_a_request_keeps_its_id(client: httpx2.Client) -> None:
    for path in ("/livez", "/v1/documents/none", "/metrics"):
        response = client.get(path, headers={"X-Request-Id": "mine-4711"})
        assert response.headers.get_list("X-Request-Id") == ["mine-4711"]
    made = {client.get("/livez", headers={"X-Request-Id": 'a"b'}).headers["X-Request-Id"]}
    made |= {client.get("/livez").headers["X-Request-Id"]}
    assert len(made) == 2
    assert all(len(each) == 32 for each in made)


@pytest.mark.parametrize("path", ["/livez", "/docs", "/metrics", "/flower/", "/rabbitmq/"])
def test_browsers_are_told_to_be_careful(client: httpx2.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers.get_list("X-Content-Type-Options") == ["nosniff"]
    assert headers.get_list("X-Frame-Options") == ["DENY"]
    (policy,) = headers.get_list("Content-Security-Policy")
    assert "default-src 'self'" in policy or "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["Server"] == "nginx"


def test_without_the_api_nginx_answers_itself(stack: Project, client: httpx2.Client) -> None:
    stack.compose("kill", "api")
    try:
        for response in (client.get("/livez"), client.post(DOCUMENTS, json={"content": "x"})):
            problem(response, 502 if response.status_code == 502 else 503)
            assert response.headers["Retry-After"] == "1"
    finally:
        stack.up()
    poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, seconds=15)


def test_one_client_cannot_ask_for_everything(stack: Project) -> None:
    limited = replace(stack, settings={"RATE_LIMIT": "1", "RATE_BURST": "10"})
    limited.up("nginx")
    try:
        with limited.client() as client:
            responses = [
                client.get("/livez", headers={"X-Forwarded-For": f"203.0.113.{number}"})
                for number in range(40)
            ]
    finally:
        stack.up("nginx")
    assert [each.status_code for each in responses[:10]] == [200] * 10
    refused = [each for each in responses if each.status_code != 200]
    assert len(refused) >= 20
    for response in refused:
        problem(response, 429)
        assert response.headers["Retry-After"] == "1"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a self-signed certificate for 127.0.0.1 and its key."""
    command = (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=postroom "
        "-addext subjectAltName=IP:127.0.0.1 -keyout /dev/stdout -out /dev/stdout"
    )
    image = ("--network=none", "--entrypoint=openssl", "nginx:stable")
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_text(docker("run", "--rm", *image, *command.split()))
    file.chmod(0o644)  # nginx runs as a user of its own
    return file


@pytest.fixture(scope="module")
def elsewhere(started: Started, certificate: Path) -> Iterator[str]:
    """The address of the stack under a path prefix and with HTTPS."""
    port = free_ports(1)[0]
    stack = started.project
    changed = replace(
        stack,
        files=(ROOT / "docker" / "compose.tls.yml",),
        settings={
            "ROOT_PATH": PREFIX,
            "HTTPS_PORT": str(port),
            "TLS_CERTIFICATE": str(certificate),
            "TLS_KEY": str(certificate),
        },
    )
    try:
        changed.up()
        yield f"https://{LOOPBACK}:{port}"
    finally:
        stack.up()


def test_https_and_a_path_prefix(stack: Project, elsewhere: str, certificate: Path) -> None:
    trust = ssl.create_default_context(cafile=certificate)
    with httpx2.Client(
        base_url=elsewhere, verify=trust, timeout=30, trust_env=False, headers=bearer(stack.key)
    ) as client:
        for path in (f"{PREFIX}{DOCUMENTS}", DOCUMENTS):  # a proxy before us may strip it
            response = client.post(path, json={"content": "encrypted"})
            assert response.status_code == 202, response.text
            place = f"{PREFIX}{DOCUMENTS}/{response.json()['id']}"
            assert response.headers["Location"] == place
            stored(client, response.json()["id"])
            assert client.get(place).status_code == 200
        assert "max-age" in client.get(f"{PREFIX}/livez").headers["Strict-Transport-Security"]
        problem(client.get(f"{PREFIX}/metrics"), 404)
        assert client.get(f"{PREFIX}/flower/metrics").status_code == 401
        for dashboard in ("flower", "rabbitmq"):
            response = client.get(f"{PREFIX}/{dashboard}")
            assert response.headers["Location"] == f"{PREFIX}/{dashboard}/"
        assert client.get(f"{PREFIX}/flower/").status_code == 401


def test_http_leads_to_https(stack: Project, elsewhere: str) -> None:
    with stack.client() as client:
        response = client.post(f"{PREFIX}{DOCUMENTS}", json={"content": "not encrypted"})
    assert response.status_code == 308
    assert response.headers["Location"] == f"{elsewhere}{PREFIX}{DOCUMENTS}"


@pytest.mark.chromium
def test_the_pages_work_under_the_prefix(stack: Project, elsewhere: str, browser: Browser) -> None:
    login = HttpCredentials(username="admin", password=stack.values["FLOWER_PASSWORD"])
    context = browser.new_context(ignore_https_errors=True, http_credentials=login)
    page = context.new_page()
    seen = Seen(page, elsewhere)
    page.goto(f"{elsewhere}{PREFIX}/docs", wait_until="networkidle")
    expect(page.get_by_text("Create Document").first).to_be_visible(timeout=20_000)
    seen.nothing_wrong()
    page.goto(f"{elsewhere}{PREFIX}/flower/")
    expect(page.locator("#workers-table")).to_contain_text("maintenance@", timeout=30_000)
    page.goto(f"{elsewhere}{PREFIX}/rabbitmq/")
    expect(page.locator("input[name=password]")).to_be_visible(timeout=20_000)
    context.close()
