"""Races writers, folders and a reader over few documents, and checks all that is left.

Four writers accept, deliver, deliver again, delete, bury and replay; two folders fold and mark; a
reader looks at snapshots. What the rows must be in the end is worked out by a reference of three
lines: of the operations on a document the last by stamp wins, separately for its content and for
its label.

    python -m tests.shared.store.race --rounds 500
    python -m tests.shared.store.race --rounds 200 --kills
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from threading import Event, Lock
from time import monotonic
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import text
from uuid_utils.compat import uuid7

from local.ports import free_ports
from local.postgres import Postgres
from shared.account import Account
from shared.db import Database
from shared.dead import Letter, RawMessage, Reason
from shared.decide import UNSET, NeedsClassification
from shared.errors import DatabaseUnavailable
from shared.messages import Envelope
from shared.revision import EPOCH, Clock
from shared.store import dead_letters, documents, ledger, stats
from shared.store.documents import Vanished, Write
from shared.store.ledger import AlreadyAccounted
from tests.conftest import migrate
from tests.shared.store.samples import predict, put, unclassified

ResultT = TypeVar("ResultT")

WRITERS: Final = 4
FOLDERS: Final = 2
IDS: Final = 4
STEPS: Final = 30
CONTENTS: Final = ("alpha one", "alpha two", "beta", "bad")
METADATA: Final[list[dict[str, Any]]] = [{}, {"n": 1}, {"n": {"m": [1.5, None, True]}}]
APPLICATION: Final = "postroom-race"
DEADLINE: Final = 60
OUTCOMES: Final = ("stored", "unchanged", "superseded", "refused", "failed", "dead")


class Difference(AssertionError):
    """What is stored is not what it must be."""


@dataclass(frozen=True, slots=True)
class Message:
    """An accepted message, or the replay of a dead letter.

    A lost one never arrives: its publish failed. Culprits are dead when the others are stored.
    """

    envelope: Envelope
    writes: tuple[Write, ...]
    lost: bool
    culprits: frozenset[int] = frozenset()

    def letter(self, position: int | None) -> Letter:
        """Return the letter of one document, or of them all."""
        now = datetime.now(UTC)
        return Letter(
            reason=Reason.CHILD_KILLED,
            error="raced",
            task=None,
            envelope=self.envelope,
            position=position,
            documents=len(self.writes) if position is None else 1,
            attempts=1,
            first_at=now,
            last_at=now,
            raw=RawMessage({}, None, None, b""),
        )


@dataclass(frozen=True, slots=True)
class Operation:
    """What was accepted for one document; `write` is None for a delete, which wins a tie."""

    stamp: int
    task_id: str | None
    write: Write | None

    @property
    def place(self) -> tuple[int, bool]:
        return self.stamp, self.write is None


@dataclass
class Coverage:
    """What has been raced so far."""

    rounds: int = 0
    messages: int = 0
    duplicates: int = 0
    deletes: int = 0
    hints_wrong: int = 0
    folded: int = 0
    snapshots: int = 0
    kills: int = 0
    buried: int = 0
    replays: int = 0
    replays_in_vain: int = 0


def expected_row(operations: list[Operation]) -> dict[str, Any] | None:
    """The reference. None where the document is deleted."""
    ordered = sorted(operations, key=lambda operation: operation.place)
    content = ordered[-1]
    labels = [each for each in ordered if each.write is None or each.write.put.label is not UNSET]
    label = labels[-1] if labels else None
    if content.write is None:
        return None
    prediction = predict(content.write.content)
    return {
        "content": content.write.content,
        "metadata": content.write.put.metadata,
        "source": content.write.put.source,
        "external_id": content.write.put.external_id,
        "content_revision": content.stamp,
        "label_revision": label.stamp if label else 0,
        "label": label.write.put.label if label and label.write else None,
        "predicted_category": prediction.category,
        "confidence": prediction.confidence,
        "error": prediction.error,
        "status": "stored" if prediction.error is None else "failed",
        "task_id": content.task_id,
    }


_ROWS: Final = text("""
    SELECT id::text AS id, content, metadata, source, external_id, content_revision,
        label_revision, label, predicted_category, confidence, error, status, task_id
    FROM documents WHERE id = ANY(CAST(:ids AS uuid[])) AND content IS NOT NULL
""")

_LIVE: Final = text("""
    SELECT 'status' AS kind, status AS key, count(*) AS n FROM documents
        WHERE content IS NOT NULL GROUP BY 2
    UNION ALL SELECT 'category', category, count(*) FROM documents
        WHERE content IS NOT NULL AND category IS NOT NULL GROUP BY 2
    UNION ALL SELECT 'source', source, count(*) FROM documents
        WHERE content IS NOT NULL AND source IS NOT NULL GROUP BY 2
""")

_DEAD: Final = text("SELECT CAST(coalesce(sum(documents), 0) AS int8) FROM dead_letters")

_LETTER: Final = text("""
    SELECT id FROM dead_letters WHERE producer_id = CAST(:producer AS uuid) AND seq = :seq
        AND position IS NOT DISTINCT FROM CAST(:at AS int4)
""")

_KILL: Final = text("""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = :application AND datname = current_database()
    ORDER BY random() LIMIT 1
""")


class Round:
    """One race over documents of its own."""

    def __init__(
        self, writers: Database, others: Database, coverage: Coverage, seed: int, *, kills: bool
    ) -> None:
        self.random = Random(seed)
        self.writers = writers
        self.others = others
        self.coverage = coverage
        self.kills = kills
        self.ids = [str(UUID(int=self.random.getrandbits(128), version=4)) for _ in range(IDS)]
        self.clock = Clock()
        self.account = Account(uuid7())
        self.messages: list[Message] = []
        self.outcomes: dict[int, str] = {}
        self.deletes: list[tuple[str, Operation]] = []
        self.hints: dict[str, bytes | None] = {}
        self.letters: list[tuple[UUID, tuple[Write, ...]]] = []
        self.done = Event()
        self.lock = Lock()

    def run(self) -> None:
        with ThreadPoolExecutor(WRITERS + FOLDERS + 2) as threads:
            beside: list[Callable[[], None]] = [self._fold] * FOLDERS + [self._read]
            background = [threads.submit(self._until_done, each) for each in beside]
            if self.kills:
                background.append(threads.submit(self._until_done, self._kill))
            seeds = [self.random.getrandbits(64) for _ in range(WRITERS)]
            writers = [threads.submit(self._write_all, Random(seed)) for seed in seeds]
            try:
                for each in writers:
                    each.result()
            finally:
                self.done.set()
            for each in background:
                each.result()
        self._finish()

    # --- What the threads do ---------------------------------------------------------------------

    def _write_all(self, random: Random) -> None:
        for _ in range(STEPS):
            dice = random.random()
            if dice < 0.35 or not self.messages:
                self._accept(random)
            elif dice < 0.78 or self.kills:
                self._deliver(random.choice(self.messages[-12:]), random)
            elif dice < 0.85:
                self._bury(random.choice(self.messages[-12:]))
            elif dice < 0.92:
                self._replay(random)
            else:
                self._delete(random.choice(self.ids))

    def _until_done(self, action: Callable[[], None]) -> None:
        while not self.done.is_set():
            action()

    def _accept(self, random: Random) -> None:
        writes = tuple(self._write(random) for _ in range(random.randint(1, 5)))
        with self.lock:
            envelope = self.account.number(len(writes))
            void = random.random() < 0.1
            if void:
                self.account.void(envelope)
            lost = void and random.random() < 0.5
            culprits = [at for at in range(1, len(writes)) if random.random() < 0.1]
            if self.kills:  # nobody would hear which of the two was stored
                culprits = []
            self.messages.append(Message(envelope, writes, lost, frozenset(culprits)))

    def _replay(self, random: Random) -> None:
        """Accept the replay of a letter, which may be gone already."""
        with self.lock:
            if self.letters:
                letter_id, writes = random.choice(self.letters[-5:])
                envelope = replace(self.account.number(0), replays=letter_id)
                self.messages.append(Message(envelope, writes, lost=False))
                self.coverage.replays += 1

    def _bury(self, message: Message) -> None:
        """Do what the reader of the dead does with a message; a replay is no letter of its own."""
        if message.lost:
            return
        letter = message.letter(None)
        try:
            with self.writers.transaction() as session:
                dead_letters.bury(session, letter, redelivered=False)
        except AlreadyAccounted:
            self.coverage.duplicates += 1
            return
        self.coverage.buried += 1
        self._told(message, "d" * message.envelope.documents)
        if message.envelope.documents:
            self._found(message, None, message.writes)

    def _found(self, message: Message, position: int | None, writes: tuple[Write, ...]) -> None:
        """Note a letter that is there now."""
        envelope = message.envelope
        values = {"producer": str(envelope.producer_id), "seq": envelope.seq, "at": position}
        with self.writers.transaction() as session:
            found = session.execute(_LETTER, values).scalar_one()
        with self.lock:
            self.letters.append((found, writes))

    def _told(self, message: Message, outcomes: str) -> None:
        with self.lock:
            if message.envelope.seq in self.outcomes:
                raise Difference(f"{message.envelope.task_id} was stored twice")
            self.outcomes[message.envelope.seq] = outcomes

    def _write(self, random: Random) -> Write:
        return put(
            random.choice(self.ids),
            self.clock.stamp(),
            random.choice(CONTENTS),
            metadata=random.choice(METADATA),
            source=random.choice([None, "mail", "ftp"]),
            external_id=random.choice([None, "x-1"]),
            label=random.choice([UNSET, UNSET, "human", None]),
        )

    def _deliver(self, message: Message, random: Random) -> None:
        if message.lost:
            return
        hint = self._patiently(lambda: self._hint(message, random))
        try:
            outcomes = self._patiently(lambda: self._store(message, hint))
        except (NeedsClassification, Vanished):
            self.coverage.hints_wrong += 1
            outcomes = self._patiently(lambda: self._store(message, {}))
        if outcomes is None:
            self.coverage.duplicates += 1
        else:
            self._told(message, outcomes)
            for position in message.culprits:
                self._found(message, position, (message.writes[position],))

    def _hint(self, message: Message, random: Random) -> Mapping[str, bytes | None]:
        dice = random.random()
        ids = {each.id for each in message.writes}
        if dice < 0.4:
            return {}
        if dice < 0.5:
            return dict.fromkeys(ids)  # wrong where there is no row yet
        if dice < 0.7:
            return {key: self.hints[key] for key in ids & self.hints.keys()}  # stale
        with self.writers.transaction() as session:
            known = documents.known(session, ids)
        self.hints.update(known)
        return known

    def _store(self, message: Message, known: Mapping[str, bytes | None]) -> str | None:
        writes = [
            unclassified(each) if known.get(each.id) == each.put.content_hash else each
            for at, each in enumerate(message.writes)
            if at not in message.culprits
        ]
        envelope = message.envelope
        try:
            with self.writers.transaction() as session:
                revived = dead_letters.take(session, envelope) if envelope.replays else 0
                dead_letters.keep(session, map(message.letter, sorted(message.culprits)))
                return documents.write(
                    session, envelope, writes, known.keys(), dead=message.culprits, revived=revived
                )
        except AlreadyAccounted:
            return None
        except dead_letters.Gone:
            return self._close(message)

    def _close(self, message: Message) -> str | None:
        try:
            with self.writers.transaction() as session:
                ledger.record(session, message.envelope, "", {})
        except AlreadyAccounted:
            return None
        self.coverage.replays_in_vain += 1
        return ""

    def _patiently(self, action: Callable[[], ResultT]) -> ResultT:
        end = monotonic() + DEADLINE
        while True:
            try:
                return action()
            except DatabaseUnavailable as error:
                if not self.kills or "deadlock" in str(error) or monotonic() > end:
                    raise Difference(f"a writer failed: {error}") from error

    def _delete(self, key: str) -> None:
        with self.writers.transaction() as session:
            revision = documents.delete(session, UUID(key), self.clock.stamp())
        self.clock.observe(revision)
        with self.lock:
            self.deletes.append((key, Operation(revision, None, None)))

    def _fold(self) -> None:
        with self.others.transaction() as session:
            ledger.mark(session, self.account.mark())
        try:
            with self.others.transaction() as session:
                folded = ledger.fold(session, 0)
        except DatabaseUnavailable as error:
            raise Difference(f"a folder failed: {error}") from error
        self.coverage.folded += folded

    def _kill(self) -> None:
        with self.others.transaction() as session:
            killed = session.execute(_KILL, {"application": APPLICATION}).all()
        self.coverage.kills += len(killed)
        self.done.wait(0.01)

    # --- What must hold --------------------------------------------------------------------------

    def _read(self) -> None:
        """Look at one snapshot: the account adds up, and the counts are those of the rows."""
        with self.others.transaction() as session:
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            totals = ledger.totals(session)
            live: dict[str, dict[str, int]] = {"status": {}, "category": {}, "source": {}}
            for row in session.execute(_LIVE):
                live[row.kind][row.key] = row.n
            counts = {kind: ledger.counts(session, kind) for kind in live}
            dead = session.scalar(_DEAD)
            over_time: Counter[str] = Counter()
            for line in stats.series(session, "day", EPOCH, datetime.now(UTC)):
                over_time[line.outcome] += sum(line.counts)
        _same("counts", counts, live)
        _same("documents of dead letters", totals.dead, dead)
        _same("statistics", over_time, +Counter({each: getattr(totals, each) for each in OUTCOMES}))
        _add_up(totals)
        self.coverage.snapshots += 1

    def _finish(self) -> None:
        for message in self.messages:
            self._deliver(message, self.random)
        with self.others.transaction() as session:
            ledger.mark(session, self.account.mark(closed=True))
        self._read()
        with self.others.transaction() as session:
            totals = ledger.totals(session)
            rows = {
                row.pop("id"): row
                for row in map(dict, session.execute(_ROWS, {"ids": self.ids}).mappings())
            }
        for key in self.ids:
            _same(f"document {key}", rows.get(key), self._expected(key))
        _same("documents in flight", totals.in_flight, 0)
        self._count()

    def _expected(self, key: str) -> dict[str, Any] | None:
        puts = [
            Operation(write.put.stamp, message.envelope.task_id, write)
            for message in self.messages
            for at, write in enumerate(message.writes)
            if write.id == key and not message.lost and self._was_stored(message, at)
        ]
        operations = puts + [operation for other, operation in self.deletes if other == key]
        return expected_row(operations) if operations else None

    def _was_stored(self, message: Message, position: int) -> bool:
        if self.kills:
            return True
        outcomes = self.outcomes[message.envelope.seq]
        return outcomes[position : position + 1] not in {"", "d"}

    def _count(self) -> None:
        """Compare the account of this round's producer, folded or not, with the answers given."""
        columns = ("stored", "unchanged", "superseded", "refused", "failed", "dead", "documents")
        sums = ", ".join(f"CAST(coalesce(sum({name}), 0) AS int8) AS {name}" for name in columns)
        names = ", ".join(columns)
        statement = text(
            f"SELECT {sums} FROM (SELECT {names} FROM ledger WHERE producer_id = :id"
            f" UNION ALL SELECT {names} FROM ledger_producers WHERE producer_id = :id) entries"
        )
        with self.others.transaction() as session:
            row = dict(
                session.execute(statement, {"id": self.account.producer_id}).mappings().one()
            )
        arrived = [message for message in self.messages if not message.lost]
        _same("documents", row["documents"], sum(each.envelope.documents for each in arrived))
        if not self.kills:  # a killed writer may have committed without hearing its answer
            letters = Counter("".join(self.outcomes.values()))
            expected = {"stored": letters["c"] + letters["s"], "unchanged": letters["u"]}
            revived = sum(
                len(self.outcomes[each.envelope.seq]) for each in arrived if each.envelope.replays
            )
            expected |= {"superseded": letters["x"], "failed": letters["f"]}
            expected |= {"dead": letters["d"] - revived}
            _same("letters", {name: row[name] for name in expected}, expected)
            _same("messages", len(self.outcomes), len(arrived))
        self.coverage.rounds += 1
        self.coverage.messages += len(arrived)
        self.coverage.deletes += len(self.deletes)


def _same(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise Difference(f"{what}: {got}, not {expected}")


def _add_up(totals: ledger.Totals) -> None:
    parts = asdict(totals)
    accepted = parts.pop("accepted")
    parts.pop("void")
    if sum(parts.values()) != accepted or min(asdict(totals).values()) < 0:
        raise Difference(f"the account does not add up: {totals}")


def race(url: str, rounds: int, *, seed: int = 0, kills: bool = False) -> Coverage:
    """Race so many rounds; raises `Difference`."""
    url = url.replace("postgresql://", "postgresql+psycopg2://")
    writers = Database(url, pool_size=WRITERS, statement_seconds=20, application=APPLICATION)
    others = Database(url, pool_size=FOLDERS + 2, statement_seconds=20, application="beside")
    coverage = Coverage()
    try:
        for number in range(rounds):
            Round(writers, others, coverage, seed + number, kills=kills).run()
    finally:
        writers.close()
        others.close()
    return coverage


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.shared.store.race")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", action="store_true", help="end random writers' connections")
    args = parser.parse_args()
    started = monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="postroom-") as folder,
        Postgres(Path(folder) / "postgres", free_ports(1)[0]) as server,
    ):
        url = server.create_database("race")
        migrate(url)
        coverage = race(url, args.rounds, seed=args.seed, kills=args.kills)
    print(f"{coverage}, 0 differences, {monotonic() - started:.0f} s")  # noqa: T201  # a command


if __name__ == "__main__":
    main()
