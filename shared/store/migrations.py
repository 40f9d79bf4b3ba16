"""Which migration the database is at."""

from sqlalchemy import text
from sqlalchemy.orm import Session


def current(session: Session) -> str | None:
    """Return the database's migration, or None if it has none yet."""
    if session.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    version: str | None = session.scalar(text("SELECT version_num FROM alembic_version"))
    return version
