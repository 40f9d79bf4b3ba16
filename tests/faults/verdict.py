"""What became of what was promised."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import psycopg2

from tests.faults.site import Site
from tests.stream import Stream

RECOVERY_SECONDS: Final = 30
REFUSAL_SECONDS: Final = 2.5
"""The promise is two; the machine may be busy."""

OUTCOMES: Final = ("stored", "unchanged", "superseded", "refused", "failed", "dead")


@dataclass
class Verdict:
    """The figures of one case, counted in documents written, times in seconds.

    Attributes:
        accepted: writes answered with 202.
        stored: documents in the database.
        lost: documents promised of which there is nothing, or only an older version.
        duplicated: writes counted more than once, or rows the categories count and do not have.
        wrong: documents with a content that is not the last one promised.
        unexpected: answers that were none of 202, 429, 502, 503.
        slowest_refusal: until the last byte of a 503 came.
        recovery: from the end of the fault until what was accepted next was stored.
        recovery_limit: seconds that this may take.
        drained: from the end of the fault until nothing was in flight.
        even: whether the account adds up, with nothing in flight.
        notes: whatever else contradicts the promise.
        remarks: whatever else is worth telling.
    """

    accepted: int = 0
    stored: int = 0
    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    unexpected: int = 0
    refused: int = 0
    slowest_refusal: float = 0.0
    dead: int = 0
    restarts: int = 0
    recovery: float = float("inf")
    recovery_limit: float = RECOVERY_SECONDS
    drained: float = float("inf")
    even: bool = False
    notes: list[str] = field(default_factory=list)
    remarks: Sequence[str] = ()

    def faults(self) -> list[str]:
        """Return what contradicts the promise; nothing if it was kept."""
        counts = ("lost", "duplicated", "wrong", "unexpected")
        found = [f"{name} {getattr(self, name)}" for name in counts if getattr(self, name)]
        if not self.even:
            found.append("the ledger is not even")
        if self.recovery > self.recovery_limit:
            found.append(f"recovered after {self.recovery:.1f} s")
        if self.slowest_refusal > REFUSAL_SECONDS:
            found.append(f"refused after {self.slowest_refusal:.1f} s")
        return found + self.notes


def judge(site: Site, stream: Stream, verdict: Verdict) -> Verdict:
    """Compare what is stored with what was promised."""
    latest = stream.latest()
    rows = {
        str(key): (int(revision), content)
        for key, revision, content in site.query("SELECT id, revision, content FROM documents")
    }
    maybe: dict[str, set[str]] = defaultdict(set)
    for each in stream.uncertain:
        maybe[each.id].add(each.content)
    for key, promise in latest.items():
        if key in stream.doomed:
            continue
        revision, content = rows.get(key, (0, ""))
        if revision < promise.revision:
            verdict.lost += 1
        elif content == promise.text.content:
            continue
        elif revision == promise.revision or content not in maybe[key]:
            # A later write whose answer was lost may have won, and nothing else.
            verdict.wrong += 1
    verdict.accepted = len(stream.accepted)
    verdict.stored = len(rows)
    verdict.refused, verdict.slowest_refusal = stream.refused, stream.slowest_refusal
    verdict.unexpected = sum(stream.unexpected.values())
    if stream.unexpected:
        verdict.notes.append(f"answers {dict(stream.unexpected)}")
    _judge_account(site, stream, verdict)
    return verdict


def _judge_account(site: Site, stream: Stream, verdict: Verdict) -> None:
    account = site.wait(site.ledger, 30, "an answer of the ledger")
    processed = sum(account[name] for name in OUTCOMES)
    verdict.dead = account["dead"]
    uncertain = sum(stream.uncertain.values())
    categories = sum(
        int(n)
        for (n,) in site.query(
            "SELECT n FROM counts WHERE kind = 'status'"
            " UNION ALL SELECT value::int FROM ledger, jsonb_each_text(deltas->'status')"
        )
    )
    verdict.duplicated += max(0, processed - verdict.accepted - stream.foreign - uncertain)
    verdict.duplicated += abs(categories - verdict.stored)
    in_flight = account["in_flight"] - account["may_have_promised"]["documents"]
    allowed = uncertain if site.api_killed else 0
    verdict.even = (
        account["accepted"] == processed + account["in_flight"]
        and 0 <= in_flight <= allowed
        and account["unaccounted"]["documents"] == 0
        and processed >= verdict.accepted
    )
    if account["dead"] != len(stream.doomed):
        verdict.notes.append(f"dead {account['dead']}")
    if not verdict.even:
        figures = {name: account[name] for name in ("accepted", *OUTCOMES, "in_flight")}
        figures |= {"unaccounted": account["unaccounted"]["documents"], "uncertain": uncertain}
        verdict.notes.append(", ".join(f"{name} {n}" for name, n in figures.items() if n))


def drained(site: Site, stream: Stream) -> bool:
    """Say whether everything promised is stored and nothing is in flight any more."""
    account = site.ledger()
    if account is None:
        return False
    processed = sum(account[name] for name in OUTCOMES)
    open_ones = sum(stream.uncertain.values()) if site.api_killed else 0
    if processed < len(stream.accepted) or account["in_flight"] > open_ones:
        return False
    return not site.api_killed or _nothing_missing(site, stream)


def _nothing_missing(site: Site, stream: Stream) -> bool:
    latest = [each for each in stream.latest().values() if each.text.id not in stream.doomed]
    statement = """
        SELECT count(*) FROM unnest(%s::uuid[], %s::bigint[]) AS a(id, revision)
        LEFT JOIN documents AS d USING (id) WHERE d.id IS NULL OR d.revision < a.revision"""
    keys, revisions = [each.text.id for each in latest], [each.revision for each in latest]
    try:
        return site.query(statement, keys, revisions) == [(0,)]
    except psycopg2.Error:
        return False


def seconds_since(moment: float) -> float:
    """Return how long ago a moment was."""
    return monotonic() - moment
