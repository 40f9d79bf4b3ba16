"""Statistics: series of what was processed, and what is stored now."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from api.auth import Reader
from api.deps import ServicesDep
from api.errors import Invalid
from api.openapi import problems
from api.responses import json_response
from api.schemas.problem import FieldError
from api.schemas.stats import MAX_KEYS, Range, StatsOut, StatsQuery, points
from shared.db import Session
from shared.store import ledger, search, stats

router = APIRouter(prefix="/v1/stats", tags=["stats"])


@router.get("", operation_id="getStats", response_model=StatsOut, responses=problems(422, 503))
async def get_stats(
    services: ServicesDep, _: Reader, query: Annotated[StatsQuery, Query()]
) -> Response:
    """Return how many documents were processed over time, and how many are stored now.

    Minutes are kept for 48 hours, hours for 90 days, days for ever.
    """
    try:
        wanted = Range.of(query, datetime.now(UTC))
    except ValueError as error:
        wrong = FieldError.of(["query", "from"], str(error))
        raise Invalid("The request has wrong parameters.", errors=[wrong]) from error
    found = await services.database.run(lambda session: _read(session, query, wanted))
    return json_response(HTTPStatus.OK, found)


def _read(session: Session, query: StatsQuery, wanted: Range) -> dict[str, Any]:
    ledger.one_snapshot(session)
    category = None if query.told_apart else query.category or ""
    lines = stats.series(session, wanted.span, wanted.start, wanted.end, category)
    rates = stats.rates(session)
    return {
        "interval": wanted.span,
        "kept_from": wanted.kept_from,
        "points": points(wanted, lines, by_category=query.told_apart),
        "documents": _stored(session),
        "rates": {
            "seconds": stats.RATE_SECONDS,
            "accepted": round(rates.accepted / stats.RATE_SECONDS, 2),
            "stored": round(rates.stored / stats.RATE_SECONDS, 2),
        },
        "search": {"lag_seconds": round(search.lag(session), 2)},
    }


def _stored(session: Session) -> dict[str, Any]:
    live = stats.live(session, MAX_KEYS)
    counted = {
        f"by_{kind}": {"counts": each.counts, "others": each.others} for kind, each in live.items()
    }
    return {"total": sum(live["status"].counts.values()), **counted}
