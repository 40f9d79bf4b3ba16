"""The keys that this process knows, so that a request need not ask the database."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from shared.access import Handle, Key
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
    """All valid keys, by digest and by id, as of the last refresh; for use on one event loop."""

    def __init__(self, run: Run, now: Callable[[], float] = monotonic) -> None:
        self._run = run
        self._now = now
        self._keys: dict[Handle, Key] = {}
        self._until = 0.0
        self._unknown: set[Handle] = set()
        self._used: dict[UUID, datetime] = {}

    def known(self, handle: Handle) -> Key | None:
        """Return a key, if it is known here and valid."""
        key = self._keys.get(handle)
        if key is None or self._now() > self._until:
            return None
        now = datetime.now(UTC)
        if key.expires_at is not None and key.expires_at <= now:
            return None
        self._used[key.id] = now
        return key

    async def find(self, handle: Handle) -> Key | None:
        """Return a key; None if there is no valid one.

        Raises:
            DatabaseUnavailable: it is not known here, and may yet be there.
        """
        key = self.known(handle)
        if key is not None or handle in self._unknown:
            return key
        found: Key | None = await self._run(lambda session: store.find(session, handle))
        if found is None:
            if len(self._unknown) < _MOST_UNKNOWN:
                self._unknown.add(handle)
            return None
        self._keys |= {handle: found, found.id: found}
        self._used[found.id] = datetime.now(UTC)
        return found

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
        self._keys = {**keys, **{key.id: key for key in keys.values()}}
        self._until = self._now() + KNOWN_SECONDS
        self._unknown.clear()
