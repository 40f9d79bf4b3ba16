"""Runs the migrations: one at a time in the whole cluster, and never waiting long for a lock."""

import sys

from alembic import context
from sqlalchemy import Connection, create_engine, pool, text
from sqlalchemy.exc import OperationalError

from shared.models import Base
from shared.settings import DatabaseSettings, load

_ADVISORY_LOCK = 0x506F7374726F6F6D  # "Postroom"


def run() -> None:
    """Bring the database of `DATABASE_URL` to the wanted migration."""
    with _connect(load(DatabaseSettings).database_url.get_secret_value()) as connection:
        # Two at once: the second waits here, then finds nothing left to do. The lock is the
        # session's, so it goes with the connection, whatever happens.
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        connection.execute(text("SET lock_timeout = '5s'"))
        connection.execute(text("SET statement_timeout = '15min'"))
        connection.commit()
        context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
        with context.begin_transaction():
            context.run_migrations()


def _connect(url: str) -> Connection:
    engine = create_engine(url, poolclass=pool.NullPool, connect_args={"connect_timeout": 10})
    try:
        return engine.connect()
    except OperationalError as error:
        reason = " ".join(str(error.orig).split())
        sys.exit(f"postroom: DATABASE_URL: no connection to the database: {reason}")


if context.is_offline_mode():
    raise SystemExit("postroom: migrations need the database; --sql is not supported")
run()
