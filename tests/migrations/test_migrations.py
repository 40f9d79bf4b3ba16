import os
import subprocess
import sys
from pathlib import Path

import pytest

from local.postgres import Postgres
from shared.db import Database
from shared.models import MIGRATION, Base
from shared.store import migrations

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini"]


def start(url: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env={**os.environ, "DATABASE_URL": url},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def alembic(url: str, *arguments: str) -> str:
    process = start(url, *arguments)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output + errors


def tables(postgres: Postgres, url: str) -> set[str]:
    statement = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    return set(postgres.sql(statement, url.rpartition("/")[2]).splitlines())


def current(url: str) -> str | None:
    database = Database(
        url.replace("postgresql://", "postgresql+psycopg2://"),
        pool_size=1,
        statement_seconds=5,
        application="postroom-test",
    )
    with database.transaction() as session:
        found = migrations.current(session)
    database.close()
    return found


def test_the_constant_names_the_head() -> None:
    assert alembic("postgresql://nowhere/", "heads").split()[0] == MIGRATION


def test_from_nothing_to_the_head_and_back_and_forth(
    postgres: Postgres, empty_database_url: str
) -> None:
    made = set(Base.metadata.tables) | {"alembic_version"}
    assert current(empty_database_url) is None
    alembic(empty_database_url, "upgrade", "head")
    assert tables(postgres, empty_database_url) == made
    assert current(empty_database_url) == MIGRATION
    alembic(empty_database_url, "downgrade", "base")
    assert tables(postgres, empty_database_url) == {"alembic_version"}
    assert current(empty_database_url) is None
    alembic(empty_database_url, "upgrade", "head")
    assert tables(postgres, empty_database_url) == made


def test_long_texts_are_packed_with_lz4_or_not_at_all(
    postgres: Postgres, database_url: str
) -> None:
    name = database_url.rpartition("/")[2]
    setting = "FROM pg_settings WHERE name = 'default_toast_compression'"
    has_lz4 = postgres.sql(f"SELECT 'lz4' = ANY(enumvals) {setting}", name).strip()
    column = "FROM pg_attribute WHERE attrelid = 'documents'::regclass AND attname = 'content'"
    found = postgres.sql(f"SELECT concat(attcompression, attstorage) {column}", name).strip()
    assert found == {"t": "lx", "f": "e"}[has_lz4]


def test_the_models_describe_what_the_migrations_make(database_url: str) -> None:
    assert "No new upgrade operations detected" in alembic(database_url, "check")


def test_a_drift_would_be_noticed(postgres: Postgres, database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    for statement in (
        "ALTER TABLE documents ALTER COLUMN source TYPE varchar(9)",
        "DROP INDEX ix_documents_failed",
        "ALTER TABLE ledger ADD COLUMN more int",
    ):
        postgres.sql(statement, name)
    process = start(database_url, "check")
    output = "".join(process.communicate(timeout=60))
    assert process.returncode != 0
    for drift in ("source", "ix_documents_failed", "more"):
        assert drift in output


def test_two_at_once_both_succeed(postgres: Postgres, empty_database_url: str) -> None:
    both = [start(empty_database_url, "upgrade", "head") for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert current(empty_database_url) == MIGRATION


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://u:hidden@127.0.0.1/x", "DATABASE_URL"),
        ("", "DATABASE_URL"),
        ("postgresql://u:hidden@127.0.0.1:1/x", "Connection refused"),
    ],
)
def test_a_wrong_address_is_one_clear_line(url: str, reason: str, tmp_path: Path) -> None:
    """Without a `.env` that could say it better, so in a folder of its own."""
    process = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(ROOT / "migrations" / "alembic.ini"),
         "upgrade", "head"],
        env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert process.returncode != 0
    (line,) = process.stderr.strip().splitlines()
    assert line.startswith("postroom: ")
    assert reason in line
    assert "hidden" not in line
