"""Times in requests, whatever their form: none is an error of ours."""

import httpx2
import pytest

pytestmark = pytest.mark.rabbitmq

PATHS = ("/v1/dead-letters?since=", "/v1/stats?to=", "/v1/documents/facets?created_after=")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "time",
    [
        "2026-11-21T10:15:00Z",
        "2000-01-01T00:00:00%2B16:00",  # further than PostgreSQL's offsets go
        "0001-01-01T00:00:00%2B23:59",
        "9999-12-31T23:59:59.999999-23:59",
    ],
)
def test_every_time_of_rfc_3339_is_taken(client: httpx2.Client, path: str, time: str) -> None:
    assert client.get(f"{path}{time}").status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("time", ["0.5", "1763719200", "2026-11-21", "2026-11-21T10:15:00", "now"])
def test_anything_else_is_refused(client: httpx2.Client, path: str, time: str) -> None:
    assert client.get(f"{path}{time}").status_code == 422
