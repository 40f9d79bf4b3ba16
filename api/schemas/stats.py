"""Statistics: what was processed over time, and what is stored now."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.document import Key
from api.schemas.time import Time
from shared.revision import EPOCH
from shared.store.stats import KEPT, STEP, Line, Span

MAX_POINTS: Final = 1_440
MAX_POINTS_BY_CATEGORY: Final = 400
DEFAULT_POINTS: Final = 60
MAX_KEYS: Final = 100
"""Categories, and sources, that are counted one by one."""

_OUTCOMES: Final = ("stored", "unchanged", "superseded", "refused", "failed", "dead")
_NONE: Final = dict.fromkeys(("accepted", *_OUTCOMES), 0)
_NONE_OF_CATEGORY: Final = dict.fromkeys(("accepted", "stored", "failed"), 0)
_TIME: Final = "2026-11-21T10:15:00Z"

Counts: TypeAlias = dict[str, Any]


class StatsQuery(BaseModel):
    """Which statistics."""

    model_config = ConfigDict(extra="forbid")

    interval: Span = Field("minute", description="what each point is of")
    start: Time | None = Field(
        None,
        alias="from",
        description=f"the first point; {DEFAULT_POINTS} points before `to` if left out",
        examples=[_TIME],
    )
    end: Time | None = Field(
        None, alias="to", description="the end, not included; now if left out", examples=[_TIME]
    )
    category: Key | None = Field(None, description="count only documents of this category")
    by: Literal["category"] | None = Field(
        None, description=f"tell categories apart, too; at most {MAX_POINTS_BY_CATEGORY} points"
    )

    @property
    def told_apart(self) -> bool:
        """Whether each point tells its categories."""
        return self.by is not None and self.category is None


@dataclass(frozen=True, slots=True)
class Range:
    """The points of a series, from `start` to before `end`; kept from `kept_from` on."""

    span: Span
    start: datetime
    end: datetime
    kept_from: datetime | None

    @classmethod
    def of(cls, query: StatsQuery, now: datetime) -> Self:
        """Return the points that a query asks for, without those that are kept no more.

        Raises:
            ValueError: they are too many.
        """
        span, step = query.interval, STEP[query.interval]
        end = _floor(_bounded(query.end or now, now) - timedelta(microseconds=1), step) + step
        start = end - DEFAULT_POINTS * step
        if query.start is not None:
            start = _floor(_bounded(query.start, now), step)
        kept_from = _floor(now - KEPT[span], step) + step if span in KEPT else None
        start = min(max(start, kept_from or start), end)
        limit = MAX_POINTS_BY_CATEGORY if query.by else MAX_POINTS
        if (end - start) // step > limit:
            raise ValueError(f"must not be more than {limit} points before the end")
        return cls(span, start, end, kept_from)

    @property
    def times(self) -> list[datetime]:
        """All points."""
        step = STEP[self.span]
        return [self.start + at * step for at in range((self.end - self.start) // step)]


def _bounded(asked: datetime, now: datetime) -> datetime:
    """Return a time, or the nearest of which anything can be known."""
    return min(max(asked, EPOCH), now)


def _floor(time: datetime, step: timedelta) -> datetime:
    return EPOCH + (time - EPOCH) // step * step


class CategoryCountsOut(BaseModel):
    """Documents of one category that were processed in one interval."""

    category: str | None = Field(
        description="the document's after the write; null where it has none", examples=["sci.space"]
    )
    accepted: int = Field(examples=[118])
    stored: int = Field(examples=[117])
    failed: int = Field(examples=[0])


class PointOut(BaseModel):
    """Documents that were processed in one interval, by what became of them, as in the ledger.

    `accepted = stored + unchanged + superseded + refused + failed + dead`. The sum of all of it
    ever is the ledger's `accepted` less those `in_flight`.
    """

    at: datetime = Field(description="its start", examples=[_TIME])
    accepted: int = Field(examples=[1204])
    stored: int = Field(examples=[1200])
    unchanged: int = Field(examples=[3])
    superseded: int = Field(examples=[0])
    refused: int = Field(examples=[0])
    failed: int = Field(examples=[1])
    dead: int = Field(
        description="less those that were replayed: below 0 where these were more", examples=[0]
    )
    categories: list[CategoryCountsOut] | None = Field(
        description="with `by=category`, and without `category`"
    )


class LiveOut(BaseModel):
    """Stored documents by one of their fields; those that have it not are left out."""

    counts: dict[str, int] = Field(
        description=f"by value, the {MAX_KEYS} largest at most", examples=[{"sci.space": 1204}]
    )
    others: int = Field(description="documents of all other values", examples=[0])


class StoredOut(BaseModel):
    """Documents as they are now."""

    total: int = Field(examples=[1204])
    by_status: LiveOut
    by_category: LiveOut
    by_source: LiveOut


class RatesOut(BaseModel):
    """Documents a second, over the last `seconds`."""

    seconds: int = Field(examples=[60])
    accepted: float = Field(description="processed, whatever became of them", examples=[20.1])
    stored: float = Field(examples=[20.0])


class SearchOut(BaseModel):
    """How far the index of the full-text search is behind."""

    lag_seconds: float = Field(
        description="how long the first stored document that is not indexed waits", examples=[0.4]
    )


class StatsOut(BaseModel):
    """Statistics from one snapshot, complete up to now."""

    interval: Span
    kept_from: datetime | None = Field(
        description="points before it are not kept at this interval; null: all are",
        examples=["2026-11-19T10:16:00Z"],
    )
    points: list[PointOut] = Field(description="oldest first, those without documents, too")
    documents: StoredOut
    rates: RatesOut
    search: SearchOut


def points(wanted: Range, lines: Iterable[Line], *, by_category: bool) -> list[Counts]:
    """Return the points of a series as `PointOut` says, those without documents, too."""
    found: list[Counts] = [
        {"at": at, **_NONE, "categories": [] if by_category else None} for at in wanted.times
    ]
    for category, same in groupby(lines, key=attrgetter("category")):
        if by_category and category:
            _add_category(found, category, same)
        else:
            for _, outcome, places, counts in same:
                for place, n in zip(places, counts, strict=True):
                    found[place][outcome] += n
                    found[place]["accepted"] += n
    if by_category:
        for point in found:
            _add_those_without(point)
    return found


def _add_category(found: list[Counts], category: str, lines: Iterable[Line]) -> None:
    added: dict[int, Counts] = {}
    for _, outcome, places, counts in lines:
        for place, n in zip(places, counts, strict=True):
            if place not in added:
                added[place] = {"category": category, **_NONE_OF_CATEGORY}
                found[place]["categories"].append(added[place])
            added[place]["accepted"] += n
            if outcome in _NONE_OF_CATEGORY:
                added[place][outcome] += n


def _add_those_without(point: Counts) -> None:
    """Add to a point's categories the documents that have none: all others have one."""
    rest = {
        name: point[name] - sum([each[name] for each in point["categories"]])
        for name in _NONE_OF_CATEGORY
    }
    if any(rest.values()):
        point["categories"].append({"category": None, **rest})
