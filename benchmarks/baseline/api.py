"""The baseline's API: one endpoint, one task per document. `python -m benchmarks.baseline.api`."""

from http import HTTPStatus
from uuid import UUID, uuid4

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.baseline.queue import CLASSIFY, app
from benchmarks.baseline.server import DocumentIn, serve

api = FastAPI()


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


if __name__ == "__main__":
    serve(api)
