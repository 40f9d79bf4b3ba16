"""Up in time, and documents through nginx are all stored."""

import httpx2
import pytest

from tests.compose.conftest import POSTS, SUMMARY, Sent, Started
from tests.stack import ledger, revisions


def test_all_is_healthy_in_ninety_seconds(started: Started) -> None:
    assert started.seconds_healthy <= 90


def test_two_thousand_posts_through_nginx_are_all_stored(
    client: httpx2.Client, sent: Sent, pytestconfig: pytest.Config
) -> None:
    assert len(sent.ids) == POSTS
    assert sent.ids <= revisions(client).keys()
    account = ledger(client)
    assert account["in_flight"] == account["dead"] == account["failed"] == 0
    rate = POSTS / sent.seconds
    pytestconfig.stash[SUMMARY].append(f"{POSTS} posts through nginx, {rate:.0f} a second")
