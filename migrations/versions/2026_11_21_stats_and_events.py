"""Statistics over time, and the rarer events of documents."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "20261121_stats_and_events"
down_revision: str | None = "20261121_search"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# What was folded before: on the day on which its producer started, which its id, a UUIDv7, says.
_SEED = sa.text("""
    INSERT INTO stats (span, at, category, outcome, n)
    SELECT 'day', date_trunc('day', to_timestamp(CAST(CAST('x' || left(
        replace(CAST(producer_id AS text), '-', ''), 12) AS bit(48)) AS int8) / 1000.0), 'UTC'),
        '', o.outcome, sum(o.n)
    FROM ledger_producers, LATERAL (VALUES ('stored', stored), ('unchanged', unchanged),
        ('superseded', superseded), ('refused', refused), ('failed', failed), ('dead', dead))
        AS o(outcome, n)
    GROUP BY 1, 2, 3, 4 HAVING sum(o.n) <> 0
""")


def upgrade() -> None:
    op.add_column(
        "ledger",
        sa.Column(
            "categories",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
        ),
    )
    op.create_table(
        "stats",
        sa.Column("span", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("span", "at", "category", "outcome", name=op.f("pk_stats")),
    )
    op.execute(_SEED)
    op.create_table(
        "document_events",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=False),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["document_id"],
            ["documents.id"],
            name=op.f("fk_document_events_document_id_documents"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_document_events")),
    )
    op.create_index(
        "ix_document_events_document_id",
        "document_events",
        ["document_id", sa.literal_column("id DESC")],
        unique=False,
    )


def downgrade() -> None:
    op.drop_table("document_events")
    op.drop_table("stats")
    op.drop_column("ledger", "categories")
