"""Our own tokens: short-lived, and each ends with the key that it was issued for."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil
from secrets import token_hex
from time import time
from typing import Any, Final
from uuid import UUID

from pydantic import SecretStr

from api.verified import MAX_CHARACTERS, UNREADABLE, Verified
from shared.access import Key, Scope, scopes
from shared.secret_key import subkey

SECONDS: Final = 300
"""How long a token is valid."""

ALGORITHM: Final = "HS256"
NAME: Final = "postroom"
"""Who issues the tokens, and for whom."""

PURPOSE: Final = "access tokens"
_CLAIMS: Final = ("iss", "aud", "sub", "name", "scope", "iat", "exp", "jti")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token of ours says.

    Attributes:
        key_id: the key that it is for, and ends with.
        scopes: what it is good for.
    """

    key_id: UUID
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token.

    Attributes:
        token: it.
        seconds: for so long it is valid.
    """

    token: str
    seconds: int


class Tokens:
    """Issues tokens, and says what they grant."""

    def __init__(self, secrets: Sequence[SecretStr]) -> None:
        """Set the secret to sign with, and after it others that are still believed."""
        self._keys = [subkey(each, PURPOSE) for each in secrets]
        self._verified: Verified[Grant] = Verified()

    def issue(self, key: Key, wanted: Collection[Scope]) -> Issued:
        """Return a token for a key, which is valid no longer than the key."""
        now = int(time())
        end = now + SECONDS
        if key.expires_at is not None:
            end = min(end, ceil(key.expires_at.timestamp()))
        claims = {
            "iss": NAME,
            "aud": NAME,
            "sub": str(key.id),
            "name": key.caller.name,
            "scope": " ".join(sorted(wanted)),
            "iat": now,
            "exp": end,
            "jti": token_hex(16),
        }
        import jwt  # noqa: PLC0415  # it brings 10 MB along: only who has to do with tokens loads it

        return Issued(jwt.encode(claims, self._keys[0], ALGORITHM), end - now)

    def read(self, token: str) -> Grant | None:
        """Return what a token grants, if it is one of ours and valid; its key may be gone."""
        grant = self._verified.get(token)
        if grant is not None or len(token) > MAX_CHARACTERS:
            return grant
        for key in self._keys:
            if (claims := _claims(token, key)) is not None:
                grant = Grant(UUID(claims["sub"]), scopes(claims["scope"].split()))
                self._verified.keep(token, grant, claims["exp"])
        return grant


def _claims(token: str, key: bytes) -> dict[str, Any] | None:
    """Return what a token claims, if it is signed with `key`, and valid."""
    import jwt  # noqa: PLC0415  # see above

    try:
        return jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            issuer=NAME,
            audience=NAME,
            # Another process has issued it, perhaps, whose clock is a moment ahead of ours.
            options={"require": list(_CLAIMS), "verify_iat": False},
        )
    except (jwt.PyJWTError, *UNREADABLE):
        return None
