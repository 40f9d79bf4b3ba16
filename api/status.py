"""How all parts are, looked at together and never for long: what does not answer is said so."""

import asyncio
from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Final, TypeVar

from api.backlog import Backlog
from api.keyring import Run
from api.schemas.status import (
    BrokerOut,
    DatabaseOut,
    DiskOut,
    DisksOut,
    MigrationsOut,
    QueueOut,
    QueuesOut,
    SearchLagOut,
    StatusOut,
    VersionsOut,
    WorkerOut,
    WorkersOut,
)
from shared.db import Session
from shared.errors import PostroomError
from shared.inventory import Disk, Inventory
from shared.messages import BULK_QUEUE, CLASSIFY_QUEUE, INGEST_QUEUE, MAINTAIN_QUEUE
from shared.models import MIGRATION
from shared.queue import QUEUES, Gauge, Publisher
from shared.store import migrations, search, server, workers
from shared.store.server import Server
from shared.store.workers import Known

ResultT = TypeVar("ResultT")

_SECONDS: Final = 1.5
"""How long any part may take to answer."""

_KEEP_SECONDS: Final = 1.0
_NEEDED: Final = (INGEST_QUEUE, BULK_QUEUE, CLASSIFY_QUEUE, MAINTAIN_QUEUE)


@dataclass(frozen=True, slots=True)
class _Work:
    """What only a migrated database tells."""

    workers: list[Known]
    waiting: int
    lag_seconds: float


class Watch:
    """Looks at all parts; for use on one event loop. Many may ask: it looks once a second."""

    def __init__(
        self,
        run: Run,
        publisher: Publisher,
        gauge: Gauge,
        backlogs: Mapping[str, Backlog],
        inventory: Inventory,
    ) -> None:
        """Set what is looked at.

        Args:
            run: the database.
            publisher: says whether the broker confirms.
            gauge: for the thread of this object alone.
            backlogs: of the queues that are watched, by name.
            inventory: knows the broker's disks.
        """
        self._run = run
        self._publisher = publisher
        self._gauge = gauge
        self._backlogs = backlogs
        self._inventory = inventory
        # One each: what hangs in there holds up itself only.
        self._gauge_thread = ThreadPoolExecutor(1, "status-queues")
        self._disk_thread = ThreadPoolExecutor(1, "status-disks")
        self._lock = asyncio.Lock()
        self._seen: StatusOut | None = None
        self._until = 0.0

    async def look(self) -> StatusOut:
        """Return how all parts are, at most a second ago."""
        async with self._lock:
            if self._seen is None or monotonic() >= self._until:
                self._seen = await self._look()
                self._until = monotonic() + _KEEP_SECONDS
            return self._seen

    def close(self) -> None:
        """Look no more."""
        for thread in (self._gauge_thread, self._disk_thread):
            thread.shutdown(wait=False, cancel_futures=True)
        self._gauge.close()

    async def _look(self) -> StatusOut:
        loop = asyncio.get_running_loop()
        facts, current, work, depths, disks = await asyncio.gather(
            _or_why_not(self._run(server.look)),
            _or_why_not(self._run(migrations.current)),
            _or_why_not(self._run(_work)),
            _or_why_not(loop.run_in_executor(self._gauge_thread, self._depths)),
            _or_why_not(loop.run_in_executor(self._disk_thread, self._inventory.disks)),
        )
        parts = {
            "database": _database(facts),
            "migrations": _migrations(current),
            "broker": self._broker(depths),
            "queues": self._queues(depths),
            "workers": _workers(work),
            "search": _search(work),
            "disk": _disk(facts, disks),
        }
        degraded = any(each.status == "degraded" for each in parts.values())
        return StatusOut(
            status="degraded" if degraded else "ok",
            checked_at=datetime.now(UTC),
            versions=_versions(work),
            **parts,
        )

    def _depths(self) -> dict[str, int]:
        return {name: self._gauge.waiting(name) for name in QUEUES}

    def _broker(self, depths: "dict[str, int] | _WhyNot") -> BrokerOut:
        confirms = self._publisher.confirms
        if isinstance(depths, _WhyNot):
            return BrokerOut(status="degraded", detail=depths.reason, confirms=confirms)
        if not confirms:
            detail = "it did not confirm the last message"
            return BrokerOut(status="degraded", detail=detail, confirms=False)
        return BrokerOut(status="ok", confirms=True)

    def _queues(self, depths: "dict[str, int] | _WhyNot") -> QueuesOut:
        if isinstance(depths, _WhyNot):
            return QueuesOut(status="unknown", detail="the broker does not answer")
        data = {
            name: QueueOut(messages=messages, oldest_seconds=self._oldest(name, messages))
            for name, messages in depths.items()
        }
        if full := sorted(name for name, each in self._backlogs.items() if each.full):
            detail = f"more wait than may (BACKLOG_LIMIT): {', '.join(full)}"
            return QueuesOut(status="degraded", detail=detail, data=data)
        return QueuesOut(status="ok", data=data)

    def _oldest(self, name: str, messages: int) -> float | None:
        if not messages:
            return 0.0
        seconds = self._backlogs[name].seconds_since_empty if name in self._backlogs else None
        return None if seconds is None else round(seconds, 1)


@dataclass(frozen=True, slots=True)
class _WhyNot:
    """In place of an answer that could not be had."""

    reason: str


async def _or_why_not(question: Awaitable[ResultT]) -> "ResultT | _WhyNot":
    try:
        async with asyncio.timeout(_SECONDS):
            return await question
    except TimeoutError:
        return _WhyNot("no answer in time")
    except PostroomError as error:
        return _WhyNot(str(error))


def _work(session: Session) -> _Work:
    return _Work(workers.known(session), search.waiting(session), search.lag(session))


def _database(facts: Server | _WhyNot) -> DatabaseOut:
    if isinstance(facts, _WhyNot):
        return DatabaseOut(status="degraded", detail=facts.reason)
    return DatabaseOut(
        status="ok",
        version=facts.version,
        connections=facts.connections,
        max_connections=facts.max_connections,
    )


def _migrations(current: str | _WhyNot | None) -> MigrationsOut:
    if isinstance(current, _WhyNot):
        return MigrationsOut(status="unknown", detail="the database does not answer")
    if current != MIGRATION:
        return MigrationsOut(
            status="degraded", detail="run the migrations: alembic upgrade head", current=current
        )
    return MigrationsOut(status="ok", current=current)


def _workers(work: _Work | _WhyNot) -> WorkersOut:
    if isinstance(work, _WhyNot):
        return WorkersOut(status="unknown", detail=f"they say it in the database: {work.reason}")
    names = tuple(WorkerOut.model_fields)
    data = [
        WorkerOut(
            alive=each.alive, **{name: getattr(each.row, name) for name in names if name != "alive"}
        )
        for each in work.workers
    ]
    served = {queue for each in data if each.alive for queue in each.queues}
    if missing := [name for name in _NEEDED if name not in served]:
        detail = f"no worker is seen that consumes {', '.join(missing)}"
        return WorkersOut(status="degraded", detail=detail, data=data)
    return WorkersOut(status="ok", data=data)


def _search(work: _Work | _WhyNot) -> SearchLagOut:
    if isinstance(work, _WhyNot):
        return SearchLagOut(status="unknown", detail=work.reason)
    return SearchLagOut(status="ok", waiting=work.waiting, lag_seconds=round(work.lag_seconds, 1))


def _disk(facts: Server | _WhyNot, disks: list[Disk] | _WhyNot) -> DisksOut:
    size = None if isinstance(facts, _WhyNot) else facts.bytes
    if isinstance(disks, _WhyNot):
        return DisksOut(status="unknown", detail=disks.reason, database_bytes=size)
    told = [
        DiskOut(node=each.node, free_bytes=each.free, limit_bytes=each.limit, alarm=each.alarm)
        for each in disks
    ]
    alarms = [each.node for each in disks if each.alarm]
    return DisksOut(
        status="degraded" if alarms else "ok",
        detail=f"alarm of {', '.join(alarms)}: it takes nothing more" if alarms else None,
        database_bytes=size,
        broker=told,
    )


def _versions(work: _Work | _WhyNot) -> VersionsOut:
    alive = [] if isinstance(work, _WhyNot) else [each.row for each in work.workers if each.alive]
    return VersionsOut(
        workers=sorted({each.release for each in alive}),
        models=sorted({each.model_version for each in alive}),
    )
