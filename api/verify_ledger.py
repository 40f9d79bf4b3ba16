"""Check the account: `make verify-ledger`, or `python -m api.verify_ledger` in the API's image.

Prints what was accepted and what became of it. The exit status is 0 if all of it is accounted
for or still on its way, 1 if something is lost, and 2 if that cannot be told.
"""

import sys
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Final

from api.evidence import Evidence, Verdict
from api.schemas.account import GapOut, GapsOut, LedgerOut
from api.settings import AccountSettings
from shared.db import Database
from shared.errors import DatabaseUnavailable
from shared.inventory import inventory
from shared.settings import load
from shared.store import ledger

EVEN, LOST, UNKNOWN = 0, 1, 2

_SECONDS: Final = 120.0
"""Time to see the broker empty: longer than its figures take, twice."""

_OUTCOMES: Final = ("stored", "unchanged", "superseded", "refused", "failed", "dead", "in_flight")


def main() -> int:
    """Check, print, and return the exit status."""
    try:
        settings = load(AccountSettings)
    except SystemExit as error:
        print(error, file=sys.stderr)
        return UNKNOWN
    database = Database(
        settings.database_url.get_secret_value(),
        pool_size=1,
        statement_seconds=60,
        application="postroom-verify-ledger",
    )
    looking = Evidence(
        database,
        inventory(
            settings.broker_url.get_secret_value(), settings.broker_api_url.get_secret_value()
        ),
    )
    try:
        verdict = _look(looking)
        with database.transaction() as session:
            ledger.one_snapshot(session)
            account = LedgerOut.of(
                ledger.totals(session),
                ledger.dead_letters(session),
                verdict.still(session),
                verdict.checked_at,
                verdict.obstacle,
            )
    except DatabaseUnavailable as error:
        print(f"postroom: the database does not answer: {error}", file=sys.stderr)
        return UNKNOWN
    finally:
        database.close()
    print("\n".join(_lines(account)))
    return _status(account)


def _look(looking: Evidence) -> Verdict:
    """Look until it is certain what is lost, or will not become so."""
    end = monotonic() + _SECONDS
    while looking.step() and monotonic() < end:
        sleep(1)
    return looking.verdict


def _status(account: LedgerOut) -> int:
    if account.unaccounted.messages:
        return LOST
    return UNKNOWN if account.obstacle else EVEN


def _lines(account: LedgerOut) -> Iterator[str]:
    yield f"accepted      {account.accepted:>14,}"
    for name in _OUTCOMES:
        yield f"  {name:<12}{getattr(account, name):>14,}"
    yield f"void          {account.void:>14,}  (not accepted: the client was told so)"
    yield ""
    yield from _missing("may have been promised by a killed process", account.may_have_promised)
    yield from _missing("LOST", account.unaccounted)
    if account.obstacle:
        yield f"Not certain what of that in flight is lost: {account.obstacle}."
    elif not account.unaccounted.messages:
        yield "Nothing is lost."


def _missing(title: str, found: GapsOut) -> Iterator[str]:
    if not found.messages:
        return
    yield f"{title}: {found.documents:,} documents in {found.messages:,} messages"
    for each in found.producers:
        yield f"  producer {each.producer_id} ({each.state}), {each.documents:,} documents:"
        yield f"    {_numbers(each)}"
    if found.truncated:
        yield "  … and more"


def _numbers(gap: GapOut) -> str:
    runs = (f"{first}" if first == last else f"{first}-{last}" for first, last in gap.numbers)
    return "numbers " + ", ".join(runs)


if __name__ == "__main__":
    sys.exit(main())
