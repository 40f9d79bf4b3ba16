"""The account: what producers promised, what became of it, and that both add up.

Entries are folded into one row a producer once they are older than `FOLD_AFTER_SECONDS`, so that
the ledger stays small and a late redelivery is still recognised.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shared.account import Mark
from shared.decide import Outcome
from shared.messages import Envelope

FOLD_AFTER_SECONDS: Final = 60
"""Age at which an entry is folded: longer than anybody waits for an outcome."""

_FOLD_LIMIT: Final = 20_000

_COUNTED_AS: Final = {
    Outcome.CREATED: "stored",
    Outcome.REPLACED: "stored",
    Outcome.UNCHANGED: "unchanged",
    Outcome.SUPERSEDED: "superseded",
    Outcome.PRECONDITION_FAILED: "refused",
    Outcome.FAILED: "failed",
    Outcome.DEAD: "dead",
}

_COUNTS: Final = ("stored", "unchanged", "superseded", "refused", "failed", "dead")


class AlreadyAccounted(Exception):
    """The message has its entry: it was processed before. Roll back, and be done with it."""


@dataclass(frozen=True, slots=True)
class Totals:
    """The account of all documents, from one snapshot.

    `accepted = stored + unchanged + superseded + refused + failed + dead + in_flight`.
    `void` are documents of messages whose publish failed and that did not arrive; nobody was
    promised them, and `accepted` does not count them.
    """

    accepted: int
    stored: int
    unchanged: int
    superseded: int
    refused: int
    failed: int
    dead: int
    in_flight: int
    void: int


def record(
    session: Session,
    envelope: Envelope,
    outcomes: str,
    deltas: dict[str, dict[str, int]],
    *,
    revived: int = 0,
) -> None:
    """Write the entry of one message: the last statement of its transaction.

    Args:
        session: a transaction's session. Roll it back if this raises.
        envelope: the message's identity.
        outcomes: a letter a document.
        deltas: changes of the counts of live documents, see `decide.deltas`.
        revived: documents that another entry counts as dead, and this one by its outcomes.

    Raises:
        AlreadyAccounted: the message has an entry, or a folded one.
    """
    counted = Counter(_COUNTED_AS[Outcome(letter)] for letter in outcomes)
    counted["dead"] -= revived
    values = {name: counted[name] for name in _COUNTS} | {
        "producer_id": str(envelope.producer_id),
        "seq": envelope.seq,
        "documents": envelope.documents,
        "through": envelope.through,
        "outcomes": outcomes,
        "deltas": _json(deltas),
    }
    try:
        folded = session.scalar(_RECORD, values)
    except IntegrityError as error:
        raise AlreadyAccounted from error
    if folded:
        raise AlreadyAccounted


def record_deltas(session: Session, deltas: dict[str, dict[str, int]]) -> None:
    """Write what an operation without a message, such as a delete, changed in the counts."""
    if any(deltas.values()):
        session.execute(_RECORD_DELTAS, {"deltas": _json(deltas)})


def mark(session: Session, producer: Mark) -> None:
    """Write down what a producer says of itself; doing it twice changes nothing."""
    session.execute(
        _MARK,
        {
            "producer_id": str(producer.producer_id),
            "seq": producer.seq,
            "through": producer.through,
            "closed": producer.closed,
        },
    )
    if producer.voids:
        session.execute(
            _VOID,
            {
                "producer_id": str(producer.producer_id),
                "seqs": [seq for seq, _ in producer.voids],
                "documents": [documents for _, documents in producer.voids],
            },
        )


def fold(session: Session, older_than_seconds: float = FOLD_AFTER_SECONDS) -> int:
    """Fold old entries into one row a producer, and their deltas into the counts.

    Two at once are exact: each takes the rows that the other has not locked.

    Returns:
        How many entries were folded, at most 20,000.
    """
    values = {"seconds": older_than_seconds, "limit": _FOLD_LIMIT}
    return session.scalar(_FOLD, values) or 0


def totals(session: Session) -> Totals:
    """Return the account, from one snapshot."""
    return Totals(**session.execute(_TOTALS).mappings().one())


def counts(session: Session, kind: str) -> dict[str, int]:
    """Return the live documents of each key of `kind`: "category", "source" or "status"."""
    rows = session.execute(_COUNT, {"kind": kind})
    return {row.key: int(row.n) for row in rows}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


# Two statements, sent in one go. The second sees what is committed by then: as a part of the first,
# its snapshot could be older than the fold on whose row the insert has waited, and the message
# would count twice.
_RECORD: Final = text("""
    INSERT INTO ledger (producer_id, seq, documents, through, stored, unchanged, superseded,
        refused, failed, dead, outcomes, deltas)
    VALUES (CAST(:producer_id AS uuid), :seq, :documents, :through, :stored, :unchanged,
        :superseded, :refused, :failed, :dead, :outcomes, CAST(:deltas AS jsonb));
    SELECT EXISTS (SELECT FROM ledger_producers
        WHERE producer_id = CAST(:producer_id AS uuid) AND done @> CAST(:seq AS int8))
""")

_RECORD_DELTAS: Final = text("INSERT INTO count_deltas (deltas) VALUES (CAST(:deltas AS jsonb))")

_MARK: Final = text("""
    INSERT INTO producers AS p (producer_id, seq, through, closed, marked_at)
    VALUES (CAST(:producer_id AS uuid), :seq, :through, :closed, now())
    ON CONFLICT (producer_id) DO UPDATE SET
        seq = greatest(p.seq, excluded.seq), through = greatest(p.through, excluded.through),
        closed = p.closed OR excluded.closed, marked_at = now()
""")

_VOID: Final = text("""
    INSERT INTO void_messages (producer_id, seq, documents)
    SELECT CAST(:producer_id AS uuid), v.seq, v.documents
    FROM unnest(CAST(:seqs AS int8[]), CAST(:documents AS int8[])) AS v(seq, documents)
    ON CONFLICT (producer_id, seq) DO NOTHING
""")

# One statement takes all locks on counts in the order of their keys: two folders cannot deadlock.
_FOLD: Final = text("""
    WITH gone AS (
        DELETE FROM ledger WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM ledger
            WHERE committed_at < clock_timestamp() - make_interval(secs => :seconds)
            ORDER BY producer_id, seq LIMIT :limit FOR UPDATE SKIP LOCKED))
        RETURNING *),
    gone_deltas AS (
        DELETE FROM count_deltas WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM count_deltas ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED))
        RETURNING deltas),
    counted AS (
        INSERT INTO counts AS c (kind, key, n)
        SELECT kinds.key, keys.key, sum(CAST(keys.value AS int8))
        FROM (SELECT deltas FROM gone UNION ALL SELECT deltas FROM gone_deltas) AS changes,
            jsonb_each(deltas) AS kinds, jsonb_each_text(kinds.value) AS keys
        GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (kind, key) DO UPDATE SET n = c.n + excluded.n),
    folded AS (
        INSERT INTO ledger_producers AS l (producer_id, done, documents, through, stored,
            unchanged, superseded, refused, failed, dead)
        SELECT producer_id, range_agg(int8range(seq, seq, '[]')), sum(documents), max(through),
            sum(stored), sum(unchanged), sum(superseded), sum(refused), sum(failed), sum(dead)
        FROM gone GROUP BY producer_id ORDER BY producer_id
        ON CONFLICT (producer_id) DO UPDATE SET
            done = l.done + excluded.done, documents = l.documents + excluded.documents,
            through = greatest(l.through, excluded.through), stored = l.stored + excluded.stored,
            unchanged = l.unchanged + excluded.unchanged,
            superseded = l.superseded + excluded.superseded,
            refused = l.refused + excluded.refused, failed = l.failed + excluded.failed,
            dead = l.dead + excluded.dead)
    SELECT count(*) FROM gone
""")

_TOTALS: Final = text("""
    WITH parts AS (
        SELECT producer_id, through, 0 AS documents, 0 AS stored, 0 AS unchanged, 0 AS superseded,
            0 AS refused, 0 AS failed, 0 AS dead FROM producers
        UNION ALL
        SELECT producer_id, through, documents, stored, unchanged, superseded, refused, failed,
            dead FROM ledger
        UNION ALL
        SELECT producer_id, through, documents, stored, unchanged, superseded, refused, failed,
            dead FROM ledger_producers),
    producer AS (
        SELECT max(through) AS through, sum(documents) AS documents, sum(stored) AS stored,
            sum(unchanged) AS unchanged, sum(superseded) AS superseded, sum(refused) AS refused,
            sum(failed) AS failed, sum(dead) AS dead
        FROM parts GROUP BY producer_id),
    void AS (
        SELECT coalesce(sum(v.documents), 0) AS documents FROM void_messages v
        WHERE NOT EXISTS (SELECT FROM ledger l
                WHERE l.producer_id = v.producer_id AND l.seq = v.seq)
            AND NOT EXISTS (SELECT FROM ledger_producers p
                WHERE p.producer_id = v.producer_id AND p.done @> v.seq)),
    account AS (
        SELECT coalesce(sum(through), 0) AS through, coalesce(sum(documents), 0) AS documents,
            coalesce(sum(stored), 0) AS stored, coalesce(sum(unchanged), 0) AS unchanged,
            coalesce(sum(superseded), 0) AS superseded, coalesce(sum(refused), 0) AS refused,
            coalesce(sum(failed), 0) AS failed, coalesce(sum(dead), 0) AS dead
        FROM producer)
    SELECT CAST(a.through - v.documents AS int8) AS accepted, CAST(a.stored AS int8) AS stored,
        CAST(a.unchanged AS int8) AS unchanged, CAST(a.superseded AS int8) AS superseded,
        CAST(a.refused AS int8) AS refused, CAST(a.failed AS int8) AS failed,
        CAST(a.dead AS int8) AS dead,
        CAST(a.through - v.documents - a.documents AS int8) AS in_flight,
        CAST(v.documents AS int8) AS void
    FROM account a, void v
""")

_COUNT: Final = text("""
    SELECT key, sum(n) AS n FROM (
        SELECT key, n FROM counts WHERE kind = :kind
        UNION ALL
        SELECT d.key, CAST(d.value AS int8) FROM ledger, jsonb_each_text(deltas -> :kind) AS d
        UNION ALL
        SELECT d.key, CAST(d.value AS int8) FROM count_deltas, jsonb_each_text(deltas -> :kind) AS d
    ) parts GROUP BY key HAVING sum(n) <> 0 ORDER BY n DESC, key
""")
