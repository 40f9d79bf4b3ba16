"""Dead letters: why a message could not be processed, found out from the message itself.

A message reaches the queue of the dead without a word on why, but for the broker's `x-death`. So
it is read once more, step by step as a worker would; what was recorded on its way says the rest.
All of this is pure.
"""

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, cast

import orjson

from shared.messages import (
    DELIVERY_LIMIT,
    INGEST,
    MESSAGES,
    READABLE_VERSIONS,
    RECLASSIFY,
    Classified,
    Document,
    Envelope,
    Message,
    TooOld,
    Unreadable,
    UnreadableVersion,
    check_age,
    check_documents,
    read_documents,
    read_items,
)

MAX_ERROR: Final = 500
"""Characters of an error that are kept."""

_MAX_UNPACKED: Final = 64 << 20
_MAX_DEPTH: Final = 20


class Reason(StrEnum):
    """Why a message is dead: classes that call for different remedies."""

    UNDECODABLE = "undecodable"
    MALFORMED_HEADERS = "malformed_headers"
    UNKNOWN_TASK = "unknown_task"
    UNREADABLE_VERSION = "unreadable_version"
    INVALID_PAYLOAD = "invalid_payload"
    TOO_OLD = "too_old"
    DELIVERY_LIMIT = "delivery_limit"
    CHILD_KILLED = "child_killed"
    FAILED = "failed"
    EXPIRED = "expired"


class FaultKind(StrEnum):
    """What happened to a message on its way.

    `WORKING` is no fault but a mark, at which document a child is: the next death takes it along.
    """

    CHILD_LOST = "child_lost"
    OUT_OF_MEMORY = "out_of_memory"
    TIME_LIMIT = "time_limit"
    RAISED = "raised"
    WORKING = "working"


DEATHS: Final = frozenset({FaultKind.CHILD_LOST, FaultKind.OUT_OF_MEMORY, FaultKind.TIME_LIMIT})
"""The faults that end a child."""

CAREFUL_AFTER: Final = 3
"""Deaths after which a message's documents are taken one at a time."""


class MalformedHeaders(Exception):
    """Headers that no sender of ours writes, and that Celery would trip over."""


class Dead(Exception):
    """A message that cannot be processed, and why."""

    def __init__(self, reason: Reason, error: str) -> None:
        super().__init__(error)
        self.reason = reason
        self.error = error


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message as the broker has it, nothing decoded. Headers may be anything at all."""

    headers: object
    content_type: str | None
    content_encoding: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that went wrong with a message; `position` is that of the document, if known."""

    kind: FaultKind
    position: int | None
    error: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, ready to be kept.

    Attributes:
        envelope: None where the headers do not tell: then the letter is outside the account.
        position: place of the single document in its message; None for a whole message.
        documents: how many it carries, as far as is known.
        attempts: deliveries that came to nothing.
    """

    reason: Reason
    error: str
    task: str | None
    envelope: Envelope | None
    position: int | None
    documents: int
    attempts: int
    first_at: datetime
    last_at: datetime
    raw: RawMessage

    @property
    def fingerprint(self) -> str:
        """The same for letters that died alike: without numbers, ids and quoted values."""
        alike = _ANY_VALUE.sub("…", self.error)
        return sha256(f"{self.reason}\n{self.task}\n{alike}".encode()).hexdigest()[:16]


def diagnose(raw: RawMessage, faults: Sequence[Fault], *, oldest: int, now: datetime) -> Letter:
    """Find out why a message is dead.

    Args:
        raw: as it was in the queue of the dead.
        faults: what was recorded on its way.
        oldest: stamps before this one are too old.
        now: the time.
    """
    envelope = envelope_of(raw)
    documents = 0 if envelope is None else envelope.documents
    try:
        found = read(raw, oldest)
    except Dead as dead:
        reason, error = dead.reason, dead.error
        if envelope is None:
            documents = _count_documents(raw)
    else:
        reason, error = _history(raw, faults)
        documents = documents or len(found)
    times = [now, *(fault.at for fault in faults), *_death_times(raw)]
    return Letter(
        reason=reason,
        error=clean(error)[:MAX_ERROR],
        task=task_of(raw),
        envelope=envelope,
        position=None,
        documents=documents,
        attempts=_attempts(faults, reason),
        first_at=min(times),
        last_at=now,
        raw=raw,
    )


def single(
    message: Message,
    envelope: Envelope,
    item: Document | Classified,
    position: int,
    faults: Sequence[Fault],
) -> Letter:
    """Return the letter of a document that killed its child each time it was worked on.

    Args:
        message: its message's kind; of those to classify anew the account knows nothing.
        envelope: of its message, whose other documents are stored.
        item: the culprit, as it travels in such a message.
        position: its place in the message.
        faults: what was recorded of the message; the deaths at this position name the error.
    """
    deaths = [fault for fault in faults if fault.kind in DEATHS]
    times = [fault.at for fault in deaths]
    documents, name = (0, "items") if message == RECLASSIFY else (1, "documents")
    alone = Envelope(envelope.producer_id, envelope.seq, documents, envelope.through)
    return Letter(
        reason=Reason.CHILD_KILLED,
        error=_say([fault for fault in deaths if fault.position == position]),
        task=message.task,
        envelope=envelope,
        position=position,
        documents=documents,
        attempts=len(deaths),
        first_at=min(times),
        last_at=max(times),
        raw=RawMessage(
            {"id": envelope.task_id, "task": message.task, **alone.headers()},
            "application/json",
            "utf-8",
            orjson.dumps([[], {name: [item]}, {}]),
        ),
    )


def read(raw: RawMessage, oldest: int) -> list[Document]:
    """Return the documents of a message as a worker would read them; none of another task's.

    Raises:
        Dead: a worker cannot read it.
    """
    headers = _headers(raw)
    _check_task(headers["task"])
    payload = _payload(raw)
    try:
        envelope = Envelope.read(headers)
    except UnreadableVersion as error:
        raise Dead(Reason.UNREADABLE_VERSION, str(error)) from error
    except Unreadable as error:
        raise Dead(Reason.MALFORMED_HEADERS, str(error)) from error
    try:
        if headers["task"] == RECLASSIFY.task:
            read_items(_argument(payload, "items"))
        if headers["task"] != INGEST.task:
            return []
        documents = read_documents(_argument(payload, "documents"))
        check_documents(envelope, documents, oldest)
    except Unreadable as error:
        reason = Reason.TOO_OLD if isinstance(error, TooOld) else Reason.INVALID_PAYLOAD
        raise Dead(reason, str(error)) from error
    return documents


def replayable(raw: RawMessage, *, announced: int | None, oldest: int) -> list[Document]:
    """Return the documents of a dead letter that can be sent anew, with headers of their own.

    Args:
        raw: the letter.
        announced: documents that the account has of it; None if it is outside the account.
        oldest: stamps before this one are too old; 0 if the documents are stamped anew.

    Raises:
        Dead: it would be dead again.
    """
    headers = raw.headers if isinstance(raw.headers, Mapping) else {}
    task, version = headers.get("task"), headers.get("version")
    if isinstance(task, str) and task and task != INGEST.task:
        _check_task(task)
        raise Dead(Reason.UNKNOWN_TASK, f"a message of {task!r} carries no documents")
    if isinstance(version, int) and version not in READABLE_VERSIONS:
        raise Dead(Reason.UNREADABLE_VERSION, f"headers: version {version} is not readable here")
    documents = _documents(_payload(raw))
    if announced is not None and len(documents) != announced:
        text = f"{len(documents)} documents, {announced} announced"
        raise Dead(Reason.INVALID_PAYLOAD, text)
    try:
        check_age(documents, oldest)
    except TooOld as error:
        raise Dead(Reason.TOO_OLD, str(error)) from error
    return documents


def envelope_of(raw: RawMessage) -> Envelope | None:
    """Return what the headers say of the account, or None where they do not."""
    try:
        return Envelope.parse(raw.headers if isinstance(raw.headers, Mapping) else None)
    except Unreadable:
        return None


def task_id_of(raw: RawMessage) -> str | None:
    """Return the message's Celery task id, under which its faults were recorded."""
    found = raw.headers.get("id") if isinstance(raw.headers, Mapping) else None
    return clean(found) if isinstance(found, str) else None


def task_of(raw: RawMessage) -> str | None:
    """Return the name of the task that the message is for."""
    found = raw.headers.get("task") if isinstance(raw.headers, Mapping) else None
    return clean(found)[:200] if isinstance(found, str) and found else None


def plain_headers(headers: object) -> dict[str, Any]:
    """Return headers as JSON that PostgreSQL takes: no NUL, no half surrogates, no other types."""
    plain = _plain(headers, _MAX_DEPTH)
    return cast("dict[str, Any]", plain) if isinstance(plain, dict) else {}


def clean(value: str) -> str:
    """Return a text without what PostgreSQL refuses."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _plain(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else str(value)
    if isinstance(value, Mapping) and depth:
        return {clean(str(key)): _plain(each, depth - 1) for key, each in value.items()}
    if isinstance(value, list | tuple) and depth:
        return [_plain(each, depth - 1) for each in value]
    if isinstance(value, bytes):
        return clean(value.decode("utf-8", "backslashreplace"))
    return value.isoformat() if isinstance(value, datetime) else clean(str(value))


# --- What a worker would trip over ---------------------------------------------------------------


def check_headers(headers: object) -> None:
    """See that Celery can rely on a message's headers.

    Raises:
        MalformedHeaders: it cannot; the text names the header.
    """
    if not isinstance(headers, Mapping):
        raise MalformedHeaders("there are none")
    for name in ("id", "task"):
        if not isinstance(headers.get(name), str) or not headers[name]:
            raise MalformedHeaders(f"{name} is not a text")
    if not isinstance(headers.get("retries", 0), int):
        raise MalformedHeaders("retries is not a number")
    _check_time_limit(headers.get("timelimit"))
    for name in ("eta", "expires"):
        _check_time(name, headers.get(name))


def _check_time_limit(value: object) -> None:
    if value is None:
        return
    pair = 2
    if not isinstance(value, list | tuple) or len(value) != pair or not all(map(_is_limit, value)):
        raise MalformedHeaders("timelimit is not a pair of seconds")


def _is_limit(value: object) -> bool:
    # A limit that is over before the task begins would kill one child after the other.
    return value is None or (isinstance(value, int | float) and value > 0)


def _check_time(name: str, value: object) -> None:
    if value is None:
        return
    try:
        datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise MalformedHeaders(f"{name} is not a time") from error


def _headers(raw: RawMessage) -> Mapping[str, Any]:
    try:
        check_headers(raw.headers)
    except MalformedHeaders as error:
        raise Dead(Reason.MALFORMED_HEADERS, f"headers: {error}") from error
    return cast("Mapping[str, Any]", raw.headers)


def _check_task(name: str) -> None:
    if name not in {message.task for message in MESSAGES}:
        raise Dead(Reason.UNKNOWN_TASK, f"no task is called {name[:100]!r}")


def _payload(raw: RawMessage) -> object:
    """Return the keyword arguments in the body."""
    if raw.content_type != "application/json":
        raise Dead(Reason.UNDECODABLE, f"content type {str(raw.content_type)[:100]!r}")
    try:
        # As Celery does: JSON is UTF-8, whatever the content encoding says.
        body = orjson.loads(_unpacked(raw))
    except orjson.JSONDecodeError as error:
        raise Dead(Reason.UNDECODABLE, f"no JSON: {error}") from error
    match body:
        case [[], dict() as arguments, dict() | None]:
            return arguments
    raise Dead(Reason.INVALID_PAYLOAD, "the body is not what Celery's second protocol has")


def _unpacked(raw: RawMessage) -> bytes:
    headers = raw.headers if isinstance(raw.headers, Mapping) else {}
    compression = headers.get("compression")
    if not compression:
        return raw.body
    if compression != "application/x-gzip":  # kombu's word for zlib
        raise Dead(Reason.UNDECODABLE, f"compression {str(compression)[:100]!r}")
    try:
        return zlib.decompressobj().decompress(raw.body, _MAX_UNPACKED)
    except zlib.error as error:
        raise Dead(Reason.UNDECODABLE, f"compression: {error}") from error


def _documents(payload: object) -> list[Document]:
    try:
        return read_documents(_argument(payload, "documents"))
    except Unreadable as error:
        raise Dead(Reason.INVALID_PAYLOAD, str(error)) from error


def _argument(payload: object, name: str) -> object:
    arguments = payload if isinstance(payload, dict) else {}
    if arguments.keys() != {name}:
        names = ", ".join(map(repr, arguments))[:100] or "none"
        raise Dead(Reason.INVALID_PAYLOAD, f"arguments: {names}, not {name!r}")
    return arguments[name]


def _count_documents(raw: RawMessage) -> int:
    try:
        return len(_documents(_payload(raw)))
    except Dead:
        return 0


# --- What happened on the way --------------------------------------------------------------------

_ANY_VALUE: Final = re.compile(
    r"""[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|"[^"]*"|'[^']*'|\d+(?:\.\d+)*"""
)

_SAID: Final = {
    FaultKind.CHILD_LOST: "the child died",
    FaultKind.OUT_OF_MEMORY: "the child ran out of memory",
    FaultKind.TIME_LIMIT: "the hard time limit ended the child",
}


def _history(raw: RawMessage, faults: Sequence[Fault]) -> tuple[Reason, str]:
    """Return why a message died that a worker can read."""
    raised = [fault for fault in faults if fault.kind is FaultKind.RAISED]
    deaths = [fault for fault in faults if fault.kind in DEATHS]
    broker = next(iter(_deaths(raw)), {}).get("reason")
    if broker == "expired":
        return Reason.EXPIRED, "it waited longer than it may"
    if raised:
        return Reason.FAILED, raised[-1].error
    if len(deaths) >= CAREFUL_AFTER or (deaths and broker != "delivery_limit"):
        return Reason.CHILD_KILLED, _say(deaths)
    if broker == "delivery_limit":
        return Reason.DELIVERY_LIMIT, "it came back more often than it may"
    return Reason.FAILED, "the task raised; its error was not recorded"


def _say(deaths: Sequence[Fault]) -> str:
    last = deaths[-1]
    said = _SAID[last.kind]
    return f"{said}: {last.error}" if last.error else said


def _deaths(raw: RawMessage) -> Iterable[Mapping[str, Any]]:
    """Yield what the broker noted when it moved the message to the dead, the latest first."""
    found = raw.headers.get("x-death") if isinstance(raw.headers, Mapping) else None
    for each in found if isinstance(found, list) else ():
        if isinstance(each, Mapping):
            yield each


def _death_times(raw: RawMessage) -> Iterable[datetime]:
    for each in _deaths(raw):
        time = each.get("time")
        if isinstance(time, datetime):
            yield time if time.tzinfo else time.replace(tzinfo=UTC)


def _attempts(faults: Sequence[Fault], reason: Reason) -> int:
    # The broker's own count, `x-delivery-count`, is about the queue of the dead by now.
    if reason is Reason.DELIVERY_LIMIT:
        return DELIVERY_LIMIT + 1
    return max(1, sum(fault.kind is not FaultKind.WORKING for fault in faults))
