"""What verified tokens say, until they end: to verify one again takes far longer."""

from collections.abc import Callable
from time import time
from typing import Final, Generic, TypeVar

from shared.access import digest

MAX_CHARACTERS: Final = 8_192
"""What is longer is no token: nobody shall have us parse it."""

UNREADABLE: Final = (ValueError, TypeError, OverflowError, RecursionError)
"""What PyJWT raises beside its own errors: JSON is nested, claims are anything."""

_MOST: Final = 10_000

SaidT = TypeVar("SaidT")


class Verified(Generic[SaidT]):
    """What tokens say, by the tokens' digests; of too many the first ones go."""

    def __init__(self, now: Callable[[], float] = time) -> None:
        self._now = now
        self._said: dict[bytes, tuple[SaidT, float]] = {}

    def get(self, token: str) -> SaidT | None:
        """Return what a token says, if it was verified and has not ended."""
        said, until = self._said.get(digest(token), (None, 0.0))
        return said if self._now() < until else None

    def keep(self, token: str, said: SaidT, until: float) -> None:
        """Remember what a token says, until so many seconds since the epoch."""
        if len(self._said) >= _MOST:
            del self._said[next(iter(self._said))]
        self._said[digest(token)] = said, until

    def clear(self) -> None:
        """Forget all."""
        self._said.clear()
