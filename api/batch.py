"""A batch of documents: read from a request's body, checked item by item, and said what became."""

from collections.abc import Sequence
from itertools import count, islice
from typing import Any

from fastapi import Request

from api import body
from api.deps import Services
from api.errors import Invalid
from api.intake import keyed_id, stamped
from api.schemas.document import OUTCOMES, DocumentIn
from api.schemas.problem import FieldError
from api.settings import MAX_BATCH
from api.validation import validated
from shared.decide import Outcome
from shared.messages import Document

Item = tuple[Any, list[FieldError], str]
"""A document of a batch: its JSON value, what is wrong with that, and "line 3: " or ""."""


async def read_batch(request: Request) -> tuple[list[Item], int]:
    """Return the documents of a request as they came, and the size of its body in bytes.

    Raises:
        Problem: the body is none of a batch, or has too many or too few.
    """
    kind = body.media_type(request, (body.JSON, body.NDJSON))
    raw = await body.read(request)
    if kind == body.NDJSON:
        lines = list(islice(body.lines(raw), MAX_BATCH + 1))
        _check_count(lines)
        items = [(*body.parse_line(line), f"line {number}: ") for number, line in lines]
    else:
        values = body.parse(raw)
        if not isinstance(values, list):
            error = FieldError.of([], "must be an array of documents")
            raise Invalid("The batch is no array.", errors=[error])
        _check_count(values)
        items = [(value, [], "") for value in values]
    return items, len(raw)


def _check_count(items: Sequence[object]) -> None:
    # Before anything is done with each: a body has room for millions.
    if not 1 <= len(items) <= MAX_BATCH:
        error = FieldError.of([], f"must have 1 to {MAX_BATCH} documents")
        raise Invalid("The batch has too many or too few documents.", errors=[error])


class Batch:
    """The documents of a batch: those that are fine, stamped, and what is wrong with the others."""

    def __init__(
        self,
        items: Sequence[Item],
        services: Services,
        request_id: str,
        caller: str,
        key: str | None,
    ) -> None:
        self._entries: list[Document | list[FieldError]] = []
        first: dict[str, int] = {}
        limit = services.settings.max_content_bytes
        for index, (value, wrong, line) in enumerate(items):
            entry: Document | list[FieldError]
            document = _at(wrong, index, line) or validated(value, limit, [index], line)
            if isinstance(document, DocumentIn):
                keyed = None if key is None else keyed_id(caller, key, index)
                entry = stamped(document, services.clock, request_id, keyed)
                if (other := first.setdefault(entry["id"], index)) != index:
                    field = "id" if document.id else "external_id"
                    detail = f"{line}must not be the same document as item {other}"
                    entry = [FieldError.of([index, field], detail)]
            else:
                entry = document
            self._entries.append(entry)

    @property
    def accepted(self) -> list[Document]:
        """The documents that are fine."""
        return [entry for entry in self._entries if isinstance(entry, dict)]

    @property
    def errors(self) -> list[FieldError]:
        """What is wrong, item by item."""
        return [error for entry in self._entries if isinstance(entry, list) for error in entry]

    def accepted_out(self, task_id: str | None, letters: str | None = None) -> dict[str, Any]:
        """Return the body of the 202 or, with a letter a document, of the 200."""
        documents = [
            {"id": each["id"], "revision": each["stamp"]} | _outcome(letters, place)
            for place, each in enumerate(self.accepted)
        ]
        return {"accepted": len(documents), "task_id": task_id, "documents": documents}

    def partial_out(self, task_id: str | None, letters: str | None = None) -> dict[str, Any]:
        """Return the body of the 207."""
        places = count()
        entries = [
            {"status": "accepted", "id": each["id"], "revision": each["stamp"]}
            | _outcome(letters, next(places))
            if isinstance(each, dict)
            else {"status": "refused", "errors": [error.model_dump() for error in each]}
            for each in self._entries
        ]
        accepted = len(self.accepted)
        return {
            "accepted": accepted,
            "refused": len(self._entries) - accepted,
            "task_id": task_id,
            "documents": entries,
        }


def _at(errors: list[FieldError], index: int, line: str) -> list[FieldError]:
    return [
        FieldError(pointer=f"/{index}{each.pointer}", detail=line + each.detail) for each in errors
    ]


def _outcome(letters: str | None, place: int) -> dict[str, str]:
    return {} if letters is None else {"outcome": OUTCOMES[Outcome(letters[place])]}
