"""What an operator sees in a browser: the queues, the workers, and what became of a document."""

import re
from collections.abc import Iterator

import httpx2
import pytest
from playwright.sync_api import Browser, HttpCredentials, Page, expect

from shared.queue import QUEUES
from tests.browser import Seen, browser
from tests.compose.conftest import Sent
from tests.compose.project import ROOT, Project
from tests.stack import stored

__all__ = ["browser"]

pytestmark = pytest.mark.chromium

SCREENSHOTS = ROOT / "docs" / "screenshots"
SECONDS = 30_000  # milliseconds, for playwright


@pytest.fixture
def page(browser: Browser, stack: Project) -> Iterator[Page]:
    """A page that is logged in to Flower, as a browser remembers it."""
    login = HttpCredentials(username="admin", password=stack.values["FLOWER_PASSWORD"])
    context = browser.new_context(
        http_credentials=login, viewport={"width": 1440, "height": 760}, color_scheme="light"
    )
    context.set_default_timeout(SECONDS)
    yield context.new_page()
    context.close()


def photograph(page: Page, name: str, request: pytest.FixtureRequest) -> None:
    """Keep what the page shows for the documentation, if asked to."""
    if request.config.getoption("--screenshots"):
        page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_flower_shows_the_workers_and_the_task_of_a_post(
    stack: Project,
    client: httpx2.Client,
    sent: Sent,
    page: Page,
    request: pytest.FixtureRequest,
) -> None:
    seen = Seen(page, stack.url)
    page.goto(f"{stack.url}/flower/")
    workers = page.locator("#workers-table")
    for name in ("worker@", "maintenance@"):
        expect(workers.locator("tr", has_text=name).first).to_contain_text("Online")

    answer = client.post("/v1/documents", json={"content": "to be seen in Flower"}).json()
    stored(client, answer["id"])
    page.goto(f"{stack.url}/flower/tasks")
    row = page.locator("#tasks-table tr", has_text=answer["task_id"])
    expect(row).to_contain_text("documents.ingest")
    expect(row).to_contain_text("SUCCESS")
    photograph(page, "flower", request)

    for task_id in (answer["task_id"], sent.first["task_id"]):
        page.goto(f"{stack.url}/flower/task/{task_id}")
        details = page.locator("#task-page")
        for text in (task_id, "documents.ingest", "SUCCESS"):
            expect(details).to_contain_text(text)
    seen.nothing_wrong()


def test_rabbitmq_shows_the_queues(
    stack: Project, sent: Sent, page: Page, request: pytest.FixtureRequest
) -> None:
    seen = Seen(page, stack.url)
    page.goto(f"{stack.url}/rabbitmq/")
    log_in(page, stack.values["RABBITMQ_PASSWORD"])
    expect(page.locator("#logout")).to_be_visible()
    page.goto(f"{stack.url}/rabbitmq/#/queues")
    for name in QUEUES:
        row = page.locator(
            "table.list tbody tr", has=page.get_by_role("link", name=name, exact=True)
        )
        expect(row).to_contain_text("quorum")
        expect(row).to_contain_text("running")
    photograph(page, "rabbitmq", request)
    page.goto(f"{stack.url}/rabbitmq/#/queues/%2F/ingest")
    consumers = page.locator("h2", has_text="Consumers")
    expect(consumers).to_have_text(re.compile(r"Consumers \([1-9]\d*\)"))
    assert not seen.foreign
    # RabbitMQ's scripts have errors of their own, but none for want of a permission.
    assert not [error for error in seen.errors if "Content Security Policy" in error]


def test_the_documentation_shows_the_api(
    stack: Project, page: Page, request: pytest.FixtureRequest
) -> None:
    seen = Seen(page, stack.url)
    page.goto(f"{stack.url}/docs", wait_until="networkidle")
    expect(page.get_by_text("Create Document").first).to_be_visible()
    photograph(page, "docs", request)
    page.locator("#operations-health-getReadiness").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    answer = page.locator(".live-responses-table tbody .response-col_status").first
    expect(answer).to_contain_text("200")
    seen.nothing_wrong()


@pytest.mark.parametrize("login", [None, ("admin", "wrong"), ("admin", "")])
@pytest.mark.parametrize(
    "path",
    [
        "/flower/", "/flower/tasks", "/flower/api/tasks", "/flower/broker", "/flower/metrics",
        "/rabbitmq/api/overview", "/rabbitmq/api/queues", "/rabbitmq/api/definitions",
    ],
)  # fmt: skip
def test_the_dashboards_refuse_without_their_password(
    stack: Project, client: httpx2.Client, path: str, login: tuple[str, str] | None
) -> None:
    response = client.get(path, auth=login) if login else client.get(path)
    assert response.status_code == 401, response.text


@pytest.mark.parametrize("path", ["/flower/", "/rabbitmq/api/overview"])
def test_the_password_of_one_does_not_open_the_other(
    stack: Project, client: httpx2.Client, path: str
) -> None:
    logins = {
        "/flower/": ("admin", stack.values["FLOWER_PASSWORD"]),
        "/rabbitmq/api/overview": ("postroom", stack.values["RABBITMQ_PASSWORD"]),
    }
    for owner, login in logins.items():
        assert client.get(path, auth=login).status_code == (200 if path == owner else 401)


def test_flowers_metrics_are_for_who_may_see_flower(stack: Project, client: httpx2.Client) -> None:
    response = client.get("/flower/metrics", auth=("admin", stack.values["FLOWER_PASSWORD"]))
    assert response.status_code == 200
    assert "flower_worker_online{" in response.text


def test_rabbitmqs_page_refuses_a_wrong_password(stack: Project, page: Page) -> None:
    page.goto(f"{stack.url}/rabbitmq/")
    log_in(page, "wrong")
    expect(page.locator("#login-status")).to_contain_text("Login failed")
    expect(page.locator("#logout")).to_have_count(0)


def log_in(page: Page, password: str) -> None:
    page.locator("input[name=username]").fill("postroom")
    page.locator("input[name=password]").fill(password)
    page.get_by_role("button", name="Login").click()
