"""Full-text search: the index, the documents that wait for it, how texts become words.

All documents that there are wait from now on, the newest first.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "20261121_search"
down_revision: str | None = "20261121_lists"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# A configuration of our own, so that an installation can have another language without a change
# of the code: docs/search.md.
_CONFIGURATION = "CREATE TEXT SEARCH CONFIGURATION postroom (COPY = pg_catalog.english)"

_BACKFILL = """
    INSERT INTO index_queue (ids)
    SELECT array_agg(id) FROM (
        SELECT id, (row_number() OVER (ORDER BY created_at DESC, id DESC) - 1) / 500 AS chunk
        FROM documents WHERE content IS NOT NULL) numbered
    GROUP BY chunk ORDER BY chunk
"""


def upgrade() -> None:
    op.execute(_CONFIGURATION)
    op.create_table(
        "document_search",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("content_revision", sa.BigInteger(), nullable=False),
        sa.Column("tsv", postgresql.TSVECTOR(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_document_search")),
    )
    op.create_index(
        "ix_document_search_newest",
        "document_search",
        [sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
    )
    op.create_index(
        "ix_document_search_tsv",
        "document_search",
        ["tsv"],
        unique=False,
        postgresql_using="gin",
        postgresql_with={"fastupdate": "on"},
    )
    op.create_table(
        "index_queue",
        sa.Column("n", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("ids", postgresql.ARRAY(sa.Uuid()), nullable=False),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_index_queue")),
    )
    op.execute(_BACKFILL)


def downgrade() -> None:
    op.drop_table("index_queue")
    op.drop_table("document_search")
    op.execute("DROP TEXT SEARCH CONFIGURATION postroom")
