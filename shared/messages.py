"""Every message between the images: a task's name, its queue, its headers and its payload.

This is the only contract between API and worker. The API sends by name and never imports the
worker; the worker has exactly one task for each `Message` here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NotRequired, Self, final
from uuid import UUID

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

INGEST_QUEUE: Final = "ingest"
BULK_QUEUE: Final = "bulk"
CLASSIFY_QUEUE: Final = "classify"
MAINTAIN_QUEUE: Final = "maintain"
DEAD_QUEUE: Final = "dead"

VERSION: Final = 3
"""Version of the payloads. A worker reads this one and the one before."""

READABLE_VERSIONS: Final = frozenset({VERSION, VERSION - 1})

DELIVERY_LIMIT: Final = 20
"""Returns to its queue that a message survives: deploys and broker restarts count, too."""

MAX_DOCUMENTS: Final = 100_000
"""Documents that a message may announce: far more than any of ours has."""


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
REPLAY: Final = Message(INGEST.task, BULK_QUEUE)
"""`INGEST` once more, with the documents of a dead letter: never in front of new ones."""

IMPORT: Final = Message(INGEST.task, BULK_QUEUE)
"""`INGEST` with documents of an import: never in front of single ones."""

RECLASSIFY: Final = Message("documents.reclassify", BULK_QUEUE)
CLASSIFY: Final = Message("texts.classify", CLASSIFY_QUEUE)
"""Questions that are answered to whoever asks, and outside the account: see `Question`."""

FOLD_LEDGER: Final = Message("ledger.fold", MAINTAIN_QUEUE)
PURGE_TOMBSTONES: Final = Message("documents.purge_tombstones", MAINTAIN_QUEUE)
INDEX_DOCUMENTS: Final = Message("documents.index", MAINTAIN_QUEUE)

MESSAGES: Final = (INGEST, RECLASSIFY, CLASSIFY, FOLD_LEDGER, PURGE_TOMBSTONES, INDEX_DOCUMENTS)


@with_config(ConfigDict(extra="forbid", strict=True))
class Document(TypedDict):
    """One accepted document, as it travels in `INGEST`. Keys that say nothing are left out.

    `id` is a UUID's text; `stamp` is in microseconds since the epoch; `accepted_at` is RFC 3339.
    `label` is there only if the request had the key: `None` clears a human's label.
    `may_exist` is there if the id did not originate here, so that a row of that id may exist.
    `if_match`, `if_none_match` and `create_only` are those of `decide.Put`.
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
    if_match: NotRequired[int | Literal["*"]]
    if_none_match: NotRequired[bool]
    create_only: NotRequired[bool]
    request_id: NotRequired[str]


@with_config(ConfigDict(extra="forbid", strict=True))
class Classified(TypedDict):
    """A stored document to classify anew, as it travels in `RECLASSIFY`.

    Nothing is done if its content is no longer that of `content_revision`. The message counts as
    none of the account's documents.
    """

    id: str
    content_revision: int


@with_config(ConfigDict(extra="forbid", strict=True))
class Question(TypedDict):
    """One caller's texts, as they travel in `CLASSIFY`; the reply has an `Answer` for each text.

    `top` is how many categories each answer names, `explain` whether it says why.
    """

    texts: list[str]
    top: int
    explain: bool


class CategoryScore(TypedDict):
    """A category and its probability, 0 to 1."""

    category: str
    score: float


class WordWeight(TypedDict):
    """A word and what it speaks for (above 0) or against a category."""

    word: str
    weight: float


class Explanation(TypedDict):
    """Why a text has its category: the words that weigh most, and the sum of all others.

    The words' weights, `other_words` and `bias` add up to `total`, the linear score.
    """

    supporting: list[WordWeight]
    opposing: list[WordWeight]
    other_words: float
    bias: float
    total: float


@final
class Answer(TypedDict):
    """What a text is, as it is replied and as the API hands it on."""

    category: str
    confidence: float
    scores: list[CategoryScore]
    model_version: str
    explanation: NotRequired[Explanation]


@final
class NoAnswer(TypedDict):
    """The model cannot bear the text; `error` says no word of it."""

    error: str


class Reply(TypedDict):
    """What comes back for a `CLASSIFY`.

    `answers` has a list for each question. It is left out if the process that worked on it died.
    """

    answers: NotRequired[list[list[Answer | NoAnswer]]]


class Unreadable(Exception):
    """A message that this version of Postroom cannot read. It belongs among the dead letters."""


class UnreadableVersion(Unreadable):
    """Its payload has a version that is neither ours nor the one before."""


class TooOld(Unreadable):
    """Its documents were stamped before the oldest tombstone."""


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
        replays: the dead letter whose documents it carries. If `documents` is 0, then they are in
            the account already, as dead.
    """

    producer_id: UUID
    seq: int
    documents: int
    through: int
    version: int = VERSION
    replays: UUID | None = None

    @property
    def task_id(self) -> str:
        """The message's identity as text: its Celery task id, and the 202's `task_id`."""
        return f"{self.producer_id}.{self.seq}"

    def headers(self) -> dict[str, str | int]:
        """Return the headers that say this."""
        headers: dict[str, str | int] = {
            "producer_id": str(self.producer_id),
            "seq": self.seq,
            "documents": self.documents,
            "through": self.through,
            "version": self.version,
        }
        if self.replays is not None:
            headers["replays"] = str(self.replays)
        return headers

    @classmethod
    def read(cls, headers: Mapping[str, Any] | None) -> Self:
        """Read the envelope from a message's headers.

        Raises:
            Unreadable: a header is missing or wrong.
            UnreadableVersion: the payload's version is not ours.
        """
        envelope = cls.parse(headers)
        if envelope.version not in READABLE_VERSIONS:
            raise UnreadableVersion(f"headers: version {envelope.version} is not readable here")
        return envelope

    @classmethod
    def parse(cls, headers: Mapping[str, Any] | None) -> Self:
        """Read the envelope, whatever the version of the payload: its account is kept all the same.

        Raises:
            Unreadable: a header is missing or wrong.
        """
        try:
            values = _HEADERS.validate_python(dict(headers or {}))
        except ValidationError as error:
            raise Unreadable(f"headers: {_first(error)}") from error
        if values["documents"] > values["through"]:
            raise Unreadable("headers: documents: more than there were through this message")
        return cls(
            values["producer_id"],
            values["seq"],
            values["documents"],
            values["through"],
            values["version"],
            values.get("replays"),
        )


# More than the database has room for would be refused there again and again.
_Number = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Headers(TypedDict):
    producer_id: UUID
    seq: _Number
    documents: Annotated[int, Field(ge=0, le=MAX_DOCUMENTS)]
    through: _Number
    version: int
    replays: NotRequired[UUID]


_HEADERS: Final = TypeAdapter(_Headers)
_ITEMS: Final = TypeAdapter(Annotated[list[Classified], Field(min_length=1)])
_DOCUMENTS: Final = TypeAdapter(Annotated[list[Document], Field(min_length=1)])
_QUESTIONS: Final = TypeAdapter(list[Question])


def read_documents(payload: object) -> list[Document]:
    """Return the documents of an `INGEST` payload.

    Raises:
        Unreadable: the payload is not a list of documents, has none, or one of them is malformed.
    """
    try:
        return _DOCUMENTS.validate_python(payload)
    except ValidationError as error:
        raise Unreadable(f"documents: {_first(error)}") from error


def read_items(payload: object) -> list[Classified]:
    """Return the items of a `RECLASSIFY` payload.

    Raises:
        Unreadable: the payload is not a list of items, has none, or one of them is malformed.
    """
    try:
        items = _ITEMS.validate_python(payload)
        for each in items:
            UUID(each["id"])
    except ValidationError as error:
        raise Unreadable(f"items: {_first(error)}") from error
    except ValueError as error:
        raise Unreadable(f"items: {error}") from error
    return items


def read_questions(payload: object) -> list[Question]:
    """Return the questions of a `CLASSIFY` payload.

    Raises:
        Unreadable: the payload is not a list of questions, or one of them is malformed.
    """
    try:
        return _QUESTIONS.validate_python(payload)
    except ValidationError as error:
        raise Unreadable(f"questions: {_first(error)}") from error


def check_documents(envelope: Envelope, documents: Sequence[Document], oldest: int) -> None:
    """See that documents are those that were announced, and young enough.

    Args:
        envelope: of their message.
        documents: in the message's order.
        oldest: stamps before this one are too old: a deleted document could come back.

    Raises:
        Unreadable: they are others than the headers say.
        TooOld: one of them was stamped before `oldest`.
    """
    counted_before = envelope.replays is not None and envelope.documents == 0
    if len(documents) != envelope.documents and not counted_before:
        raise Unreadable(f"{len(documents)} documents, {envelope.documents} announced")
    check_age(documents, oldest)


def check_age(documents: Sequence[Document], oldest: int) -> None:
    """See that no document was stamped before `oldest`; raises `TooOld`."""
    if any(each["stamp"] < oldest for each in documents):
        raise TooOld("stamped before the oldest tombstone: a deleted one could come back")


def describe(documents: Sequence[Document] | Sequence[Classified]) -> str:
    """Say what a message carries, for logs and dashboards: how many and which, never contents."""
    first = documents[0]["id"]
    if len(documents) == 1:
        return f"1 document {first}"
    return f"{len(documents)} documents {first}, …"


def origin(documents: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return what a log line says of documents: their requests, and the id of a single one."""
    requests = [*dict.fromkeys(each["request_id"] for each in documents if "request_id" in each)]
    said: dict[str, object] = {}
    if len(documents) == 1:
        said["document_id"] = documents[0]["id"]
    if requests:
        said |= {"request_id": requests[0]} if len(requests) == 1 else {"request_ids": requests}
    return said


def _first(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
