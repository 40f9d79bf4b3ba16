"""Classifying texts that are not stored."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from api import body
from api.auth import Classifying
from api.deps import ServicesDep
from api.errors import Invalid
from api.openapi import problems, ref, request_body
from api.responses import json_response
from api.schemas.classification import ClassifiedOut, ClassifyTextIn, ClassifyTextsIn
from api.schemas.problem import FieldError
from api.validation import refuse_parameters, required
from shared.messages import Answer, NoAnswer

router = APIRouter(prefix="/v1/classify", tags=["classify"])

_BODY: Final = request_body({body.JSON: {"oneOf": [ref(ClassifyTextIn), ref(ClassifyTextsIn)]}})
_CLASSIFIED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": ClassifiedOut, "description": "What the texts are, in their order."},
}


@router.post(
    "",
    operation_id="classifyTexts",
    response_model=None,
    openapi_extra=_BODY,
    responses=_CLASSIFIED | problems(400, 413, 415, 422, 503),
)
async def classify_texts(request: Request, services: ServicesDep, _: Classifying) -> Response:
    """Classify one text, or several at once. Nothing is stored.

    A worker answers, before it goes on with documents that wait. If none does within 5 seconds,
    the answer is 503 with `Retry-After`. If the classifier cannot bear a text, it is 422.
    """
    refuse_parameters(request)
    body.media_type(request, (body.JSON,))
    raw = await body.read(request)
    value = body.parse(raw)
    several = isinstance(value, dict) and "contents" in value
    context = {"max_content_bytes": services.settings.max_content_bytes}
    asked: ClassifyTextIn | ClassifyTextsIn = (
        required(ClassifyTextsIn, value, context)
        if several
        else required(ClassifyTextIn, value, context)
    )
    texts = asked.contents if isinstance(asked, ClassifyTextsIn) else [asked.content]
    answers = await services.classifier.classify(
        texts, len(raw), top=asked.top, explain=asked.explain
    )
    _check(asked, answers)
    return json_response(HTTPStatus.OK, {"results": answers})


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
