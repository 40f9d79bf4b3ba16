"""Who may do what: scopes, and the keys that carry them."""

from base64 import urlsafe_b64encode
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from secrets import token_bytes
from typing import Final, Self
from uuid import UUID

PREFIX_CHARACTERS: Final = 12
"""By so many of its characters people know a key; the others say nothing about them."""

START: Final = "pr_"
"""What every key begins with, and no token does."""

_BYTES: Final = 32


class Scope(StrEnum):
    """What a caller may do.

    Attributes:
        DOCUMENTS_READ: read documents, lists, exports, imports, statistics.
        DOCUMENTS_WRITE: accept, change, delete, label, import, classify anew.
        CLASSIFY: classify texts without storing them.
        DEADLETTERS_READ: list and inspect dead letters.
        DEADLETTERS_REPLAY: replay and delete them.
        ADMIN: everything, keys included.
    """

    DOCUMENTS_READ = "documents:read"
    DOCUMENTS_WRITE = "documents:write"
    CLASSIFY = "classify"
    DEADLETTERS_READ = "deadletters:read"
    DEADLETTERS_REPLAY = "deadletters:replay"
    ADMIN = "admin"


def scopes(names: Collection[str]) -> frozenset[Scope]:
    """Return the scopes of ours among such names."""
    return frozenset(scope for scope in Scope if scope in names)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may do in a minute; None is no limit.

    Attributes:
        requests: how many.
        bytes: of their bodies.
    """

    requests: int | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls.

    Attributes:
        name: of the caller; "" while nobody is asked who they are.
        scopes: what they may do.
        key_id: of the key that they have shown, if it was one.
        limits: of that key, if it has any.
    """

    name: str
    scopes: frozenset[Scope]
    key_id: UUID | None = None
    limits: Limits | None = None

    def may(self, scope: Scope) -> bool:
        """Whether the caller may do that."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


ANYBODY: Final = Caller("", frozenset({Scope.ADMIN}))
"""Who calls where nobody is asked who they are."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is kept: without the key itself.

    Attributes:
        id: its identity.
        caller: whose it is, and what it is for.
        expires_at: when it ceases to be valid, if ever.
    """

    id: UUID
    caller: Caller
    expires_at: datetime | None


Handle = bytes | UUID
"""What a key is looked up by: its digest, or its id."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A new key, to be told once.

    Attributes:
        value: the key itself.
    """

    value: str = field(repr=False)

    @classmethod
    def new(cls) -> Self:
        """Make a key of 256 bits of chance."""
        return cls(START + urlsafe_b64encode(token_bytes(_BYTES)).rstrip(b"=").decode())

    @property
    def prefix(self) -> str:
        """What may be shown of it."""
        return self.value[:PREFIX_CHARACTERS]

    @property
    def digest(self) -> bytes:
        """What is kept of it."""
        return digest(self.value)


def digest(key: str) -> bytes:
    """Return SHA-256 of a key; slow hashes are for passwords, which can be guessed."""
    return sha256(key.encode("utf-8", "surrogateescape")).digest()
