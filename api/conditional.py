"""Conditional requests (RFC 9110, section 13): entity tags are revisions in double quotes."""

import re
from dataclasses import dataclass
from typing import Final

from fastapi import Request

from api.errors import Invalid
from api.schemas.problem import FieldError
from shared.decide import Revision
from shared.errors import PreconditionFailed
from shared.messages import Document
from shared.revision import Clock

ANY: Final = "*"
_MAX_DIGITS: Final = 19
"""Of a 64-bit number."""

_TAG: Final = re.compile(r'\s*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*(?:,|$)')


@dataclass(frozen=True, slots=True)
class Precondition:
    """What must be so for a write to be done; see `shared.decide.Put`."""

    if_match: Revision | None = None
    if_none_match: bool = False

    def __bool__(self) -> bool:
        """Say whether there is anything to be met."""
        return self.if_match is not None or self.if_none_match

    def put_on(self, document: Document, clock: Clock) -> None:
        """Have an accepted document carry it; it will be the newest of what the client knows."""
        if self.if_none_match:
            document["if_none_match"] = True
        if self.if_match is None:
            return
        document["if_match"] = self.if_match
        if isinstance(self.if_match, int):
            document["stamp"] = clock.stamp_above(self.if_match)


def etag(revision: int) -> str:
    """Return the strong entity tag of a revision."""
    return f'"{revision}"'


def of_write(request: Request, clock: Clock) -> Precondition:
    """Return the precondition of a write.

    Raises:
        Invalid: a header is none that can be met or not.
        PreconditionFailed: no document can have one of the tags.
    """
    match, none_match = _tags(request, "if-match"), _tags(request, "if-none-match")
    if none_match not in (None, ANY):
        raise _wrong("If-None-Match", "must be * where a document is written")
    if match is not None and none_match is not None:
        raise _wrong("If-None-Match", "must not come together with If-Match")
    if match is None or isinstance(match, str):
        return Precondition("*" if match else None, none_match == ANY)
    revisions = [each for weak, tag in match if not weak and (each := _revision(tag, clock))]
    if not revisions:
        raise PreconditionFailed
    if len(revisions) > 1:
        raise _wrong("If-Match", "must name one revision")
    return Precondition(revisions[0])


def of_change(request: Request, clock: Clock) -> Revision | None:
    """Return the revision that a document must have for a change of it to be done.

    Raises:
        Invalid: a header is none that can be met or not.
        PreconditionFailed: no document can have one of the tags.
    """
    if "if-none-match" in request.headers:
        raise _wrong("If-None-Match", "is heeded by GET and PUT only: nothing else can create it")
    return of_write(request, clock).if_match


def refuse(request: Request) -> None:
    """Refuse preconditions where nothing would heed them.

    Raises:
        Invalid: there is one.
    """
    for name in ("If-Match", "If-None-Match"):
        if name in request.headers:
            raise _wrong(name, "is heeded by PUT only: it needs the document's path")


def known(request: Request, clock: Clock) -> frozenset[int]:
    """Return the revisions that the client of a read has, as far as it names them."""
    tags = _tags(request, "if-none-match")
    if tags is None or isinstance(tags, str):
        return frozenset()
    return frozenset(each for _, tag in tags if (each := _revision(tag, clock)))


def not_modified(request: Request, revision: int, clock: Clock) -> bool:
    """Say whether the client of a read has that revision."""
    return request.headers.get("if-none-match") == ANY or revision in known(request, clock)


def _tags(request: Request, name: str) -> str | list[tuple[bool, str]] | None:
    """Return `*`, or the tags of a header, each with whether it is weak; None without one."""
    value = ",".join(request.headers.getlist(name)).strip()
    if name not in request.headers:
        return None
    if value == ANY:
        return ANY
    tags, place = [], 0
    while found := _TAG.match(value, place):
        tags.append((found[1] is not None, found[2]))
        place = found.end()
    if not tags or place < len(value):
        raise _wrong(name.title(), 'must be * or an entity tag in double quotes, such as "17"')
    return tags


def _revision(tag: str, clock: Clock) -> int | None:
    """Return the revision that a tag is, None if it can be no document's."""
    if not tag.isascii() or not tag.isdecimal() or len(tag) > _MAX_DIGITS or tag.startswith("0"):
        return None
    revision = int(tag)
    return revision if clock.believable(revision) else None


def _wrong(header: str, detail: str) -> Invalid:
    error = FieldError.of(["header", header], detail)
    return Invalid("A header of the request is wrong.", errors=[error])
