"""Data outlives its containers, and the next version's migration.

The last of these tests: it leaves the next version running.
"""

import datetime as dt
import re
import shutil
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from alembic.script import ScriptDirectory

from shared.models import MIGRATION
from tests.compose.conftest import Sent
from tests.compose.project import ROOT, Project
from tests.stack import OUTCOMES, ledger, poll, revisions, stored

NEXT = "99991231_next"
# Slow, so that whoever does not wait for it is seen.
NEXT_MIGRATION = f'''
from alembic import op

revision = "{NEXT}"
down_revision = "{MIGRATION}"


def upgrade() -> None:
    op.execute("ALTER TABLE documents ADD COLUMN next text NOT NULL DEFAULT 'new'")
    op.execute("SELECT pg_sleep(3)")
'''
OVERRIDE = """
services:
  api: {{build: {{context: {checkout}}}}}
  worker: {{build: {{context: {checkout}}}}}
"""


def flowers_page(stack: Project, client: httpx2.Client, task_id: str) -> httpx2.Response:
    login = ("admin", stack.values["FLOWER_PASSWORD"])
    return client.get(f"/flower/task/{task_id}", auth=login)


def numbers(client: httpx2.Client) -> dict[str, int]:
    """Return the account's sums, without what it says of the moment."""
    account = ledger(client)
    return {name: account[name] for name in ("accepted", *OUTCOMES, "in_flight", "void")}


def test_down_and_up_keep_everything(stack: Project, client: httpx2.Client, sent: Sent) -> None:
    task_id = sent.first["task_id"]
    assert flowers_page(stack, client, task_id).status_code == 200
    before, account = revisions(client), numbers(client)
    stack.compose("down")
    assert not stack.compose("ps", "--all", "--quiet")
    stack.up()
    assert revisions(client) == before
    assert numbers(client) == account
    assert "SUCCESS" in flowers_page(stack, client, task_id).text
    answer = client.post("/v1/documents", json={"content": "after all that"}).json()
    stored(client, answer["id"])


@pytest.fixture
def following(stack: Project, tmp_path: Path) -> Project:
    """The same project, built from a checkout of a next version that has one more migration."""
    checkout = tmp_path / "next"
    for folder in ("api", "docker", "migrations", "requirements", "shared", "worker"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, checkout / folder, ignore=unwanted)
    shutil.copy(ROOT / ".dockerignore", checkout)
    (checkout / "migrations" / "versions" / "next.py").write_text(NEXT_MIGRATION)
    models = checkout / "shared" / "models" / "__init__.py"
    models.write_text(models.read_text().replace(f'"{MIGRATION}"', f'"{NEXT}"'))
    override = tmp_path / "next.yml"
    override.write_text(OVERRIDE.format(checkout=checkout))
    return replace(stack, files=(override,))


def test_an_upgrade_migrates_first_and_keeps_everything(
    stack: Project, client: httpx2.Client, sent: Sent, following: Project
) -> None:
    before = revisions(client)
    assert sent.ids <= before.keys()
    following.up("--build")
    assert stack.sql("SELECT version_num FROM alembic_version") == NEXT
    assert stack.sql("SELECT DISTINCT next FROM documents") == "new"
    (migrate,) = stack.containers("migrate")
    assert migrate["State"]["ExitCode"] == 0
    for service in ("api", "worker", "maintenance", "beat", "flower"):
        for container in stack.containers(service):
            assert moment(container, "StartedAt") > moment(migrate, "FinishedAt")
    poll(lambda: client.get("/readyz").json()["status"], lambda status: status == "ok", seconds=15)
    assert revisions(client) == before
    answer = client.post("/v1/documents", json={"content": "stored by the next version"}).json()
    stored(client, answer["id"])
    documents_of_the_previous_migration_stay(following)


def moment(container: dict[str, dict[str, str]], name: str) -> dt.datetime:
    # Nanoseconds are more than Python reads.
    return dt.datetime.fromisoformat(re.sub(r"\.(\d{6})\d*", r".\1", container["State"][name]))


def documents_of_the_previous_migration_stay(following: Project) -> None:
    """Migrate a database with documents from the last but one migration that is ours, if any."""
    script = ScriptDirectory(str(ROOT / "migrations")).get_revision(MIGRATION)
    previous = str(script.down_revision or script.revision)
    following.execute("db", "createdb", "--username=postroom", "previous")
    migrate(following, previous)
    following.sql(
        "INSERT INTO documents (id, revision, content_revision, label_revision, content, metadata,"
        " status, accepted_at, created_at, updated_at) SELECT gen_random_uuid(), n, n, 0,"
        " 'text ' || n, '{}', 'stored', now(), now(), now() FROM generate_series(1, 1000) AS n",
        "previous",
    )
    contents = "SELECT md5(string_agg(id || content, ',' ORDER BY id)), count(*) FROM documents"
    before = following.sql(contents, "previous")
    assert before.endswith("|1000")
    migrate(following, "head")
    assert following.sql("SELECT version_num FROM alembic_version", "previous") == NEXT
    assert following.sql(contents, "previous") == before


def migrate(following: Project, revision: str) -> None:
    password = following.values["POSTGRES_PASSWORD"]
    url = f"DATABASE_URL=postgresql://postroom:{password}@db:5432/previous"
    alembic = ("alembic", "-c", "migrations/alembic.ini", "upgrade", revision)
    following.compose("run", "--rm", "--no-deps", "-T", "--env", url, "migrate", *alembic)
