from collections.abc import Iterator
from time import monotonic

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError, ProgrammingError

from local.ports import free_ports
from local.postgres import Postgres
from shared.db import Database
from shared.errors import DatabaseUnavailable


def database_at(url: str, *, pool_size: int = 2, statement_seconds: float = 5) -> Database:
    return Database(
        url.replace("postgresql://", "postgresql+psycopg2://"),
        pool_size=pool_size,
        statement_seconds=statement_seconds,
        application="postroom-test-db",
    )


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    database = database_at(empty_database_url)
    with database.transaction() as session:
        session.execute(text("CREATE TABLE t (n int PRIMARY KEY)"))
    yield database
    database.close()


def numbers(database: Database) -> list[int]:
    with database.transaction() as session:
        return list(session.scalars(text("SELECT n FROM t ORDER BY n")))


def test_a_block_is_committed_at_its_end(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("INSERT INTO t VALUES (1)"))
        assert numbers(database) == []
    assert numbers(database) == [1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_raises_is_rolled_back(database: Database, error: type[BaseException]) -> None:
    def insert() -> None:
        with database.transaction() as session:
            session.execute(text("INSERT INTO t VALUES (1)"))
            raise error

    with pytest.raises(error):
        insert()
    assert numbers(database) == []


def test_the_session_is_in_utc_and_says_who_it_is(database: Database) -> None:
    with database.transaction() as session:
        assert session.scalar(text("SHOW timezone")) == "UTC"
        assert session.scalar(text("SHOW application_name")) == "postroom-test-db"


def test_mistakes_of_ours_stay_what_they_are(database: Database) -> None:
    with pytest.raises(ProgrammingError), database.transaction() as session:
        session.execute(text("SELECT FROM WHERE"))
    with pytest.raises(DataError), database.transaction() as session:
        session.execute(text("SELECT CAST('x' AS uuid)"))


def test_a_database_without_its_tables_is_not_there_yet(database: Database) -> None:
    """Its migrations are still to run: what waits for the database waits for them, too."""
    for statement in ("SELECT n FROM nowhere", "SELECT nothing FROM t"):
        with pytest.raises(DatabaseUnavailable), database.transaction() as session:
            session.execute(text(statement))


def test_a_slow_statement_is_given_up(empty_database_url: str) -> None:
    database = database_at(empty_database_url, statement_seconds=0.1)
    with (
        pytest.raises(DatabaseUnavailable, match="statement timeout"),
        database.transaction() as session,
    ):
        session.execute(text("SELECT pg_sleep(30)"))
    database.close()


def test_a_connection_that_was_ended_meanwhile_is_replaced(database: Database) -> None:
    with database.transaction() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
    other = database_at(str(database._engine.url.render_as_string(hide_password=False)))
    with other.transaction() as session:
        session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    assert numbers(database) == []

    def lose_it() -> None:
        with database.transaction() as session:
            own = session.scalar(text("SELECT pg_backend_pid()"))
            with other.transaction() as killer:
                killer.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": own})
            session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        lose_it()
    assert numbers(database) == []
    other.close()


def test_a_busy_pool_is_waited_for_two_seconds_only(empty_database_url: str) -> None:
    database = database_at(empty_database_url, pool_size=1)
    start = monotonic()
    with database.transaction() as first:
        first.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable), database.transaction() as second:
            second.execute(text("SELECT 1"))
    assert monotonic() - start < 5
    database.close()


def test_nobody_listening_is_unavailable() -> None:
    database = database_at(f"postgresql://u:secret@127.0.0.1:{free_ports(1)[0]}/x")
    with pytest.raises(DatabaseUnavailable) as away, database.transaction() as session:
        session.execute(text("SELECT 1"))
    assert "secret" not in str(away.value)
    assert "\n" not in str(away.value)
    database.close()


def test_a_database_that_is_killed_is_unavailable_until_it_is_back(
    own_postgres: Postgres,
) -> None:
    database = database_at(own_postgres.url_of("postgres"))
    with database.transaction() as session:
        session.execute(text("SELECT 1"))
    own_postgres.kill()
    with pytest.raises(DatabaseUnavailable), database.transaction() as session:
        session.execute(text("SELECT 1"))
    own_postgres.start()
    own_postgres.wait_ready()
    with database.transaction() as session:
        assert session.scalar(text("SELECT 1")) == 1
    database.close()


def test_two_that_wait_for_each_other_are_told_to_try_again(database: Database) -> None:
    from threading import Barrier, Thread  # noqa: PLC0415

    with database.transaction() as session:
        session.execute(text("INSERT INTO t VALUES (1), (2)"))
    both = Barrier(2)
    refused: list[str] = []

    def lock(first: int, second: int) -> None:
        statement = text("SELECT n FROM t WHERE n = :n FOR UPDATE")
        try:
            with database.transaction() as session:
                session.execute(statement, {"n": first})
                both.wait(10)
                session.execute(statement, {"n": second})
        except DatabaseUnavailable as error:
            refused.append(str(error))

    threads = [Thread(target=lock, args=each) for each in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    (reason,) = refused
    assert "deadlock" in reason
