"""The keys that this process knows, so that a request need not ask the database."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from shared.access import Caller, Key, digest
from shared.db import Session
from shared.store import keys as store

if TYPE_CHECKING:
    from uuid import UUID

KNOWN_SECONDS: Final = 600.0
"""How long a known key stays valid while the database is away."""

_MOST_UNKNOWN: Final = 10_000
"""Wrong keys remembered until the next refresh: each costs the database one question a second."""


class Run(Protocol):
    """Runs an action in a transaction; raises `DatabaseUnavailable`."""

    def __call__(self, action: Callable[[Session], Any], /) -> Awaitable[Any]:
        """Return what `action` returns."""


class Keyring:
    """All valid keys, by digest, as of the last refresh; for use on one event loop."""

    def __init__(self, run: Run, now: Callable[[], float] = monotonic) -> None:
        self._run = run
        self._now = now
        self._keys: dict[bytes, Key] = {}
        self._until = 0.0
        self._unknown: set[bytes] = set()
        self._used: dict[UUID, datetime] = {}

    def known(self, key: str) -> Caller | None:
        """Return whose key that is, if this is known here."""
        return self._known(digest(key))

    async def caller(self, key: str) -> Caller | None:
        """Return whose key that is; None if it is nobody's.

        Raises:
            DatabaseUnavailable: it is not known here, and may yet be somebody's.
        """
        hashed = digest(key)
        caller = self._known(hashed)
        if caller is not None or hashed in self._unknown:
            return caller
        found: Key | None = await self._run(lambda session: store.find(session, hashed))
        if found is None:
            if len(self._unknown) < _MOST_UNKNOWN:
                self._unknown.add(hashed)
            return None
        self._keys[hashed] = found
        self._used[found.id] = datetime.now(UTC)
        return found.caller

    async def refresh(self) -> None:
        """Learn which keys are valid, and write down when they were used; to be done every second.

        Raises:
            DatabaseUnavailable: what is known stays so, for a while.
        """
        used, self._used = self._used, {}

        def exchange(session: Session) -> dict[bytes, Key]:
            store.used(session, used)
            return store.valid(session)

        try:
            keys = await self._run(exchange)
        except BaseException:
            self._used = used | self._used
            raise
        self._keys, self._until = keys, self._now() + KNOWN_SECONDS
        self._unknown.clear()

    def _known(self, hashed: bytes) -> Caller | None:
        key = self._keys.get(hashed)
        if key is None or self._now() > self._until:
            return None
        now = datetime.now(UTC)
        if key.expires_at is not None and key.expires_at <= now:
            return None
        self._used[key.id] = now
        return key.caller
