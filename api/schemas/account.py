"""The account and the categories."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Final, Literal, Self
from uuid import UUID

from pydantic import BaseModel, Field

from shared.store.ledger import Missing, Totals

MAX_PRODUCERS: Final = 100
MAX_RANGES: Final = 100

_RANGE: Final = re.compile(r"\[(\d+),(\d+)\)")


class MarkOut(BaseModel):
    """What a producer said last of itself."""

    number: int = Field(description="the last number that it had given")
    at: datetime


class GapOut(BaseModel):
    """Messages of one producer: an API process from its start to its end."""

    producer_id: UUID
    state: Literal["alive", "closed", "dead"] = Field(
        description="`closed`: it has ended in order; `dead`: it has said nothing for a minute"
    )
    last_mark: MarkOut | None
    messages: int
    documents: int = Field(description="in these messages")
    numbers: list[tuple[int, int]] = Field(
        description="first and last of each run; `producer_id.number` is the `task_id` of the 202"
    )


class GapsOut(BaseModel):
    """Messages that are in no queue, with no worker, and not in the ledger."""

    documents: int
    messages: int
    producers: list[GapOut]
    truncated: bool = Field(
        description=f"there are more than {MAX_PRODUCERS} producers, or {MAX_RANGES} runs of one"
    )

    @classmethod
    def of(cls, missing: Sequence[Missing], which: Callable[[Missing], tuple[str, int]]) -> Self:
        """Return one kind of what is missing.

        Args:
            missing: all of it.
            which: returns the numbers of this kind, a multirange, and their documents.
        """
        found = [(each, *which(each)) for each in missing]
        found = [each for each in found if each[1] != "{}"]
        runs = [_runs(numbers) for _, numbers, _ in found]
        return cls(
            documents=sum(documents for _, _, documents in found),
            messages=sum(map(_count, runs)),
            producers=[
                _gap(each, run, documents)
                for (each, _, documents), run in zip(found, runs, strict=True)
            ][:MAX_PRODUCERS],
            truncated=len(found) > MAX_PRODUCERS or any(len(run) > MAX_RANGES for run in runs),
        )


def _gap(missing: Missing, runs: list[tuple[int, int]], documents: int) -> GapOut:
    at = missing.marked_at
    silent: Literal["alive", "dead"] = "dead" if missing.silent else "alive"
    return GapOut(
        producer_id=missing.producer_id,
        state="closed" if missing.closed else silent,
        last_mark=None if at is None else MarkOut(number=missing.seq, at=at),
        messages=_count(runs),
        documents=documents,
        numbers=runs[:MAX_RANGES],
    )


def _runs(numbers: str) -> list[tuple[int, int]]:
    """Return the runs of a multirange in PostgreSQL's notation, `{[1,4),[7,8)}`."""
    return [(int(first), int(end) - 1) for first, end in _RANGE.findall(numbers)]


def _count(runs: Sequence[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in runs)


class LedgerOut(BaseModel):
    """What was accepted and what became of it, counted in documents, from one snapshot.

    `accepted = stored + unchanged + superseded + refused + failed + dead + in_flight`.
    """

    accepted: int
    stored: int = Field(description="created or replaced")
    unchanged: int = Field(description="sent again with the same content and metadata")
    superseded: int = Field(description="a newer write of the same document was there first")
    refused: int = Field(description="a condition of the write did not hold")
    failed: int = Field(description="stored, but could not be classified")
    dead: int = Field(description="could not be processed")
    in_flight: int = Field(description="accepted, not processed yet, or missing: see below")
    void: int = Field(description="publishing failed, so nobody was told that they were accepted")
    dead_letters: int = Field(description="messages, or documents of them, that wait for a person")
    unaccounted: GapsOut = Field(description="of those in flight: accepted, and lost")
    may_have_promised: GapsOut = Field(
        description="of those in flight: a killed process may have accepted them just before"
    )
    checked_at: datetime | None = Field(
        description="when it was last certain what of that in flight is lost"
    )
    obstacle: str | None = Field(
        description="why it is not certain of what has come in flight since then"
    )

    @classmethod
    def of(
        cls,
        totals: Totals,
        dead_letters: int,
        missing: Sequence[Missing],
        checked_at: datetime | None,
        obstacle: str | None,
    ) -> Self:
        """Return the account: the totals and what is missing, from one snapshot."""
        return cls(
            **asdict(totals),
            dead_letters=dead_letters,
            unaccounted=GapsOut.of(missing, lambda each: (each.promised, each.documents)),
            may_have_promised=GapsOut.of(
                missing, lambda each: (each.unsure, each.unsure_documents)
            ),
            checked_at=checked_at,
            obstacle=obstacle,
        )


class CategoryOut(BaseModel):
    """A category and how many stored documents it has."""

    category: str
    documents: int


class CategoriesOut(BaseModel):
    """All categories that documents have, the largest first."""

    data: list[CategoryOut]
