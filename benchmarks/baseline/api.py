"""The baseline's API: one endpoint, one task per document. `python -m benchmarks.baseline.api`."""

import sys
from http import HTTPStatus
from typing import Any
from uuid import UUID, uuid4

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.baseline.queue import CLASSIFY, app

api = FastAPI()


class DocumentIn(BaseModel):
    """A document to accept: the fields of Postroom's."""

    model_config = ConfigDict(extra="forbid")

    content: str = Field(min_length=1, max_length=1 << 20)
    id: UUID | None = None
    external_id: str | None = Field(None, min_length=1, max_length=512)
    source: str | None = Field(None, min_length=1, max_length=512)
    metadata: dict[str, Any] | None = None
    label: str | None = Field(None, min_length=1, max_length=512)


class AcceptedOut(BaseModel):
    """The answer to an accepted document."""

    id: UUID
    task_id: str
    status: str


# Not `async`: the publish blocks until the broker has confirmed it, so it runs in a thread.
@api.post("/documents", status_code=HTTPStatus.ACCEPTED)
def create_document(document: DocumentIn) -> AcceptedOut:
    """Send a document's task and answer once the broker has it safe."""
    document.id = document.id or uuid4()
    task = app.send_task(CLASSIFY, kwargs={"document": document.model_dump(mode="json")})
    return AcceptedOut(id=document.id, task_id=task.id, status="accepted")


@api.get("/livez")
def live() -> dict[str, str]:
    """Say that the process serves."""
    return {"status": "ok"}


def serve(app: FastAPI) -> None:
    """Serve on the port that the command line gives, as Postroom's API is served."""
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        server_header=False,
    )


if __name__ == "__main__":
    serve(api)
