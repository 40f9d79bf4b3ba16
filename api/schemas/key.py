"""API keys as the API shows them, and what to make."""

from datetime import UTC, datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.schemas.cursor import CursorIn
from api.schemas.document import Key as Name
from api.schemas.time import Time
from api.schemas.whole import WHOLE
from shared.access import Scope
from shared.models import ApiKey

MAX_OVERLAP_SECONDS = 30 * 86_400


def _to_come(at: datetime) -> datetime:
    if at <= datetime.now(UTC):
        raise ValueError("must be in the future")
    return at


Limit = Annotated[int, Field(ge=1, le=2**53, strict=True), WHOLE]


class KeyIn(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="of the caller; keys of one name are of one caller")
    scopes: list[Scope] = Field(
        min_length=1, max_length=100, description="what it is for; `admin` is everything"
    )
    expires_at: Annotated[Time, AfterValidator(_to_come)] | None = Field(
        None, description="when it ceases to be valid"
    )
    requests_per_minute: Limit | None = Field(
        None, description="how many may be sent with it; without, there is no limit"
    )
    bytes_per_minute: Limit | None = Field(None, description="of their bodies")


class RotateIn(BaseModel):
    """How to replace a key."""

    model_config = ConfigDict(extra="forbid")

    overlap_seconds: Annotated[int, WHOLE] = Field(
        3600,
        ge=0,
        le=MAX_OVERLAP_SECONDS,
        strict=True,
        description="how long the old one stays valid",
    )


class KeyOut(BaseModel):
    """A key, without the key itself."""

    id: UUID
    name: str
    prefix: str = Field(description="its first characters", examples=["pr_Zk3xq81Lw"])
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="to some seconds")
    requests_per_minute: int | None
    bytes_per_minute: int | None

    @classmethod
    def of(cls, row: ApiKey, **more: object) -> Self:
        """Return the key of a row."""
        fields = {name: getattr(row, name) for name in KeyOut.model_fields}
        return cls.model_validate(fields | more)


class NewKeyOut(KeyOut):
    """A new key: the only time that it is told."""

    key: str = Field(description="to be sent as `Authorization: Bearer …`; told this once")


class KeyPageOut(BaseModel):
    """A page of keys."""

    data: list[KeyOut]
    next_cursor: CursorIn | None
    has_more: bool
