"""Health: alive, ready, and the short answer that load balancers like."""

import asyncio
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Final, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from api.deps import Services, ServicesDep
from shared.errors import PostroomError
from shared.models import MIGRATION
from shared.store import migrations

router = APIRouter(tags=["health"])

_OK: Final = "ok"


class HealthOut(BaseModel):
    """The process is up."""

    status: Literal["ok"] = "ok"


class ReadyOut(BaseModel):
    """What Postroom needs: each is "ok", or says what is wrong with it."""

    status: Literal["ok", "unavailable"]
    database: str = Field(examples=["ok"])
    broker: str = Field(examples=["ok"])


@router.get("/livez", operation_id="getLiveness")
async def livez() -> HealthOut:
    """Answer as long as the process lives."""
    return HealthOut()


@router.get("/health", operation_id="getHealth")
async def health() -> HealthOut:
    """Answer load balancers; the same as `/livez`."""
    return HealthOut()


@router.get(
    "/readyz",
    operation_id="getReadiness",
    responses={503: {"model": ReadyOut, "description": "Something is missing."}},
)
async def readyz(services: ServicesDep, response: Response) -> ReadyOut:
    """Say whether documents can be accepted and read."""
    database, broker = await asyncio.gather(
        _checked(_check_database(services)), _checked(services.check_broker())
    )
    ready = database == broker == _OK
    if not ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return ReadyOut(status="ok" if ready else "unavailable", database=database, broker=broker)


async def _check_database(services: Services) -> None:
    found = await services.database.run(migrations.current)
    if found != MIGRATION:
        raise _Outdated(f"is at migration {found}, needs {MIGRATION}: alembic upgrade head")


class _Outdated(PostroomError):
    """The database has another schema than this version of Postroom works with."""


async def _checked(check: Awaitable[None]) -> str:
    try:
        await check
    except PostroomError as error:
        return str(error)
    return _OK
