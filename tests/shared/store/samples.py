"""Messages and writes as the worker would hand them to the store."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import text
from uuid_utils.compat import uuid7

from shared import decide
from shared.account import Account
from shared.db import Database
from shared.decide import UNSET, Label, Prediction
from shared.messages import Envelope
from shared.models import Base, Document
from shared.store import documents, ledger
from shared.store.documents import Write, hash_content

ACCEPTED_AT = "2026-11-21T10:00:00.123456+00:00"
PROBLEM = {"type": "/problems/not-classified", "title": "The document could not be classified"}


def document_id(number: int) -> str:
    return str(UUID(int=number, version=4))


def predict(content: str) -> Prediction:
    """A classifier whose category is the text's first word; `bad` cannot be classified."""
    category = content.split(maxsplit=1)[0]
    if category == "bad":
        return Prediction(None, None, "model-1", PROBLEM)
    return Prediction(category, len(content) / 100, "model-1")


def put(
    key: str,
    stamp: int,
    content: str,
    *,
    metadata: dict[str, Any] | None = None,
    source: str | None = None,
    external_id: str | None = None,
    label: Label = UNSET,
) -> Write:
    operation = decide.Put(
        stamp=stamp,
        content_hash=hash_content(content),
        metadata=metadata or {},
        source=source,
        external_id=external_id,
        label=label,
        prediction=predict(content),
    )
    return Write(key, operation, content, ACCEPTED_AT)


def unclassified(write: Write) -> Write:
    return replace(write, put=replace(write.put, prediction=None))


def open_empty(url: str) -> Database:
    """Open a migrated database that tests share, without rows: sooner done than a copy of it."""
    url = url.replace("postgresql://", "postgresql+psycopg2://")
    database = Database(url, pool_size=8, statement_seconds=20, application="postroom-test")
    with database.transaction() as session:
        session.execute(text(f"TRUNCATE {', '.join(Base.metadata.tables)}"))
    return database


class Sender:
    """A producer with a store at hand: each `send` is a message that arrives at once."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.account = Account(uuid7())

    def send(self, *writes: Write, known: Sequence[str] = ()) -> str:
        return self.deliver(self.account.number(len(writes)), *writes, known=known)

    def deliver(self, envelope: Envelope, *writes: Write, known: Sequence[str] = ()) -> str:
        with self.database.transaction() as session:
            return documents.write(session, envelope, writes, known)

    def delete(self, key: str, now: int) -> int:
        with self.database.transaction() as session:
            return documents.delete(session, UUID(key), now)

    def mark(self, *, closed: bool = False) -> None:
        with self.database.transaction() as session:
            ledger.mark(session, self.account.mark(closed=closed))

    def fold(self, older_than_seconds: float = 0) -> int:
        with self.database.transaction() as session:
            return ledger.fold(session, older_than_seconds)

    def totals(self) -> ledger.Totals:
        with self.database.transaction() as session:
            return ledger.totals(session)

    def counts(self, kind: str) -> dict[str, int]:
        with self.database.transaction() as session:
            return ledger.counts(session, kind)

    def known(self, *keys: str) -> dict[str, bytes | None]:
        with self.database.transaction() as session:
            return documents.known(session, keys)

    def purge(self, days: int = 30, limit: int = 100) -> int:
        with self.database.transaction() as session:
            return documents.purge_tombstones(session, days, limit)

    def get(self, key: str) -> Document | None:
        with self.database.transaction() as session:
            return documents.get(session, UUID(key))
