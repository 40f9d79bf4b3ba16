"""The limit of accepting: a bare endpoint of the same framework, which does nothing.

It validates the same body and answers the same bytes. `python -m benchmarks.baseline.bare`.
"""

from datetime import UTC, datetime
from http import HTTPStatus
from time import time_ns
from typing import Final
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel
from uuid_utils.compat import uuid7

from benchmarks.baseline.server import DocumentIn, serve

_TASK_ID: Final = f"{uuid7()}.1"

api = FastAPI()


class AcceptedOut(BaseModel):
    """The answer to an accepted document: the fields of Postroom's."""

    id: UUID
    revision: int
    task_id: str
    status: str
    accepted_at: datetime


@api.post("/documents", status_code=HTTPStatus.ACCEPTED)
async def create_document(document: DocumentIn) -> AcceptedOut:
    """Answer, and forget the document."""
    return AcceptedOut(
        id=document.id or uuid7(),
        revision=time_ns() // 1000,
        task_id=_TASK_ID,
        status="accepted",
        accepted_at=datetime.now(UTC),
    )


@api.get("/livez")
async def live() -> dict[str, str]:
    """Say that the process serves."""
    return {"status": "ok"}


if __name__ == "__main__":
    serve(api)
