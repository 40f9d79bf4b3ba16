"""The audit log: each request that changes something leaves an entry there.

A change that is a transaction writes its entry in the same one: `record`. One that is a message
writes it before the answer, or as soon as the database is back: `Journal.write`. Documents are
accepted by the thousand and without the database; they are counted: `Journal.count`.
"""

from asyncio import CancelledError
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

import structlog
from fastapi import Request
from uuid_utils.compat import uuid7

from api.keyring import Run
from shared.access import Caller
from shared.db import Session
from shared.errors import DatabaseUnavailable
from shared.store import audit as store
from shared.store.audit import Entry, ObjectKind

_WINDOW: Final = timedelta(minutes=1)
_MOST_LATE: Final = 10_000
"""Entries kept back while the database is away."""

_AT_ONCE: Final = 1_000

_Who: TypeAlias = tuple[str, UUID | None, str]
"""Caller, key and action."""

logger = structlog.get_logger(__name__)


def action(request: Request) -> str:
    """Return what a request asks for: the operation's id in the schema."""
    operation: str = request.scope["route"].operation_id
    return operation


def entry(
    request: Request,
    caller: Caller,
    kind: ObjectKind,
    object_id: UUID | None = None,
    *,
    details: Mapping[str, Any] | None = None,
) -> Entry:
    """Return the entry of a request that succeeds.

    Args:
        request: the request.
        caller: who sent it.
        kind: what it changes.
        object_id: which one; None for several.
        details: small, without contents and secrets; what is None is left out.
    """
    return Entry(
        action=action(request),
        caller=caller.name or None,
        key_id=caller.key_id,
        object_kind=kind,
        object_id=object_id,
        request_id=request.state.request_id,
        address=request.client.host if request.client else None,
        outcome=request.scope["route"].status_code or 200,
        details={name: value for name, value in (details or {}).items() if value is not None},
    )


def record(
    session: Session,
    request: Request,
    caller: Caller,
    kind: ObjectKind,
    object_id: UUID | None = None,
    *,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write the entry of a change, in the transaction that makes it; arguments as of `entry`."""
    store.record(session, entry(request, caller, kind, object_id, details=details))


@dataclass(slots=True)
class _Window:
    """What one caller had accepted by one operation within a minute, or a longer outage."""

    id: UUID = field(default_factory=uuid7)
    start: datetime = field(default_factory=lambda: datetime.now(UTC))
    requests: int = 0
    documents: int = 0
    written: int = 0

    def entry(self, who: _Who, until: datetime) -> Entry:
        name, key_id, operation = who
        return Entry(
            action=operation,
            caller=name or None,
            key_id=key_id,
            object_kind=ObjectKind.DOCUMENT,
            details={
                "requests": self.requests,
                "documents": self.documents,
                "until": until.isoformat(),
            },
            at=self.start,
            id=self.id,
        )


class Journal:
    """Writes what no transaction of its own does; for use on one event loop."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._late: list[Entry] = []
        self._windows: dict[_Who, _Window] = {}

    async def write(self, made: Entry) -> None:
        """Write the entry of what is done already; if the database is away, later."""
        try:
            await self._run(lambda session: store.record(session, made))
        except DatabaseUnavailable:
            self._keep(made)
        except CancelledError:
            self._keep(made)
            raise

    def count(self, caller: Caller, operation: str, documents: int) -> None:
        """Count a request that had documents accepted. This costs next to nothing."""
        who = (caller.name, caller.key_id, operation)
        window = self._windows.get(who)
        if window is None:
            window = self._windows[who] = _Window()
        window.requests += 1
        window.documents += documents

    async def flush(self) -> None:
        """Write what is counted or late; to be done every second.

        A minute's entry is written again as it grows. While the database is away it goes on
        growing, so that there are never more of them than callers and operations.

        Raises:
            DatabaseUnavailable: all is kept for the next time.
        """
        now = datetime.now(UTC)
        grown = self._grown(now)
        late = self._late[:_AT_ONCE]
        entries = [*late, *(made for _, _, made in grown)]
        if entries:
            await self._run(lambda session: store.record(session, *entries))
        del self._late[: len(late)]
        for window, requests, _ in grown:
            window.written = requests
        self._windows = {
            who: window
            for who, window in self._windows.items()
            if window.requests > window.written or now - window.start < _WINDOW
        }

    async def close(self) -> None:
        """Write what is left; what the database does not take goes to the log of the process."""
        try:
            await self.flush()
            while self._late:
                await self.flush()
        except DatabaseUnavailable:
            for made in [*self._late, *(made for _, _, made in self._grown(datetime.now(UTC)))]:
                _lose(made)

    def _grown(self, now: datetime) -> list[tuple[_Window, int, Entry]]:
        """Return what is counted and not written: windows, their requests, and the entries."""
        return [
            (window, window.requests, window.entry(who, now))
            for who, window in self._windows.items()
            if window.requests > window.written
        ]

    def _keep(self, made: Entry) -> None:
        if len(self._late) < _MOST_LATE:
            self._late.append(made)
        else:
            _lose(made)


def _lose(made: Entry) -> None:
    logger.error("an entry of the audit log cannot be written", **asdict(made))
