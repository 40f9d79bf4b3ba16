"""Responses that are encoded here rather than by the framework, which would check them again."""

from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import Response

from shared.messages import Document

DOCUMENTS: Final = "/v1/documents"
"""The path of the documents."""

CREATE_DOCUMENT: Final = "createDocument"
"""The operation that is answered in two places."""


def json_response(
    status: HTTPStatus, value: object, headers: dict[str, str] | None = None
) -> Response:
    """Return a response whose body is `value` as JSON."""
    return Response(orjson.dumps(value), status, headers, media_type="application/json")


def accepted(document: Document, task_id: str, root_path: str) -> tuple[dict[str, Any], str]:
    """Return the body of the 202 for a document, see `AcceptedOut`, and where the document is.

    Args:
        document: stamped.
        task_id: of the message that carries it.
        root_path: that of the API, behind a proxy.
    """
    body = {
        "id": document["id"],
        "revision": document["stamp"],
        "task_id": task_id,
        "status": "accepted",
        "accepted_at": document["accepted_at"],
    }
    return body, f"{root_path}{DOCUMENTS}/{document['id']}"
