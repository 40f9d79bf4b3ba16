"""The tables, one ORM class each, named in the singular."""

from shared.models.api_key import ApiKey
from shared.models.audit_entry import AuditEntry
from shared.models.base import Base
from shared.models.dead_letter import DeadLetter, MessageFault
from shared.models.document import Document
from shared.models.document_event import DocumentEvent
from shared.models.import_ import Import, ImportProducer, ImportReject
from shared.models.key_use import KeyUse
from shared.models.ledger import (
    Count,
    CountDelta,
    LedgerEntry,
    LedgerProducer,
    Producer,
    VoidMessage,
)
from shared.models.search import IndexedText, IndexRequest
from shared.models.stats import Stat
from shared.models.worker_process import WorkerProcess

MIGRATION = "20261122_workers"
"""The migration that makes the tables that these classes describe."""

__all__ = [
    "MIGRATION",
    "ApiKey",
    "AuditEntry",
    "Base",
    "Count",
    "CountDelta",
    "DeadLetter",
    "Document",
    "DocumentEvent",
    "Import",
    "ImportProducer",
    "ImportReject",
    "IndexRequest",
    "IndexedText",
    "KeyUse",
    "LedgerEntry",
    "LedgerProducer",
    "MessageFault",
    "Producer",
    "Stat",
    "VoidMessage",
    "WorkerProcess",
]
