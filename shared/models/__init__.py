"""The tables, one ORM class each, named in the singular."""

from shared.models.base import Base
from shared.models.dead_letter import DeadLetter, MessageFault
from shared.models.document import Document
from shared.models.ledger import (
    Count,
    CountDelta,
    LedgerEntry,
    LedgerProducer,
    Producer,
    VoidMessage,
)
from shared.models.search import IndexedText, IndexRequest

MIGRATION = "20261121_search"
"""The migration that makes the tables that these classes describe."""

__all__ = [
    "MIGRATION",
    "Base",
    "Count",
    "CountDelta",
    "DeadLetter",
    "Document",
    "IndexRequest",
    "IndexedText",
    "LedgerEntry",
    "LedgerProducer",
    "MessageFault",
    "Producer",
    "VoidMessage",
]
