"""Runs the migrations: one at a time in the whole cluster, and never waiting long for a lock."""

from alembic import context
from sqlalchemy import create_engine, pool, text

from shared.models import Base
from shared.settings import DatabaseSettings, load

_ADVISORY_LOCK = 0x506F7374726F6F6D  # "Postroom"


def run() -> None:
    """Bring the database of `DATABASE_URL` to the wanted migration."""
    url = load(DatabaseSettings).database_url.get_secret_value()
    engine = create_engine(url, poolclass=pool.NullPool, connect_args={"connect_timeout": 10})
    with engine.connect() as connection:
        # Two at once: the second waits here, then finds nothing left to do. The lock is the
        # session's, so it goes with the connection, whatever happens.
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        connection.execute(text("SET lock_timeout = '5s'"))
        connection.execute(text("SET statement_timeout = '15min'"))
        connection.commit()
        context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("postroom: migrations need the database; --sql is not supported")
run()
