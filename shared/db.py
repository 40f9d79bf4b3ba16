"""The database: one engine a process, and `transaction()`, the only commit in the code base."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

import orjson
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from shared.errors import DatabaseUnavailable

# A server that is cut off would hang psycopg2 for ever, where no statement timeout can fire.
_SOCKET: Final = {
    "connect_timeout": 2,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


_NOT_MIGRATED: Final = frozenset({"42P01", "42703"})
"""Undefined table, undefined column: migrations have not run yet, so waiting helps."""

__all__ = ["Database", "Session", "reason"]


class Database:
    """A pool of connections to one PostgreSQL database. Nothing is opened before first use."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int,
        statement_seconds: float,
        application: str,
        pre_ping: bool = True,
        connecting: AbstractContextManager[object] | None = None,
    ) -> None:
        """Prepare the pool.

        Args:
            url: `postgresql+psycopg2://…`.
            pool_size: connections at most.
            statement_seconds: time after which PostgreSQL gives a statement up.
            application: what `pg_stat_activity` shows.
            pre_ping: whether to see before each transaction that the connection is alive. It
                costs a round trip; without it, the first ones after a restart fail.
            connecting: entered while a connection is made.
        """
        self._engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=2,
            pool_pre_ping=pre_ping,
            # jsonb gives 1e29 back as an integer: orjson reads it as the number that was sent.
            json_deserializer=orjson.loads,
            connect_args={
                **_SOCKET,
                "application_name": application,
                "options": f"-c statement_timeout={int(statement_seconds * 1000)} -c timezone=UTC",
            },
        )
        if connecting is not None:

            @event.listens_for(self._engine, "do_connect")
            def _connect(
                dialect: Dialect, _: object, args: list[Any], options: dict[str, Any]
            ) -> Any:
                with connecting:
                    return dialect.connect(*args, **options)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Session]:
        """Yield a session; commit at the end of the block, roll back if it raises.

        Raises:
            DatabaseUnavailable: the database is away, too slow, or ended the transaction for
                a reason that passes (deadlock, shutdown). Doing it again is safe.
        """
        try:
            with Session(self._engine, expire_on_commit=False) as session:
                yield session
                session.commit()
        except (PoolTimeoutError, OperationalError, InterfaceError) as error:
            raise DatabaseUnavailable(reason(error)) from error
        except DBAPIError as error:
            if error.connection_invalidated or _not_migrated(error):
                raise DatabaseUnavailable(reason(error)) from error
            raise

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._engine.dispose()


def _not_migrated(error: DBAPIError) -> bool:
    return isinstance(error, ProgrammingError) and error.orig.pgcode in _NOT_MIGRATED  # type: ignore[union-attr]  # psycopg2's has it


def reason(error: Exception) -> str:
    """Return what an error says in one line, without a statement's parameters."""
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split()) or type(cause).__name__
