"""Classifying texts that are not stored."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api import body
from api.deps import ServicesDep
from api.errors import Invalid
from api.openapi import problems, ref, request_body
from api.responses import json_response
from api.schemas.classification import ClassifiedOut, ClassifyTextIn, ClassifyTextsIn
from api.schemas.problem import FieldError
from shared.messages import Answer, NoAnswer

router = APIRouter(prefix="/v1/classify", tags=["classify"])

_BODY: Final = request_body({body.JSON: {"oneOf": [ref(ClassifyTextIn), ref(ClassifyTextsIn)]}})
_CLASSIFIED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": ClassifiedOut, "description": "What the texts are, in their order."},
}

_MAX_FIELDS: Final = 20
"""Fields of a body that are looked at: there are three."""


@router.post(
    "",
    operation_id="classifyTexts",
    response_model=None,
    openapi_extra=_BODY,
    responses=_CLASSIFIED | problems(400, 413, 415, 422, 503),
)
async def classify_texts(request: Request, services: ServicesDep) -> Response:
    """Classify one text, or several at once. Nothing is stored.

    A worker answers, before it goes on with documents that wait. If none does within 5 seconds,
    the answer is 503 with `Retry-After`. If the classifier cannot bear a text, it is 422.
    """
    if request.query_params:
        errors = [FieldError.of(["query", key], "is not known") for key in request.query_params]
        raise Invalid("The request has wrong parameters.", errors=errors)
    body.media_type(request, (body.JSON,))
    raw = await body.read(request)
    asked = _validated(body.parse(raw), services.settings.max_content_bytes)
    texts = asked.contents if isinstance(asked, ClassifyTextsIn) else [asked.content]
    answers = await services.classifier.classify(
        texts, len(raw), top=asked.top, explain=asked.explain
    )
    _check(asked, answers)
    return json_response(HTTPStatus.OK, {"results": answers})


def _validated(value: object, max_content_bytes: int) -> ClassifyTextIn | ClassifyTextsIn:
    several = isinstance(value, dict) and "contents" in value
    model = ClassifyTextsIn if several else ClassifyTextIn
    if isinstance(value, dict) and len(value) > _MAX_FIELDS:
        # pydantic would name each of them, and a body has room for half a million.
        errors = [FieldError.of([], f"must not have more than {_MAX_FIELDS} fields")]
        raise Invalid("The request has wrong fields.", errors=errors)
    try:
        return model.model_validate(value, context={"max_content_bytes": max_content_bytes})
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        raise Invalid(
            "The request has wrong fields.", errors=[FieldError.found(each) for each in found]
        ) from error


def _check(asked: ClassifyTextIn | ClassifyTextsIn, answers: Sequence[Answer | NoAnswer]) -> None:
    """Refuse texts that the classifier cannot bear."""
    several = isinstance(asked, ClassifyTextsIn)
    errors = [
        FieldError.of(
            ["contents", place] if several else ["content"],
            f"cannot be classified ({answer['error']})",
        )
        for place, answer in enumerate(answers)
        if "error" in answer
    ]
    if errors:
        raise Invalid("The classifier cannot bear a text.", errors=errors)
