"""How Postroom is, part by part."""

from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, Field

from shared.models import MIGRATION
from shared.release import RELEASE

_TIME: Final = "2026-11-21T10:15:00Z"
_WORKER: Final = "worker@host"

State = Literal["ok", "degraded", "unknown"]


class PartOut(BaseModel):
    """How one part is."""

    status: State = Field(description="`unknown`: it cannot be told, `detail` says why")
    detail: str | None = Field(None, description="what is wrong", examples=[None])


class DatabaseOut(PartOut):
    """PostgreSQL."""

    version: str | None = Field(None, examples=["17.2"])
    connections: int | None = Field(
        None, description="to this database, of all programs", examples=[12]
    )
    max_connections: int | None = Field(
        None, description="that the server takes, to all databases", examples=[100]
    )


class MigrationsOut(PartOut):
    """The database's schema."""

    current: str | None = Field(None, description="what the database has", examples=[MIGRATION])
    expected: str = Field(MIGRATION, description="what this release works with")


class BrokerOut(PartOut):
    """The broker."""

    confirms: bool | None = Field(
        None, description="whether it confirmed the last message of this process", examples=[True]
    )


class QueueOut(BaseModel):
    """What waits in a queue, beside what workers have taken."""

    messages: int
    oldest_seconds: float | None = Field(
        None,
        description="none has waited longer: the time since the queue was last seen empty; null if"
        " it never was since this process started, and for queues that are not watched",
        examples=[0.0],
    )


class QueuesOut(PartOut):
    """The broker's queues."""

    data: dict[str, QueueOut] = Field({}, examples=[{"ingest": {"messages": 3}}])


class WorkerOut(BaseModel):
    """A worker, as it said of itself."""

    hostname: str = Field(description="as Flower shows it", examples=[_WORKER])
    alive: bool = Field(description="whether it was seen in the last 15 seconds", examples=[True])
    seen_at: datetime = Field(examples=[_TIME])
    started_at: datetime = Field(examples=[_TIME])
    children: int = Field(description="processes that classify and store", examples=[2])
    queues: list[str] = Field(examples=[["ingest"]])
    release: str = Field(examples=[RELEASE])
    model_version: str


class WorkersOut(PartOut):
    """Workers that are alive, or were within a day and have ended without a word."""

    data: list[WorkerOut] = []


class SearchLagOut(PartOut):
    """How far the full-text search is behind."""

    waiting: int | None = Field(None, description="documents to be indexed", examples=[0])
    lag_seconds: float | None = Field(
        None, description="how long the first of them has waited", examples=[0.0]
    )


class DiskOut(BaseModel):
    """Where a broker's node keeps its messages."""

    node: str = Field(examples=["rabbit@host"])
    free_bytes: int
    limit_bytes: int | None = Field(description="with less than that it takes nothing more")
    alarm: bool = Field(description="it takes nothing more, for want of disk or memory")


class DisksOut(PartOut):
    """What is stored, and what is free."""

    database_bytes: int | None = Field(None, description="that the database takes", examples=[1])
    broker: list[DiskOut] = []


class VersionsOut(BaseModel):
    """What runs."""

    api: str = Field(RELEASE, description="release of this process")
    workers: list[str] = Field(description="releases of workers that are alive")
    models: list[str] = Field(description="models that they classify with", examples=[["20news-1"]])


class StatusOut(BaseModel):
    """How Postroom is: `degraded` if any part of it is."""

    status: Literal["ok", "degraded"]
    checked_at: datetime = Field(examples=[_TIME])
    database: DatabaseOut
    migrations: MigrationsOut
    broker: BrokerOut
    queues: QueuesOut
    workers: WorkersOut
    search: SearchLagOut
    disk: DisksOut
    versions: VersionsOut
