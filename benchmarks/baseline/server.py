"""What the endpoints that Postroom is compared with share: the body, and how they are served."""

import sys
from typing import Any
from uuid import UUID

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field


class DocumentIn(BaseModel):
    """A document to accept: the fields of Postroom's."""

    model_config = ConfigDict(extra="forbid")

    content: str = Field(min_length=1, max_length=1 << 20)
    id: UUID | None = None
    external_id: str | None = Field(None, min_length=1, max_length=512)
    source: str | None = Field(None, min_length=1, max_length=512)
    metadata: dict[str, Any] | None = None
    label: str | None = Field(None, min_length=1, max_length=512)


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
