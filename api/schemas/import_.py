"""Imports as clients see them."""

from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, Field

from api.schemas.problem import FieldError
from shared.models import ImportReject
from shared.store.imports import Seen

Status = Literal["receiving", "processing", "done", "interrupted", "cancelled", "failed"]


class ImportOut(BaseModel):
    """An import: how far it has come, and what became of its documents."""

    id: UUID
    idempotency_key: str = Field(
        description="send it again with the same body to go on", examples=["posts-2026-11"]
    )
    format: dict[str, Any] = Field(
        description="what the body is, as the first upload said",
        examples=[{"media_type": "application/x-ndjson"}],
    )
    status: Status = Field(
        description="`receiving` its body, `processing` its documents, `done`; `interrupted`:"
        " send the body again; `cancelled`; `failed`: the body was not what it said"
    )
    error: str | None = Field(description="why it stopped")
    lines: int = Field(description="records that were read: accepted and rejected")
    accepted: int = Field(description="documents that are safe, and are or will be stored")
    rejected: int = Field(description="records that are no documents; see `/rejects`")
    stored: int
    unchanged: int = Field(description="the same was stored already; also what was sent twice")
    superseded: int = Field(description="a newer write or delete of the document came first")
    failed: int = Field(description="stored, but could not be classified")
    dead: int = Field(description="dead letters by now")
    in_flight: int = Field(description="accepted, and on their way")
    bytes: int = Field(description="of the unpacked body, up to the last accepted record")
    progress: float | None = Field(
        description="share of the whole work that is done, 0 to 1; null if that is not known",
        examples=[0.7],
    )
    rate: float = Field(description="documents a second that were processed, in this upload")
    eta_seconds: int | None = Field(description="until done, if it goes on like this")
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, seen: Seen) -> Self:
        """Return an import as it was seen."""
        row, counts = seen.row, seen.counts
        pace = _Pace(seen)
        return cls(
            id=row.id,
            idempotency_key=row.key,
            format=row.format,
            status=row.status,
            error=row.error,
            lines=row.accepted + row.rejected,
            accepted=row.accepted,
            rejected=row.rejected,
            stored=counts.stored,
            unchanged=counts.unchanged,
            superseded=counts.superseded,
            failed=counts.failed,
            dead=counts.dead,
            in_flight=max(0, counts.in_flight),
            bytes=row.position,
            progress=pace.progress,
            rate=round(pace.rate, 1),
            eta_seconds=pace.eta_seconds,
            created_at=row.created_at,
            updated_at=row.updated_at,
            finished_at=row.finished_at,
        )


class _Pace:
    """How fast an import goes, and how much of it is left."""

    def __init__(self, seen: Seen) -> None:
        row, counts = seen.row, seen.counts
        self._status = row.status
        self._in_flight = max(0, counts.in_flight)
        self._accepted = row.accepted
        elapsed = (row.finished_at or seen.now) - row.started_at
        self.rate = counts.latest / max(elapsed, timedelta(seconds=1)).total_seconds()
        self._read: float | None = 1.0
        if row.status not in {"processing", "done"}:
            self._read = min(1.0, row.received / row.length) if row.length else None

    @property
    def progress(self) -> float | None:
        """Share of the body that came in, times the share of its documents that are processed."""
        if self._read is None:
            return None
        processed = 1.0
        if self._accepted:
            processed = max(0.0, 1 - self._in_flight / self._accepted)
        return round(self._read * processed, 4)

    @property
    def eta_seconds(self) -> int | None:
        """Seconds until everything is processed; None if that cannot be told."""
        if self._status == "done":
            return 0
        if self._status not in {"receiving", "processing"} or not self._read or not self.rate:
            return None
        to_come = self._accepted / self._read - self._accepted
        return round((to_come + self._in_flight) / self.rate)


class ImportPageOut(BaseModel):
    """A page of imports, newest first."""

    data: Sequence[ImportOut]
    next_cursor: str | None = Field(description="pass it as `cursor` to get the next page")
    has_more: bool


class RejectOut(BaseModel):
    """A record that became no document."""

    line: int = Field(description="where it starts, counted from 1; of an array the element")
    errors: list[FieldError] = Field(
        examples=[[{"pointer": "/content", "detail": "must not be empty"}]]
    )
    original: str | None = Field(
        description="the record as it was sent; null if it is not UTF-8",
        examples=['{"content": ""}'],
    )
    original_base64: str | None = Field(description="the same, if it is not UTF-8")
    truncated: bool = Field(description="whether only its first 64 KiB are kept")

    @classmethod
    def of(cls, row: ImportReject) -> Self:
        """Return the reject of a row."""
        raw = bytes(row.original)
        original, encoded = None, None
        try:
            original = raw.decode()
        except UnicodeDecodeError:
            encoded = b64encode(raw).decode()
        return cls(
            line=row.line,
            errors=[FieldError(**each) for each in row.errors],
            original=original,
            original_base64=encoded,
            truncated=row.truncated,
        )


class RejectPageOut(BaseModel):
    """A page of rejects, in the order of their lines."""

    data: Sequence[RejectOut]
    next_cursor: str | None = Field(description="pass it as `cursor` to get the next page")
    has_more: bool
