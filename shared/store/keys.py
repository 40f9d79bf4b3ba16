"""API keys: made, listed, revoked, looked up."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, or_, select, text, tuple_, update
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from shared.access import Caller, Handle, Key, Limits, Scope, Secret, scopes
from shared.models import ApiKey
from shared.store.page import Cursor

NO_LIMITS: Final = Limits(None, None)

_KEY: Final = (
    ApiKey.id,
    ApiKey.name,
    ApiKey.scopes,
    ApiKey.expires_at,
    ApiKey.requests_per_minute,
    ApiKey.bytes_per_minute,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key that shall be made.

    Attributes:
        name: of the caller.
        scopes: what it is for.
        expires_at: when it ceases to be valid, if ever.
        limits: what may be done with it in a minute.
    """

    name: str
    scopes: Collection[Scope]
    expires_at: datetime | None = None
    limits: Limits = NO_LIMITS


def create(session: Session, wanted: Wanted, secret: Secret) -> ApiKey:
    """Keep a new key; return it."""
    row = ApiKey(
        id=uuid7(),
        name=wanted.name,
        prefix=secret.prefix,
        digest=secret.digest,
        scopes=sorted(set(wanted.scopes)),
        expires_at=wanted.expires_at,
        requests_per_minute=wanted.limits.requests,
        bytes_per_minute=wanted.limits.bytes,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def none_yet(session: Session) -> bool:
    """Whether there is no key, not even a revoked one; holds others off until the end."""
    session.execute(text("LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE"))
    return session.scalar(select(ApiKey.id).limit(1)) is None


def rotate(session: Session, key_id: UUID, secret: Secret, overlap: timedelta) -> ApiKey | None:
    """Keep a new key in place of another, which stays valid for a while.

    Returns:
        The new one; None if the old one is not there, or valid no more.
    """
    old = session.scalar(select(ApiKey).where(ApiKey.id == key_id, _valid()).with_for_update())
    if old is None:
        return None
    limits = Limits(old.requests_per_minute, old.bytes_per_minute)
    new = create(session, Wanted(old.name, scopes(old.scopes), old.expires_at, limits), secret)
    end = func.clock_timestamp() + overlap
    first = func.least(func.coalesce(ApiKey.expires_at, end), end)
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(expires_at=first))
    return new


def revoke(session: Session, key_id: UUID) -> ApiKey | None:
    """Make a key invalid; return it, or None if there is none. Doing it again changes nothing."""
    now = func.coalesce(ApiKey.revoked_at, func.clock_timestamp())
    statement = update(ApiKey).where(ApiKey.id == key_id).values(revoked_at=now).returning(ApiKey)
    return session.scalar(statement)


def page(session: Session, after: Cursor | None, limit: int) -> tuple[list[ApiKey], bool]:
    """Return a page of keys, the newest first, and whether more are."""
    statement = select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id.desc())
    if after is not None:
        place = tuple_(ApiKey.created_at, ApiKey.id)
        statement = statement.where(place < tuple_(after.key, after.id))
    rows = list(session.scalars(statement.limit(limit + 1)))
    return rows[:limit], len(rows) > limit


def valid(session: Session) -> dict[bytes, Key]:
    """Return all keys that are valid, by their digests."""
    statement = select(ApiKey.digest, *_KEY).where(_valid())
    return {row.digest: _key(row) for row in session.execute(statement)}


def find(session: Session, handle: Handle) -> Key | None:
    """Return the key with that digest or id, if it is valid."""
    column = ApiKey.id if isinstance(handle, UUID) else ApiKey.digest
    statement = select(*_KEY).where(column == handle, _valid())
    row = session.execute(statement).one_or_none()
    return None if row is None else _key(row)


def used(session: Session, when: Mapping[UUID, datetime]) -> None:
    """Note when keys were used last."""
    for key_id, at in sorted(when.items()):
        latest = func.greatest(ApiKey.last_used_at, at)
        session.execute(update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=latest))


def _valid() -> Any:
    unexpired = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.clock_timestamp())
    return ApiKey.revoked_at.is_(None) & unexpired


def _key(row: Any) -> Key:
    limits = Limits(row.requests_per_minute, row.bytes_per_minute)
    # A scope that a newer release has made is none of ours.
    caller = Caller(row.name, scopes(row.scopes), row.id, None if limits == NO_LIMITS else limits)
    return Key(row.id, caller, row.expires_at)
