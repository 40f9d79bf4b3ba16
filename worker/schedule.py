"""What beat sends, and how often. A tick expires before the next one: late, it is worth nothing."""

from typing import Any, Final

from shared.messages import FOLD_LEDGER, INDEX_DOCUMENTS, PURGE_TOMBSTONES, Message


def _every(seconds: float, message: Message) -> dict[str, Any]:
    return {
        "task": message.task,
        "schedule": seconds,
        "options": {"queue": message.queue, "expires": seconds},
    }


SCHEDULE: Final = {
    "fold the ledger": _every(1, FOLD_LEDGER),
    "index documents": _every(1, INDEX_DOCUMENTS),
    "purge tombstones": _every(3600, PURGE_TOMBSTONES),
}
