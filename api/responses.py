"""Responses that are encoded here rather than by the framework, which would check them again."""

from http import HTTPStatus

import orjson
from fastapi import Response


def json_response(
    status: HTTPStatus, value: object, headers: dict[str, str] | None = None
) -> Response:
    """Return a response whose body is `value` as JSON."""
    return Response(orjson.dumps(value), status, headers, media_type="application/json")
