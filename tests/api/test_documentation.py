"""The documentation: complete, and readable in a browser that reaches nothing but the API."""

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import jsonschema_rs
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import Seen, browser
from tests.stack import Api

__all__ = ["browser"]

pytestmark = pytest.mark.rabbitmq

OPERATIONS = {
    ("post", "/v1/documents"),
    ("post", "/v1/documents/batch"),
    ("put", "/v1/documents/{document_id}"),
    ("patch", "/v1/documents/{document_id}"),
    ("get", "/v1/documents/{document_id}"),
    ("get", "/v1/documents"),
    ("get", "/v1/documents/facets"),
    ("get", "/v1/documents/export"),
    ("patch", "/v1/documents/{document_id}"),
    ("delete", "/v1/documents/{document_id}"),
    ("post", "/v1/documents/{document_id}/reclassify"),
    ("post", "/v1/documents/reclassify"),
    ("post", "/v1/classify"),
    ("get", "/v1/documents/{document_id}/history"),
    ("get", "/v1/categories"),
    ("get", "/v1/stats"),
    ("get", "/v1/dead-letters"),
    ("get", "/v1/dead-letters/groups"),
    ("get", "/v1/dead-letters/{letter_id}"),
    ("post", "/v1/dead-letters/{letter_id}/replay"),
    ("post", "/v1/dead-letters/replay"),
    ("delete", "/v1/dead-letters/{letter_id}"),
    ("delete", "/v1/dead-letters"),
    ("post", "/v1/imports"),
    ("get", "/v1/imports"),
    ("get", "/v1/imports/{import_id}"),
    ("get", "/v1/imports/{import_id}/rejects"),
    ("delete", "/v1/imports/{import_id}"),
    ("get", "/v1/keys"),
    ("post", "/v1/keys"),
    ("post", "/v1/keys/{key_id}/rotate"),
    ("delete", "/v1/keys/{key_id}"),
    ("get", "/v1/audit"),
    ("get", "/v1/status"),
    ("get", "/v1/ledger"),
    ("post", "/v1/token"),
    ("post", "/v1/documents/reclassify"),
    ("post", "/v1/documents/{document_id}/reclassify"),
    ("get", "/v1/dead-letters"),
    ("get", "/v1/dead-letters/groups"),
    ("get", "/v1/dead-letters/{letter_id}"),
    ("post", "/v1/dead-letters/replay"),
    ("post", "/v1/dead-letters/{letter_id}/replay"),
    ("delete", "/v1/dead-letters/{letter_id}"),
    ("delete", "/v1/dead-letters"),
    ("get", "/metrics"),
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", "/health"),
    ("get", "/metrics"),
}


@pytest.fixture(scope="module")
def schema(client: httpx2.Client) -> dict[str, Any]:
    schema: dict[str, Any] = client.get("/openapi.json").json()
    return schema


def test_every_operation_is_described(schema: dict[str, Any]) -> None:
    operations = {
        (method, path): operation
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }
    assert operations.keys() == OPERATIONS
    for operation in operations.values():
        assert operation["description"]
        assert "application/problem+json" in operation["responses"]["default"]["content"]
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(OPERATIONS)


def test_every_answer_has_an_example_that_its_schema_allows(schema: dict[str, Any]) -> None:
    checked = 0
    for methods in schema["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                assert response["description"]
                for content in response.get("content", {}).values():
                    whole = {**content["schema"], "components": schema["components"]}
                    jsonschema_rs.validate(whole, content["example"], validate_formats=True)
                    checked += 1
    assert checked > 100


def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    names = set(re.findall(r"'#/components/schemas/(\w+)'", str(schema)))
    assert "DocumentIn" in names
    assert names == schema["components"]["schemas"].keys()


def test_bodies_and_answers_are_described(schema: dict[str, Any]) -> None:
    post = schema["paths"]["/v1/documents"]["post"]
    content = post["requestBody"]["content"]
    assert content["application/json"]["schema"]["$ref"].endswith("/DocumentIn")
    assert {"202", "400", "413", "415", "422", "503"} <= post["responses"].keys()
    batch = schema["paths"]["/v1/documents/batch"]["post"]
    assert batch["requestBody"]["content"].keys() == {"application/json", "application/x-ndjson"}
    assert {"202", "207"} <= batch["responses"].keys()


def test_the_example_is_accepted(client: httpx2.Client, schema: dict[str, Any]) -> None:
    example = schema["components"]["schemas"]["DocumentIn"]["example"]
    assert client.post("/v1/documents", json=example).status_code == 202


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    page.set_default_timeout(20_000)
    yield page
    page.close()


@pytest.mark.chromium
@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_page_shows_every_operation(
    api: Api, client: httpx2.Client, page: Page, path: str
) -> None:
    seen = Seen(page, api.url)
    page.goto(f"{api.url}{path}", wait_until="networkidle")
    expect(page.get_by_text("Create Document").locator("visible=true").first).to_be_visible(
        timeout=20_000
    )
    text = page.locator("body").inner_text().replace("\u200b", "").lower()
    for summary in ("create documents", "replace document", "delete document", "get ledger"):
        assert summary in text
    seen.nothing_wrong()


@pytest.mark.chromium
def test_an_operation_can_be_tried_from_the_page(
    api: Api, client: httpx2.Client, page: Page
) -> None:
    seen = Seen(page, api.url)
    page.goto(f"{api.url}/docs")
    page.locator("#operations-health-getLiveness").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table tbody .response-col_status").first).to_contain_text(
        "200"
    )
    seen.nothing_wrong()
