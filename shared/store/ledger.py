"""The account: what producers promised, what became of it, and that both add up.

Entries are folded into one row a producer once they are older than `FOLD_AFTER_SECONDS`, so that
the ledger stays small and a late redelivery is still recognised.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shared.account import Mark
from shared.decide import Outcome
from shared.messages import Envelope

FOLD_AFTER_SECONDS: Final = 60
"""Age at which an entry is folded: longer than anybody waits for an outcome."""

SILENT_SECONDS: Final = 60
"""Time without a mark, which a producer writes every second, after which it is taken for dead."""

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


@dataclass(frozen=True, slots=True)
class Gap:
    """Numbers of one producer that are neither void nor have an entry, from one snapshot.

    Attributes:
        producer_id: the producer.
        seq, through: its last mark.
        pending: `[[number, documents], …]`, what was being published at its last mark.
        promised: numbers up to its last mark that were confirmed by then, as a multirange.
        unsure: numbers that a dead producer may have promised: they were being published at its
            last mark, or came after it; as a multirange.
    """

    producer_id: UUID
    seq: int
    through: int
    pending: list[list[int]]
    promised: str
    unsure: str


@dataclass(frozen=True, slots=True)
class Missing:
    """What of a `Gap` is still missing, from one snapshot; numbers as multiranges.

    `documents` and `unsure_documents` say how many were in the messages. Where a killed producer's
    last messages were folded the first may count some of the second, which then is too low.
    """

    producer_id: UUID
    seq: int
    marked_at: datetime | None
    closed: bool
    silent: bool
    promised: str
    documents: int
    unsure: str
    unsure_documents: int


def record(
    session: Session,
    envelope: Envelope,
    outcomes: str,
    deltas: dict[str, dict[str, int]],
    *,
    categories: Mapping[tuple[str | None, str], int] | None = None,
    revived: int = 0,
) -> None:
    """Write the entry of one message: the last statement of its transaction.

    Args:
        session: a transaction's session. Roll it back if this raises.
        envelope: the message's identity.
        outcomes: a letter a document.
        deltas: changes of the counts of live documents, see `decide.deltas`.
        categories: documents by category and letter; those left out have no category.
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
        "categories": _json(_by_category(categories or {})),
    }
    try:
        folded = session.scalar(_RECORD, values)
    except IntegrityError as error:
        raise AlreadyAccounted from error
    if folded:
        raise AlreadyAccounted


def outcomes(session: Session, producer_id: UUID, seqs: Collection[int]) -> dict[int, str]:
    """Return the letters of those of a producer's messages that were processed of late."""
    values = {"producer_id": str(producer_id), "seqs": list(seqs)}
    return {row.seq: row.outcomes for row in session.execute(_OUTCOMES, values)}


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
            "pending": _json(producer.pending),
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


def one_snapshot(session: Session) -> None:
    """Have all statements of a session, in which nothing was done yet, see the same."""
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})


def totals(session: Session) -> Totals:
    """Return the account, from one snapshot."""
    return Totals(**session.execute(_TOTALS).mappings().one())


def gaps(session: Session) -> list[Gap]:
    """Return every gap in the numbers of all producers: messages on their way, or lost."""
    rows = session.execute(_GAPS, {"silent": SILENT_SECONDS}).mappings()
    return [Gap(**row) for row in rows]


def missing(session: Session, found: Sequence[Gap]) -> list[Missing]:
    """Return what is still missing of gaps that were found before.

    Nothing of it can be on its way, the caller has seen to that: no message with documents was in
    the broker some time between the two calls.
    """
    if not found:
        return []
    values = [{**asdict(gap), "producer_id": str(gap.producer_id)} for gap in found]
    rows = session.execute(_MISSING, {"gaps": _json(values), "silent": SILENT_SECONDS})
    return [Missing(**row) for row in rows.mappings()]


def dead_letters(session: Session) -> int:
    """Return how many dead letters wait for a person."""
    return session.scalar(text("SELECT count(*) FROM dead_letters")) or 0


def counts(session: Session, kind: str) -> dict[str, int]:
    """Return the live documents of each key of `kind`: "category", "source" or "status"."""
    rows = session.execute(_COUNT, {"kind": kind})
    return {row.key: int(row.n) for row in rows}


def _by_category(counts: Mapping[tuple[str | None, str], int]) -> dict[str, dict[str, int]]:
    """Return documents by category and column; without a category, none."""
    nested: dict[str, dict[str, int]] = {}
    for (category, letter), n in counts.items():
        if category:
            columns = nested.setdefault(category, {})
            column = _COUNTED_AS[Outcome(letter)]
            columns[column] = columns.get(column, 0) + n
    return nested


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


# Two statements, sent in one go. The second sees what is committed by then: as a part of the first,
# its snapshot could be older than the fold on whose row the insert has waited, and the message
# would count twice.
_RECORD: Final = text("""
    INSERT INTO ledger (producer_id, seq, documents, through, stored, unchanged, superseded,
        refused, failed, dead, outcomes, deltas, categories)
    VALUES (CAST(:producer_id AS uuid), :seq, :documents, :through, :stored, :unchanged,
        :superseded, :refused, :failed, :dead, :outcomes, CAST(:deltas AS jsonb),
        CAST(:categories AS jsonb));
    SELECT EXISTS (SELECT FROM ledger_producers
        WHERE producer_id = CAST(:producer_id AS uuid) AND done @> CAST(:seq AS int8))
""")

_OUTCOMES: Final = text("""
    SELECT seq, outcomes FROM ledger
    WHERE producer_id = CAST(:producer_id AS uuid) AND seq = ANY(CAST(:seqs AS int8[]))
""")

_RECORD_DELTAS: Final = text("INSERT INTO count_deltas (deltas) VALUES (CAST(:deltas AS jsonb))")

_MARK: Final = text("""
    INSERT INTO producers AS p (producer_id, seq, through, closed, pending, marked_at)
    VALUES (CAST(:producer_id AS uuid), :seq, :through, :closed, CAST(:pending AS jsonb), now())
    ON CONFLICT (producer_id) DO UPDATE SET
        seq = greatest(p.seq, excluded.seq), through = greatest(p.through, excluded.through),
        closed = p.closed OR excluded.closed,
        pending = CASE WHEN excluded.seq < p.seq THEN p.pending ELSE excluded.pending END,
        marked_at = now()
""")

_VOID: Final = text("""
    INSERT INTO void_messages (producer_id, seq, documents)
    SELECT CAST(:producer_id AS uuid), v.seq, v.documents
    FROM unnest(CAST(:seqs AS int8[]), CAST(:documents AS int8[])) AS v(seq, documents)
    ON CONFLICT (producer_id, seq) DO NOTHING
""")


def totals_sql(entries: str) -> str:
    """Return SQL for rows (at, category, outcome, n), `at` a minute, of entries of the ledger.

    All are of category "", which stands for all categories together.
    """
    sums = ", ".join(f"sum({name}) AS {name}" for name in _COUNTS)
    pairs = ", ".join(f"('{name}', {name})" for name in _COUNTS)
    return f"""
        SELECT at, '' AS category, o.outcome, o.n FROM (
            SELECT date_trunc('minute', committed_at, 'UTC') AS at, {sums}
            FROM {entries} GROUP BY 1) AS minutes, LATERAL (VALUES {pairs}) AS o(outcome, n)
        WHERE o.n <> 0
    """  # noqa: S608  # put together of our own texts


def categories_sql(entries: str) -> str:
    """Return SQL for the same rows by category, without documents that have none."""
    # Small messages are often alike: each kind is unpacked once.
    return f"""
        SELECT at, c.key AS category, o.key AS outcome, sum(CAST(o.value AS int8) * times) AS n
        FROM (
            SELECT date_trunc('minute', committed_at, 'UTC') AS at, categories, count(*) AS times
            FROM {entries} GROUP BY 1, 2) AS alike,
            jsonb_each(categories) AS c, jsonb_each_text(c.value) AS o
        GROUP BY 1, 2, 3
    """  # noqa: S608  # put together of our own texts


# One statement takes all locks on counts in the order of their keys: two folders cannot deadlock.
_FOLD: Final = text(f"""
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
    minutes AS ({totals_sql("gone")} UNION ALL {categories_sql("gone")}),
    summed AS (
        INSERT INTO stats AS s (span, at, category, outcome, n)
        SELECT span, date_trunc(span, at, 'UTC'), category, outcome, sum(n)
        FROM minutes, unnest(ARRAY['minute', 'hour', 'day']) AS span
        GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
        ON CONFLICT (span, at, category, outcome) DO UPDATE SET n = s.n + excluded.n),
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
""")  # noqa: S608  # put together of our own texts

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

# What is done of each producer, folded or not, and what is void.
_NUMBERS: Final = """
    done AS (
        SELECT producer_id, range_agg(numbers) AS numbers FROM (
            SELECT producer_id, unnest(done) AS numbers FROM ledger_producers
            UNION ALL
            SELECT producer_id, int8range(seq, seq, '[]') FROM ledger) AS each
        GROUP BY producer_id),
    void AS (
        SELECT producer_id, range_agg(int8range(seq, seq, '[]')) AS numbers
        FROM void_messages GROUP BY producer_id)
"""

# A producer without a mark is dead if none of its entries is young.
_GAPS: Final = text(f"""
    WITH {_NUMBERS},
    pending AS (
        SELECT producer_id, range_agg(int8range(CAST(each ->> 0 AS int8),
            CAST(each ->> 0 AS int8), '[]')) AS numbers
        FROM producers, jsonb_array_elements(pending) AS each GROUP BY producer_id),
    producer AS (
        SELECT producer_id, coalesce(p.seq, 0) AS seq, coalesce(p.through, 0) AS through,
            coalesce(p.pending, '[]') AS pending,
            coalesce(p.closed OR p.marked_at < now() - make_interval(secs => :silent),
                NOT EXISTS (SELECT FROM ledger l WHERE l.producer_id = d.producer_id)) AS dead,
            coalesce(d.numbers, '{{}}') AS done, coalesce(v.numbers, '{{}}') AS void,
            coalesce(n.numbers, '{{}}') AS under_way
        FROM producers p FULL JOIN done d USING (producer_id)
            LEFT JOIN void v USING (producer_id) LEFT JOIN pending n USING (producer_id)),
    gap AS (
        SELECT producer_id, seq, through, pending,
            int8multirange(int8range(1, seq + 1)) - done - void - under_way AS promised,
            CASE WHEN dead THEN (under_way + CASE WHEN upper(done) > seq + 1
                THEN int8multirange(int8range(seq + 1, upper(done))) ELSE '{{}}' END) - done - void
                ELSE '{{}}' END AS unsure
        FROM producer)
    SELECT producer_id, seq, through, pending, CAST(promised AS text) AS promised,
        CAST(unsure AS text) AS unsure
    FROM gap WHERE NOT isempty(promised) OR NOT isempty(unsure)
    ORDER BY producer_id
""")  # noqa: S608  # put together of our own texts

# The documents up to the mark that the gap was found with are given, accounted for, void, under
# way, or missing; and so are those after it. Of the entries after the mark, folded ones have left
# no sum of their own: what is not otherwise known is taken to be theirs.
_MISSING: Final = text(f"""
    WITH {_NUMBERS},
    gap AS (
        SELECT * FROM json_to_recordset(CAST(:gaps AS json)) AS g(producer_id uuid, seq int8,
            through int8, pending json, promised text, unsure text)),
    open AS (
        SELECT g.producer_id, g.seq, g.through, g.pending,
            coalesce(d.numbers, '{{}}') AS done, coalesce(v.numbers, '{{}}') AS void,
            CAST(g.promised AS int8multirange) - coalesce(d.numbers, '{{}}')
                - coalesce(v.numbers, '{{}}') AS promised,
            CAST(g.unsure AS int8multirange) - coalesce(d.numbers, '{{}}')
                - coalesce(v.numbers, '{{}}') AS unsure
        FROM gap g LEFT JOIN done d USING (producer_id) LEFT JOIN void v USING (producer_id)),
    counted AS (
        SELECT o.*, coalesce(f.documents, 0) AS folded,
            coalesce(upper(f.done) > o.seq + 1, false) AS folded_after,
            greatest(o.through, f.through, e.through, p.through) AS given,
            coalesce(e.up_to, 0) AS entered, coalesce(e.after, 0) AS entered_after,
            coalesce(w.up_to, 0) AS voided, coalesce(w.after, 0) AS voided_after,
            coalesce(u.documents, 0) AS under_way,
            p.marked_at, coalesce(p.closed, false) AS closed,
            coalesce(p.marked_at < now() - make_interval(secs => :silent), true) AS silent
        FROM open o
        LEFT JOIN producers p USING (producer_id)
        LEFT JOIN ledger_producers f USING (producer_id)
        LEFT JOIN LATERAL (
            SELECT max(l.through) AS through,
                sum(l.documents) FILTER (WHERE l.seq <= o.seq) AS up_to,
                sum(l.documents) FILTER (WHERE l.seq > o.seq) AS after
            FROM ledger l WHERE l.producer_id = o.producer_id) AS e ON true
        LEFT JOIN LATERAL (
            SELECT sum(m.documents) FILTER (WHERE m.seq <= o.seq) AS up_to,
                sum(m.documents) FILTER (WHERE m.seq > o.seq) AS after
            FROM void_messages m
            WHERE m.producer_id = o.producer_id AND NOT o.done @> m.seq) AS w ON true
        LEFT JOIN LATERAL (
            SELECT sum(CAST(n ->> 1 AS int8)) AS documents FROM json_array_elements(o.pending) AS n
            WHERE NOT o.done @> CAST(n ->> 0 AS int8)
                AND NOT o.void @> CAST(n ->> 0 AS int8)) AS u ON true
        WHERE NOT isempty(o.promised) OR NOT isempty(o.unsure)),
    split AS (
        SELECT *, greatest(0, given - through - entered_after - voided_after) AS after
        FROM counted)
    SELECT producer_id, seq, marked_at, closed, silent,
        CAST(promised AS text) AS promised,
        CAST(CASE WHEN isempty(promised) THEN 0 ELSE greatest(0, through - voided - under_way
            - entered - (folded - CASE WHEN folded_after THEN least(folded, after) ELSE 0 END))
            END AS int8) AS documents,
        CAST(unsure AS text) AS unsure,
        CAST(CASE WHEN isempty(unsure) THEN 0 ELSE under_way
            + CASE WHEN folded_after THEN 0 ELSE after END END AS int8) AS unsure_documents
    FROM split ORDER BY producer_id
""")  # noqa: S608  # put together of our own texts

_COUNT: Final = text("""
    SELECT key, sum(n) AS n FROM (
        SELECT key, n FROM counts WHERE kind = :kind
        UNION ALL
        SELECT d.key, CAST(d.value AS int8) FROM ledger, jsonb_each_text(deltas -> :kind) AS d
        UNION ALL
        SELECT d.key, CAST(d.value AS int8) FROM count_deltas, jsonb_each_text(deltas -> :kind) AS d
    ) parts GROUP BY key HAVING sum(n) <> 0 ORDER BY n DESC, key
""")
