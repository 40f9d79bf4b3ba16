"""Search over HTTP: what is found, in which form, page by page, and what is refused."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from shared.db import Database
from shared.store import search
from tests.shared.store.samples import Sender, document_id, open_empty, put
from tests.stack import Api

DOCUMENTS = "/v1/documents"
ONE, TWO, THREE, FOUR = (document_id(number) for number in range(1, 5))


@pytest.fixture(scope="module")
def database(module_database_url: str) -> Iterator[Database]:
    database = open_empty(module_database_url)
    sender = Sender(database)
    sender.send(put(ONE, 10, "fruit: apples <b>&amp;</b> pears", source="mail"))
    sender.send(put(TWO, 10, "fruit: an apple, apple, apple", metadata={"n": 7}))
    sender.send(put(THREE, 10, "tool: no fruit here"))
    sender.send(*(put(document_id(n), 10, f"many: needle {n}") for n in range(100, 130)))
    while _index(database):
        pass
    sender.send(put(FOUR, 10, "tool: apple tree, not indexed yet"))
    yield database
    database.close()


def _index(database: Database) -> int:
    with database.transaction() as session:
        return search.index(session)


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, database: Database
) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("api")
    with Api(folder, module_database_url, f"spool://{folder}/spool") as api, api.client() as client:
        yield client


def found(client: httpx2.Client, **parameters: Any) -> dict[str, Any]:
    response = client.get(DOCUMENTS, params=parameters)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


def ids(page: dict[str, Any]) -> list[str]:
    return [each["id"] for each in page["data"]]


def refused(client: httpx2.Client, **parameters: Any) -> list[str]:
    response = client.get(DOCUMENTS, params=parameters)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return [each["pointer"] for each in response.json()["errors"]]


def test_the_best_come_first_with_a_snippet(client: httpx2.Client) -> None:
    page = found(client, q="apple")
    assert ids(page) == [TWO, ONE]
    first, second = page["data"]
    assert first["rank"] > second["rank"] > 0
    assert first["content"] == "fruit: an apple, apple, apple"
    assert first["snippet"].count("<mark>apple</mark>") == 3
    assert "<b>" not in second["snippet"]
    assert (page["ranked_over"], page["exact"]) == (2, True)
    assert (page["next_cursor"], page["has_more"]) == (None, False)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"source": "mail"}, [ONE]),
        ({"category": "fruit:"}, [TWO, ONE]),
        ({"category": "tool:"}, []),
        ({"metadata.n": "7"}, [TWO]),
        ({"status": "failed"}, []),
        ({"created_after": "2020-01-01T00:00:00Z"}, [TWO, ONE]),
        ({"created_after": "2999-01-01T00:00:00Z"}, []),
        ({"created_before": "2020-01-01T00:00:00Z"}, []),
    ],
)
def test_filters_combine(
    client: httpx2.Client, parameters: dict[str, str], expected: list[str]
) -> None:
    assert ids(found(client, q="apple", **parameters)) == expected


def test_nothing_found_is_an_empty_page(client: httpx2.Client) -> None:
    page = found(client, q="nowhere")
    assert page == {
        "data": [], "next_cursor": None, "has_more": False, "ranked_over": 0, "exact": True
    }  # fmt: skip


def test_pages_by_cursor_and_by_link(client: httpx2.Client) -> None:
    seen: list[str] = []
    url = f"{DOCUMENTS}?q=needle&limit=7"
    for _ in range(5):
        response = client.get(url)
        page = response.json()
        assert (page["ranked_over"], page["exact"]) == (30, True)
        seen += ids(page)
        if not page["has_more"]:
            break
        url = response.links["next"]["url"]
        assert page["next_cursor"] in url
    assert sorted(seen) == [document_id(n) for n in range(100, 130)]


def test_a_cursor_is_of_one_search(client: httpx2.Client) -> None:
    cursor = found(client, q="needle", limit=2)["next_cursor"]
    plain = found(client, limit=2)["next_cursor"]
    assert refused(client, q="needles", cursor=cursor) == ["/query/cursor"]
    assert refused(client, q="needle", source="mail", cursor=cursor) == ["/query/cursor"]
    assert refused(client, cursor=cursor) == ["/query/cursor"]
    assert refused(client, q="needle", cursor=plain) == ["/query/cursor"]
    assert refused(client, q="needle", cursor="x") == ["/query/cursor"]
    response = client.get("/v1/dead-letters", params={"cursor": cursor})
    assert response.status_code == 422


@pytest.mark.parametrize("q", ["the", "-apple", "apple or -pear", "!", "", "x" * 501, "x" * 10_000])
def test_a_query_without_a_word_or_too_long_is_refused(client: httpx2.Client, q: str) -> None:
    assert refused(client, q=q) == ["/query/q"]


def test_nul_and_other_sorts_are_refused(client: httpx2.Client) -> None:
    assert refused(client, q="a\0b") == ["/query/q"]
    assert refused(client, q="apple", sort="created_at") == ["/query/sort"]


@pytest.mark.parametrize(
    "q", ["apple' OR 1=1 --", "apple :* & | ! ( <->", "apple %s {0} \\", 'apple "', "apple" * 100]
)
def test_no_query_breaks(client: httpx2.Client, q: str) -> None:
    assert found(client, q=q)["exact"] is True
