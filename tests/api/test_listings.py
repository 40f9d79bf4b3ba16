"""Lists and facets over HTTP: parameters, refusals, cursors, links."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from shared.db import Database
from tests.shared.store.samples import Sender, document_id, open_empty, put
from tests.stack import Api

DOCUMENTS = "/v1/documents"
ONE, TWO, THREE, FOUR = (document_id(number) for number in range(1, 5))
METADATA = {"who": {"name": "mira"}, "tags": ["a", "b"], "n": 7, "a&b=c": "ö ä", "a.b": "dot"}


@pytest.fixture(scope="module")
def database(module_database_url: str) -> Iterator[Database]:
    database = open_empty(module_database_url)
    sender = Sender(database)
    sender.send(put(ONE, 10, "alpha", source="mail", metadata=METADATA))
    sender.send(put(TWO, 10, "alpha two", label="human", external_id="x-1"))
    sender.send(put(THREE, 10, "bad"))
    sender.send(put(FOUR, 10, "beta", source="mail"))
    yield database
    database.close()


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, database: Database
) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("api")
    with Api(folder, module_database_url, f"spool://{folder}/spool") as api, api.client() as client:
        yield client


def listed(client: httpx2.Client, **parameters: Any) -> list[str]:
    response = client.get(DOCUMENTS, params=parameters)
    assert response.status_code == 200, response.text
    assert response.json()["has_more"] is False
    return [each["id"] for each in response.json()["data"]]


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ({}, [FOUR, THREE, TWO, ONE]),
        ({"category": "alpha"}, [ONE]),
        ({"source": "mail"}, [FOUR, ONE]),
        ({"external_id": "x-1"}, [TWO]),
        ({"status": "failed"}, [THREE]),
        ({"label": "human"}, [TWO]),
        ({"category_source": "human"}, [TWO]),
        ({"category_source": "model", "status": "stored"}, [FOUR, ONE]),
        ({"model_version": "model-1", "source": "mail"}, [FOUR, ONE]),
        ({"confidence_below": "0.05"}, [FOUR]),
        ({"created_after": "2020-01-01T00:00:00Z", "source": "mail"}, [FOUR, ONE]),
        ({"created_before": "2020-01-01T00:00:00+02:00"}, []),
        ({"created_after": "0001-01-01T00:00:00+14:00", "status": "failed"}, [THREE]),
        ({"created_before": "9999-12-31T23:59:59-14:00", "status": "failed"}, [THREE]),
        ({"sort": "created_at"}, [ONE, TWO, THREE, FOUR]),
        ({"sort": "confidence"}, [FOUR, ONE]),
        ({"sort": "-confidence"}, [ONE, FOUR]),
        ({"metadata.who.name": "mira"}, [ONE]),
        ({"metadata.tags": "b", "metadata.n": "7"}, [ONE]),
        ({"metadata.tags": "b", "metadata.n": "8"}, []),
        ({"metadata.a&b=c": "ö ä"}, [ONE]),
        ({r"metadata.a\.b": "dot"}, [ONE]),
        ({"metadata.": ""}, []),
        ({f"metadata.{'a.' * 99}": ""}, []),
    ],
)
def test_parameters_choose(
    client: httpx2.Client, parameters: dict[str, str], found: list[str]
) -> None:
    assert listed(client, **parameters) == found


@pytest.mark.parametrize(
    ("query", "pointer", "reason"),
    [
        ("page=2", "/query/page", "is not a known field"),
        ("metadata=x", "/query/metadata", "is not a known field"),
        ("Metadata.a=x", "/query/Metadata.a", "is not a known field"),
        ("source=a&source=b", "/query/source", "is given more than once"),
        ("metadata.a=1&metadata.a=2", "/query/metadata.a", "is given more than once"),
        ("limit=0", "/query/limit", "must be 1 or more"),
        ("source=", "/query/source", "must not be empty"),
        ("source=%00", "/query/source", "must not contain NUL"),
        ("metadata.a=%00", "/query/metadata.a", "must not contain NUL"),
        ("metadata.%00=a", "/query/metadata.\\u0000", "must not contain NUL"),
        (f"metadata.{'a' * 513}=a", f"/query/metadata.{'a' * 91}", "must not be longer than 512"),
        (f"metadata.a={'a' * 513}", "/query/metadata.a", "must not be longer than 512"),
        (f"metadata.{'.' * 100}=a", f"/query/metadata.{'.' * 91}", "deeper than 100 levels"),
        ("&".join(f"metadata.{n}=1" for n in range(11)), "/query", "more than 10 filters"),
        ("confidence_below=2", "/query/confidence_below", "must be 1.0 or less"),
        ("confidence_below=nan", "/query/confidence_below", ""),
        ("created_after=2026-01-01", "/query/created_after", "a time with its offset"),
        ("created_after=2026-01-01T00:00:00", "/query/created_after", "a time with its offset"),
        ("sort=id", "/query/sort", "created_at"),
        ("category_source=me", "/query/category_source", "'model' or 'human'"),
        ("cursor=x", "/query/cursor", "is not a cursor of this list"),
    ],
)
@pytest.mark.parametrize("path", [DOCUMENTS, f"{DOCUMENTS}/facets", f"{DOCUMENTS}/export"])
def test_wrong_parameters_are_refused(
    client: httpx2.Client, path: str, query: str, pointer: str, reason: str
) -> None:
    if path.endswith("/export") and ("limit" in query or "cursor" in query):
        reason = "is not a known field"
    if path.endswith("/facets") and ("sort" in query or "cursor" in query):
        reason = "is not a known field"
    response = client.get(f"{path}?{query}")
    assert response.status_code == 422, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    [error] = response.json()["errors"]
    assert error["pointer"] == pointer.replace("\\u0000", "\0")
    assert reason in error["detail"]


def test_pages_are_linked_and_cursors_stay_with_their_list(client: httpx2.Client) -> None:
    first = client.get(DOCUMENTS, params={"source": "mail", "limit": 1, "sort": "-created_at"})
    page = first.json()
    assert [each["id"] for each in page["data"]] == [FOUR]
    assert page["has_more"] is True
    following = client.get(first.links["next"]["url"])
    assert [each["id"] for each in following.json()["data"]] == [ONE]
    assert (following.json()["next_cursor"], following.links) == (None, {})
    cursor = page["next_cursor"]
    assert [each["id"] for each in client.get(
        DOCUMENTS, params={"cursor": cursor, "source": "mail", "limit": 9}
    ).json()["data"]] == [ONE]  # fmt: skip
    for other in ({}, {"source": "ftp"}, {"source": "mail", "sort": "created_at"},
                  {"source": "mail", "metadata.a": "1"}, {"category": "mail"}):  # fmt: skip
        response = client.get(DOCUMENTS, params={"cursor": cursor, **other})
        assert response.status_code == 422
        [error] = response.json()["errors"]
        assert error["pointer"] == "/query/cursor"
        assert "other filters" in error["detail"]


def test_metadata_filters_stay_in_the_link(client: httpx2.Client, database: Database) -> None:
    Sender(database).send(
        *(put(document_id(100 + n), 10, "gamma", metadata={"a&b": "c d"}) for n in range(3))
    )
    seen = []
    url = f"{DOCUMENTS}?metadata.a%26b=c%20d&limit=1"
    for _ in range(3):
        response = client.get(url)
        seen += [each["id"] for each in response.json()["data"]]
        url = response.links.get("next", {"url": ""})["url"]
    assert url == ""
    assert seen == [document_id(100 + n) for n in (2, 1, 0)]
    for n in range(3):
        client.delete(f"{DOCUMENTS}/{document_id(100 + n)}").raise_for_status()


def test_facets_count(client: httpx2.Client) -> None:
    assert client.get(f"{DOCUMENTS}/facets").json() == {
        "documents": 4,
        "exact": True,
        "facets": [
            {
                "field": "category",
                "has_more": False,
                "values": [
                    {"value": "alpha", "documents": 1},
                    {"value": "beta", "documents": 1},
                    {"value": "human", "documents": 1},
                ],
            },
            {
                "field": "source",
                "has_more": False,
                "values": [{"value": "mail", "documents": 2}],
            },
            {
                "field": "status",
                "has_more": False,
                "values": [
                    {"value": "stored", "documents": 3},
                    {"value": "failed", "documents": 1},
                ],
            },
        ],
    }


def test_facets_of_a_filter(client: httpx2.Client) -> None:
    found = client.get(f"{DOCUMENTS}/facets", params={"source": "mail", "by": "status,category"})
    assert found.json()["documents"] == 2
    assert [each["field"] for each in found.json()["facets"]] == ["status", "category"]
    few = client.get(f"{DOCUMENTS}/facets", params={"by": "category", "limit": 1}).json()
    assert few["facets"][0]["has_more"] is True
    assert len(few["facets"][0]["values"]) == 1
    for by in ("", "id", "category,", "category,,source", "category\n"):
        refused = client.get(f"{DOCUMENTS}/facets", params={"by": by})
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/query/by")


def test_a_list_that_looks_at_too_much_is_refused_in_time(
    client: httpx2.Client, database: Database
) -> None:
    """Another's lock stands in for millions of rows: the statement does not end either way."""
    with database.transaction() as session:
        session.execute(text("LOCK TABLE documents IN ACCESS EXCLUSIVE MODE"))
        broad = client.get(DOCUMENTS, params={"metadata.a": "1"})
        assert broad.status_code == 422, broad.text
        assert "Too many documents" in broad.json()["detail"]
        assert "Retry-After" not in broad.headers
        assert broad.elapsed.total_seconds() < 4
        # One that an index finds is never too broad: then it is the database that fails.
        assert client.get(DOCUMENTS, params={"source": "a"}).status_code == 503
    assert client.get(DOCUMENTS, params={"metadata.a": "1"}).status_code == 200
