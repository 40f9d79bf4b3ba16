"""Keys for tests, made in the database."""

from datetime import UTC, datetime, timedelta
from secrets import token_hex
from uuid import UUID

from shared.access import Limits, Scope, Secret
from shared.db import Database
from shared.store import keys as store
from shared.store.keys import NO_LIMITS, Wanted

SECRET_KEY = token_hex(32)
"""With which the tests' own API signs tokens."""


class Keys:
    """Makes keys of all kinds in one database."""

    def __init__(self, database_url: str) -> None:
        url = database_url.replace("postgresql:", "postgresql+psycopg2:")
        self.database = Database(url, pool_size=1, statement_seconds=10, application="tests")

    def make(self, *scopes: Scope, name: str = "somebody", seconds: float | None = None) -> str:
        """Make a key, which expires so many seconds from now."""
        return self.make_both(*scopes, name=name, seconds=seconds)[1]

    def make_both(
        self,
        *scopes: Scope,
        name: str = "somebody",
        seconds: float | None = None,
        limits: Limits = NO_LIMITS,
    ) -> tuple[UUID, str]:
        end = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
        secret = Secret.new()
        with self.database.transaction() as session:
            return store.create(session, Wanted(name, scopes, end, limits), secret).id, secret.value

    def make_revoked(self, *scopes: Scope) -> str:
        secret = Secret.new()
        with self.database.transaction() as session:  # one: nobody shall see it valid
            assert store.revoke(session, store.create(session, Wanted("x", scopes), secret).id)
        return secret.value

    def close(self) -> None:
        self.database.close()


def make_admin(database_url: str) -> str:
    """Make a key for everything."""
    keys = Keys(database_url)
    try:
        return keys.make(Scope.ADMIN, name="tests")
    finally:
        keys.close()


def bearer(key: str | None) -> dict[str, str]:
    """Return the header that shows a key, if there is one."""
    return {"Authorization": f"Bearer {key}"} if key else {}
