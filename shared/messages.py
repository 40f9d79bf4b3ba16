"""Every message between the images: a task's name, its queue, its headers and its payload.

This is the only contract between API and worker. The API sends by name and never imports the
worker; the worker has exactly one task for each `Message` here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, NotRequired, Self
from uuid import UUID

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

INGEST_QUEUE: Final = "ingest"
BULK_QUEUE: Final = "bulk"
MAINTAIN_QUEUE: Final = "maintain"
DEAD_QUEUE: Final = "dead"

VERSION: Final = 2
"""Version of the payloads. A worker reads this one and the one before."""

READABLE_VERSIONS: Final = frozenset({VERSION, VERSION - 1})


@dataclass(frozen=True, slots=True)
class Message:
    """A kind of message.

    Attributes:
        task: the name of the Celery task that handles it, an imperative.
        queue: where it waits.
    """

    task: str
    queue: str


INGEST: Final = Message("documents.ingest", INGEST_QUEUE)
FOLD_LEDGER: Final = Message("ledger.fold", MAINTAIN_QUEUE)
PURGE_TOMBSTONES: Final = Message("documents.purge_tombstones", MAINTAIN_QUEUE)

MESSAGES: Final = (INGEST, FOLD_LEDGER, PURGE_TOMBSTONES)


@with_config(ConfigDict(extra="forbid", strict=True))
class Document(TypedDict):
    """One accepted document, as it travels in `INGEST`. Keys that say nothing are left out.

    `id` is a UUID's text; `stamp` is in microseconds since the epoch; `accepted_at` is RFC 3339.
    `label` is there only if the request had the key: `None` clears a human's label.
    `may_exist` is there if the id did not originate here, so that a row of that id may exist.
    """

    id: str
    stamp: int
    accepted_at: str
    content: str
    metadata: NotRequired[dict[str, Any]]
    source: NotRequired[str]
    external_id: NotRequired[str]
    label: NotRequired[str | None]
    may_exist: NotRequired[bool]
    request_id: NotRequired[str]


class Unreadable(Exception):
    """A message that this version of Postroom cannot read. It belongs among the dead letters."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The headers of a message: all that the account needs, even when the body is unreadable.

    Attributes:
        producer_id: who published it, a UUIDv7 made anew at each start of a process.
        seq: its number among that producer's messages, counted 1, 2, 3 …
        documents: how many documents it carries.
        through: documents given to this producer's messages up to and including this one,
            confirmed or not.
        version: version of the payload.
    """

    producer_id: UUID
    seq: int
    documents: int
    through: int
    version: int = VERSION

    @property
    def task_id(self) -> str:
        """The message's identity as text: its Celery task id, and the 202's `task_id`."""
        return f"{self.producer_id}.{self.seq}"

    def headers(self) -> dict[str, str | int]:
        """Return the headers that say this."""
        return {
            "producer_id": str(self.producer_id),
            "seq": self.seq,
            "documents": self.documents,
            "through": self.through,
            "version": self.version,
        }

    @classmethod
    def read(cls, headers: Mapping[str, Any] | None) -> Self:
        """Read the envelope from a message's headers.

        Raises:
            Unreadable: a header is missing or wrong, or the payload's version is not ours.
        """
        try:
            values = _HEADERS.validate_python(dict(headers or {}))
        except ValidationError as error:
            raise Unreadable(f"headers: {_first(error)}") from error
        if values["version"] not in READABLE_VERSIONS:
            raise Unreadable(f"headers: version {values['version']} is not readable here")
        return cls(
            values["producer_id"],
            values["seq"],
            values["documents"],
            values["through"],
            values["version"],
        )


class _Headers(TypedDict):
    producer_id: UUID
    seq: int
    documents: int
    through: int
    version: int


_HEADERS: Final = TypeAdapter(_Headers)
_DOCUMENTS: Final = TypeAdapter(Annotated[list[Document], Field(min_length=1)])


def read_documents(payload: object) -> list[Document]:
    """Return the documents of an `INGEST` payload.

    Raises:
        Unreadable: the payload is not a list of documents, has none, or one of them is malformed.
    """
    try:
        return _DOCUMENTS.validate_python(payload)
    except ValidationError as error:
        raise Unreadable(f"documents: {_first(error)}") from error


def describe(documents: list[Document]) -> str:
    """Say what a message carries, for logs and dashboards: how many and which, never contents."""
    first = documents[0]["id"]
    if len(documents) == 1:
        return f"1 document {first}"
    return f"{len(documents)} documents {first}, …"


def _first(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
