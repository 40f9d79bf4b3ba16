"""A real Chromium, and what its pages did that they should not."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    Response,
    Route,
    sync_playwright,
)


class Seen:
    """What a page did that it should not: requests elsewhere, failed ones, errors of scripts."""

    def __init__(self, page: Page, origin: str) -> None:
        self._origin = origin
        self.foreign: list[str] = []
        self.failed: list[str] = []
        self.errors: list[str] = []
        page.route("**/*", self._pass)
        page.on("requestfailed", self._see_failure)
        page.on("response", self._see_response)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._see_line)

    def nothing_wrong(self) -> None:
        wrong = [*self.foreign, *self.failed, *self.errors]
        assert not wrong, wrong

    def _see_failure(self, request: Request) -> None:
        # A page that is left gives up what it was still asking for.
        if request.failure != "net::ERR_ABORTED":
            self.failed.append(f"{request.url}: {request.failure}")

    def _see_response(self, response: Response) -> None:
        # A redirect is followed, a 304 comes from the cache: both are fine.
        if response.status >= 400:
            self.failed.append(response.url)

    def _see_line(self, line: ConsoleMessage) -> None:
        if line.type == "error":
            self.errors.append(line.text)

    def _pass(self, route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.scheme in {"data", "blob"} or f"{url.scheme}://{url.netloc}" == self._origin:
            route.continue_()
        else:
            self.foreign.append(route.request.url)
            route.abort()


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium's own sandbox refuses to start as root; the only pages it sees are ours.
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser
        browser.close()
