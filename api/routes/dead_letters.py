"""Dead letters: list, inspect, replay, delete."""

import math
from dataclasses import asdict, replace
from http import HTTPStatus
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api import audit, body
from api.auth import DeadReader, Replayer
from api.deps import Services, ServicesDep
from api.errors import Conflict, Invalid, NotFound
from api.openapi import problems, ref, request_body
from api.pagination import PageQuery, link_header
from api.schemas.dead_letter import (
    MAX_PAYLOAD,
    DeletedOut,
    LetterDetailOut,
    LetterGroupOut,
    LetterGroupsOut,
    LetterOut,
    LetterPageOut,
    RefusedOut,
    ReplayedOut,
    ReplayIn,
    ReplayOut,
)
from api.schemas.document import Key
from api.schemas.problem import FieldError
from api.schemas.time import Time
from api.validation import required
from shared import dead
from shared.db import Session
from shared.dead import Dead, Reason
from shared.messages import Document
from shared.revision import DAY, EPOCH, microseconds_now
from shared.store import dead_letters as store
from shared.store.audit import ObjectKind
from shared.store.dead_letters import Kept
from shared.store.page import Cursor

router = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"])

_MISSING: Final = "No dead letter has this id: it was replayed, deleted, or never was."
_NOT_FOUND: Final[dict[int | str, dict[str, Any]]] = {
    404: problems(404)[404] | {"description": _MISSING}
}
_REPLAY: Final = request_body({body.JSON: ref(ReplayIn)})

_CALL_LETTERS: Final = 100
_CALL_BYTES: Final = 16 << 20
_CALL_DELETES: Final = 10_000
"""What one call replays or deletes at most."""


class _Which(BaseModel):
    """Filters of dead letters."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason | None = None
    fingerprint: Key | None = None
    task: Key | None = None
    producer_id: UUID | None = None
    since: Time | None = Field(None, description="died, the last time, then or later")


class LetterQuery(PageQuery, _Which):
    """Which dead letters to list."""


class GroupQuery(_Which):
    """Which dead letters to group."""

    limit: int = Field(50, ge=1, le=250, description="groups at most")


class DeleteQuery(_Which):
    """Which dead letters to delete."""

    all: bool = Field(False, description="delete every dead letter: instead of a filter")


class RestampQuery(BaseModel):
    """How to replay."""

    model_config = ConfigDict(extra="forbid")

    restamp: bool = Field(
        False, description="accept the documents as of now: they win over all that came since"
    )


@router.get("", operation_id="listDeadLetters", responses=problems(422, 503))
async def list_dead_letters(
    request: Request,
    response: Response,
    services: ServicesDep,
    _: DeadReader,
    query: Annotated[LetterQuery, Query()],
) -> LetterPageOut:
    """List dead letters, newest first, without their payloads."""
    where = _filter(query)
    after = query.after.id if query.after else None
    rows, has_more = await services.database.run(
        lambda session: store.page(session, where, after, query.limit)
    )
    next_cursor = _cursor(rows[-1]["id"]) if has_more else None
    response.headers.update(link_header(request, next_cursor))
    data = [LetterOut.of(row) for row in rows]
    return LetterPageOut(data=data, next_cursor=next_cursor, has_more=has_more)


@router.get("/groups", operation_id="groupDeadLetters", responses=problems(422, 503))
async def group_dead_letters(
    services: ServicesDep, _: DeadReader, query: Annotated[GroupQuery, Query()]
) -> LetterGroupsOut:
    """Count dead letters that died alike, the most frequent first."""
    where = _filter(query)
    rows = await services.database.run(lambda session: store.groups(session, where, query.limit))
    return LetterGroupsOut(data=[LetterGroupOut(**row) for row in rows])


@router.get("/{letter_id}", operation_id="getDeadLetter", responses=problems(422, 503) | _NOT_FOUND)
async def get_dead_letter(services: ServicesDep, _: DeadReader, letter_id: UUID) -> LetterDetailOut:
    """Return a dead letter with its headers and its payload."""
    row = await services.database.run(lambda session: store.get(session, letter_id, MAX_PAYLOAD))
    if row is None:
        raise NotFound(_MISSING)
    return LetterDetailOut.whole(row)


@router.post(
    "/replay",
    operation_id="replayDeadLetters",
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=_REPLAY,
    responses=problems(400, 413, 415, 422, 503),
)
async def replay_dead_letters(
    request: Request, response: Response, services: ServicesDep, caller: Replayer
) -> ReplayOut:
    """Queue dead letters again, the oldest first: some in each call, see `has_more`.

    A letter is listed until its documents are stored. Replaying one twice stores them once.
    """
    asked = await _read_replay(request)
    where, after = _filter(asked), Cursor.decode(asked.cursor).id if asked.cursor else None
    letters, has_more = await services.database.run(
        lambda session: store.all_to_replay(
            session, where, after, letters=_CALL_LETTERS, max_bytes=_CALL_BYTES
        )
    )
    replay = _Replay(services, restamp=asked.restamp)
    done = False
    try:
        for at, letter in enumerate(letters, 1):
            await replay.try_one(letter)
            if asked.rate and replay.documents >= asked.rate:
                has_more = has_more or at < len(letters)
                letters = letters[:at]
                break
        done = True
    finally:
        if replay.letters:  # also if a later one could not be queued
            details = {
                **_told(where),
                "restamp": asked.restamp,
                "letters": replay.letters,
                "documents": replay.documents,
            }
            made = audit.entry(request, caller, ObjectKind.DEAD_LETTER, details=details)
            await services.journal.write(made if done else replace(made, outcome=None))
    if asked.rate and has_more:
        response.headers["Retry-After"] = str(math.ceil(replay.documents / asked.rate))
    return ReplayOut(
        letters=replay.letters,
        documents=replay.documents,
        refused=replay.refused,
        has_more=has_more,
        next_cursor=_cursor(letters[-1].id) if has_more else None,
    )


@router.post(
    "/{letter_id}/replay",
    operation_id="replayDeadLetter",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems(409, 422, 503) | _NOT_FOUND,
)
async def replay_dead_letter(
    request: Request,
    services: ServicesDep,
    caller: Replayer,
    letter_id: UUID,
    query: Annotated[RestampQuery, Query()],
) -> ReplayedOut:
    """Queue a dead letter again. It is listed until its documents are stored.

    Replaying it twice stores them once.
    """
    letter = await services.database.run(lambda session: store.to_replay(session, letter_id))
    if letter is None:
        raise NotFound(_MISSING)
    try:
        replayed = await _Replay(services, restamp=query.restamp).one(letter)
    except Dead as error:
        hint = "; to replay it all the same, say restamp=true" * (error.reason is Reason.TOO_OLD)
        raise Conflict(f"It would only be dead again: {error.error}{hint}.") from error
    details = {"task_id": replayed.task_id, "restamp": query.restamp}
    made = audit.entry(request, caller, ObjectKind.DEAD_LETTER, letter_id, details=details)
    await services.journal.write(made)
    return replayed


@router.delete(
    "/{letter_id}",
    operation_id="deleteDeadLetter",
    status_code=HTTPStatus.NO_CONTENT,
    responses=problems(422, 503),
)
async def delete_dead_letter(
    request: Request, services: ServicesDep, caller: Replayer, letter_id: UUID
) -> Response:
    """Delete a dead letter for good. The account keeps its documents as dead."""

    def delete(session: Session) -> None:
        if store.remove(session, letter_id) is not None:
            audit.record(session, request, caller, ObjectKind.DEAD_LETTER, letter_id)

    await services.database.run(delete)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.delete("", operation_id="deleteDeadLetters", responses=problems(422, 503))
async def delete_dead_letters(
    request: Request,
    services: ServicesDep,
    caller: Replayer,
    query: Annotated[DeleteQuery, Query()],
) -> DeletedOut:
    """Delete dead letters for good: some in each call, see `has_more`."""
    where = _filter(query)
    if (where == store.Filter()) is not query.all:
        error = FieldError.of(["query", "all"], "must be true without a filter, and only then")
        raise Invalid("Say which dead letters to delete.", errors=[error])

    def delete(session: Session) -> int:
        deleted = store.remove_all(session, where, _CALL_DELETES)
        if deleted:
            details = {**_told(where), "letters": deleted}
            audit.record(session, request, caller, ObjectKind.DEAD_LETTER, details=details)
        return deleted

    deleted = await services.database.run(delete)
    return DeletedOut(deleted=deleted, has_more=deleted == _CALL_DELETES)


class _Replay:
    """Queues letters again, and counts what came of it."""

    def __init__(self, services: Services, *, restamp: bool) -> None:
        self._services = services
        self._restamp = restamp
        days = services.settings.tombstone_days
        self._oldest = 0 if restamp else microseconds_now() - days * DAY
        self.letters = 0
        self.documents = 0
        self.refused: list[RefusedOut] = []

    async def one(self, letter: Kept) -> ReplayedOut:
        """Queue one letter; raises `Dead` if it would only be dead again."""
        documents = dead.replayable(letter.raw, announced=letter.announced, oldest=self._oldest)
        if self._restamp:
            documents = [self._stamped(each) for each in documents]
        envelope = await self._services.intake.replay(
            letter.id, documents, counted=letter.announced is not None
        )
        self.letters += 1
        self.documents += len(documents)
        return ReplayedOut(task_id=envelope.task_id, documents=len(documents))

    async def try_one(self, letter: Kept) -> None:
        """Queue one letter, or note why not."""
        try:
            await self.one(letter)
        except Dead as error:
            self.refused.append(RefusedOut(id=letter.id, reason=error.reason, detail=error.error))

    def _stamped(self, document: Document) -> Document:
        document["stamp"] = self._services.clock.stamp()
        return document


async def _read_replay(request: Request) -> ReplayIn:
    body.media_type(request, (body.JSON,))
    return required(ReplayIn, body.parse(await body.read(request)))


def _filter(query: _Which | ReplayIn) -> store.Filter:
    return store.Filter(query.reason, query.fingerprint, query.task, query.producer_id, query.since)


def _told(where: store.Filter) -> dict[str, str]:
    """Return a filter as the audit log shows it."""
    return {name: str(value) for name, value in asdict(where).items() if value is not None}


def _cursor(letter_id: UUID) -> str:
    # The ids alone sort letters: those of version 7 grow with time.
    return Cursor(EPOCH, letter_id).encode()
