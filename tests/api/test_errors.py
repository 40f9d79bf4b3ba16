"""The shape of errors: this module owns it."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

import httpx2
import orjson
import pytest
from fastapi import FastAPI

from api import errors
from api.errors import ContentTooLarge, Invalid, Malformed, UnsupportedMediaType
from api.middleware import FOR_DATA, RequestId
from api.schemas.problem import FieldError
from shared import errors as domain
from shared.errors import BrokerUnavailable, DatabaseUnavailable, DocumentNotFound, PostroomError

Get = Callable[[Exception], httpx2.Response]


@pytest.fixture
def get() -> Get:
    """Ask an app whose only route raises."""

    def get(error: Exception) -> httpx2.Response:
        app = FastAPI()
        errors.install(app)
        app.add_middleware(RequestId)

        @app.get("/fails")
        async def fails() -> None:
            raise error

        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)

        async def ask() -> httpx2.Response:
            async with httpx2.AsyncClient(transport=transport, base_url="http://api") as client:
                return await client.get("/fails", headers={"X-Request-Id": "mine"})

        return asyncio.run(ask())

    return get


def test_the_shape(get: Get) -> None:
    wrong = [FieldError(pointer="/content", detail="must not be empty")]
    response = get(Invalid("The document has wrong fields.", errors=wrong))
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Request-Id"] == "mine"
    assert response.json() == {
        "type": "about:blank",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "The document has wrong fields.",
        "instance": "/fails",
        "request_id": "mine",
        "errors": [{"pointer": "/content", "detail": "must not be empty"}],
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Malformed("x"), 400),
        (ContentTooLarge("x"), 413),
        (UnsupportedMediaType("x"), 415),
        (Invalid("x"), 422),
        (DocumentNotFound(), 404),
        (BrokerUnavailable("secret host"), 503),
        (DatabaseUnavailable("secret host"), 503),
        (RuntimeError("secret host"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_error_has_its_status(get: Get, error: Exception, status: int) -> None:
    response = get(error)
    assert (response.status_code, response.json()["status"]) == (status, status)
    assert "errors" not in response.json()
    assert "secret" not in response.text
    assert response.headers["X-Request-Id"] == response.json()["request_id"] == "mine"


def test_browsers_are_told_to_be_careful_where_all_else_failed(get: Get) -> None:
    headers = get(RuntimeError("x")).headers
    for name, value in FOR_DATA:
        assert headers.get_list(name.decode()) == [value.decode()]


def test_the_instance_is_the_path_alone_and_a_reference() -> None:
    body = errors.content(HTTPStatus.NOT_FOUND, "x", "/a b/ä?c", "mine")
    assert orjson.loads(body)["instance"] == "/a%20b/%C3%A4%3Fc"


def test_every_error_of_the_domain_has_a_status(get: Get) -> None:
    kinds = [
        kind
        for kind in vars(domain).values()
        if isinstance(kind, type) and issubclass(kind, PostroomError) and kind is not PostroomError
    ]
    assert kinds
    for kind in kinds:
        response = get(kind())
        assert response.status_code in {404, 412, 422, 503}
        # A backlog, or an export, takes longer to work off than a server to come back.
        longer = {
            domain.BacklogFull: "5",
            domain.IssuerUnavailable: "5",
            domain.TooManyExports: "10",
        }
        seconds = longer.get(kind, "1")
        expected = seconds if response.status_code in {404, 503} else None
        assert response.headers.get("Retry-After") == expected


def test_headers_of_an_error_are_sent(get: Get) -> None:
    error = UnsupportedMediaType("x", headers={"Accept-Encoding": "gzip"})
    assert get(error).headers["Accept-Encoding"] == "gzip"
