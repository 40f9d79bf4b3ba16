"""Documents counted over time, and what there are now.

The fold of the ledger counts every minute, hour and day (see `ledger.fold`); what is not folded
yet is added from the ledger itself, in the same snapshot: the answer is complete up to now.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, TypeAlias

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from shared.store.ledger import FOLD_AFTER_SECONDS, categories_sql, totals_sql

Span: TypeAlias = Literal["minute", "hour", "day"]

STEP: Final[dict[Span, timedelta]] = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}

KEPT: Final[dict[Span, timedelta]] = {"minute": timedelta(hours=48), "hour": timedelta(days=90)}
"""How long counts are kept: those of days for ever."""

RATE_SECONDS: Final = FOLD_AFTER_SECONDS
"""The time that rates are of: its entries are still in the ledger."""


class Line(NamedTuple):
    """Documents of one category that met with one outcome, over time.

    `category` is "" for those of all categories together, those without one included. `places` are
    places in the series, from 0, of the times that had any, and `counts` how many, at each.
    """

    category: str
    outcome: str
    places: list[int]
    counts: list[int]


@dataclass(frozen=True, slots=True)
class Rates:
    """Documents of the last `RATE_SECONDS`."""

    accepted: int
    stored: int


@dataclass(frozen=True, slots=True)
class Live:
    """Stored documents by one kind's keys, the largest first; `others` are those left out."""

    counts: dict[str, int]
    others: int


def series(
    session: Session, span: Span, start: datetime, end: datetime, category: str | None = ""
) -> list[Line]:
    """Return what there was from `start` to before `end`.

    The documents of all outcomes together are those accepted, less those still in flight.

    Args:
        session: a transaction's session.
        span: what each count is of.
        start: a multiple of it, UTC.
        end: another one.
        category: whose documents, "" for all together; None: those, and each category's as well.
    """
    statement = {"": _TOTALS, None: _ALL}.get(category, _CATEGORY)
    values = {
        "span": span,
        "step": STEP[span].total_seconds(),
        "start": start,
        "end": end,
        "category": category,
    }
    return [Line(*row) for row in session.execute(statement, values)]


def rates(session: Session) -> Rates:
    """Return what was processed in the last minute."""
    row = session.execute(_RATES, {"seconds": RATE_SECONDS}).one()
    return Rates(row.accepted, row.stored)


def live(session: Session, limit: int) -> dict[str, Live]:
    """Return stored documents by "category", "source" and "status", up to `limit` keys each.

    What has none of a kind is not counted under it; every document has a status.
    """
    found = {kind: Live({}, 0) for kind in ("category", "source", "status")}
    others: Counter[str] = Counter()
    for kind, key, n in session.execute(_LIVE, {"limit": limit}):
        if key is None:
            others[kind] = n
        else:
            found[kind].counts[key] = n
    return {kind: Live(each.counts, others[kind]) for kind, each in found.items()}


def purge(session: Session) -> int:
    """Remove what is older than it is kept; return how many rows that were."""
    return len(session.execute(_PURGE, {str(span): kept for span, kept in KEPT.items()}).all())


def _series(unfolded: str) -> TextClause:
    return text(f"""
        WITH entries AS (
            SELECT * FROM ledger WHERE committed_at >= :start AND committed_at < :end),
        parts AS (
            SELECT at, category, outcome, n FROM stats
            WHERE span = :span AND at >= :start AND at < :end
                AND (CAST(:category AS text) IS NULL OR category = :category)
            UNION ALL
            SELECT date_trunc(:span, at, 'UTC'), category, outcome, n
            FROM ({unfolded}) AS unfolded
            WHERE CAST(:category AS text) IS NULL OR category = :category),
        cells AS (
            SELECT at, category, outcome, CAST(sum(n) AS int8) AS n FROM parts
            GROUP BY at, category, outcome HAVING sum(n) <> 0)
        SELECT category, outcome,
            array_agg(CAST(extract(epoch FROM at - :start) / :step AS int4)), array_agg(n)
        FROM cells GROUP BY category, outcome ORDER BY category, outcome
    """)  # noqa: S608  # put together of our own texts


_TOTALS: Final = _series(totals_sql("entries"))
_CATEGORY: Final = _series(categories_sql("entries"))
_ALL: Final = _series(f"{totals_sql('entries')} UNION ALL {categories_sql('entries')}")

# All counts of an entry together are its documents, but for a replay's: those were counted before.
_RATES: Final = text("""
    SELECT CAST(coalesce(sum(documents), 0) AS int8) AS accepted,
        CAST(coalesce(sum(stored), 0) AS int8) AS stored
    FROM ledger WHERE committed_at >= clock_timestamp() - make_interval(secs => :seconds)
""")

_LIVE: Final = text("""
    WITH parts AS (
        SELECT kind, key, n FROM counts
        UNION ALL
        SELECT kinds.key, keys.key, CAST(keys.value AS int8) * times
        FROM (
            SELECT deltas, count(*) AS times FROM (
                SELECT deltas FROM ledger UNION ALL SELECT deltas FROM count_deltas) AS changes
            GROUP BY deltas) AS alike,
            jsonb_each(deltas) AS kinds, jsonb_each_text(kinds.value) AS keys),
    summed AS (
        SELECT kind, key, sum(n) AS n FROM parts GROUP BY kind, key HAVING sum(n) <> 0),
    ranked AS (
        SELECT kind, key, n, row_number() OVER (PARTITION BY kind ORDER BY n DESC, key) AS place
        FROM summed)
    SELECT kind, CASE WHEN place <= :limit THEN key END AS key, CAST(sum(n) AS int8) AS n
    FROM ranked GROUP BY 1, 2, least(place, :limit + 1) ORDER BY least(place, :limit + 1)
""")

# A fold may be counting just then: what it holds is left for the next time.
_PURGE: Final = text("""
    DELETE FROM stats WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM stats
        WHERE (span = 'minute' AND at < now() - CAST(:minute AS interval))
            OR (span = 'hour' AND at < now() - CAST(:hour AS interval))
        FOR UPDATE SKIP LOCKED))
    RETURNING span
""")
